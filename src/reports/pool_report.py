"""The report of a pool and of a sweep of tree searches: CSV files, figures, and a text.

    python -m src.reports.pool_report results/pool-builtin-m32-1a2b3c4d --sweep results/sweep-..

makes it again from records alone, into the pool's and the sweeps' folders (or --output).
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from src.reports.benchmark_figure import DIGEST_KEY
from src.reports.cost_figure import cost_figure
from src.reports.cost_study import CostStudy, cost_study
from src.reports.cost_text import cost_text
from src.reports.pool_figures import prefix_figure, save, scaling_figure, transfer_figure
from src.reports.pool_matrices import agreement_figure, matrix_figure
from src.reports.pool_selectors import selector_rows, selectors_figure
from src.reports.pool_study import Pair, Study, study_pool
from src.reports.pool_text import study_text
from src.reports.text import write_csv
from src.runs.records import RunFolderError, records_digest
from src.stats.best_of_n import kl_bound
from src.stats.intervals import Interval, StatsError

if TYPE_CHECKING:
    from src.runs.pool import Pool

BUDGETS = (1, 2, 4, 8, 16)
POOL_DIGEST_KEY = f"Pool-{DIGEST_KEY}"  # in figures of a sweep that show a pool as well
SCALING_COLUMNS = (
    *("selector", "measure", "n", "mean", "gain", "low", "high", "own", "prompts"),
    *("shares_data", "higher_is_better"),
)
MATRIX_COLUMNS = (
    *("selector", "measure", "n", "gain_sd", "low", "high", "own", "shares_data", "prompts"),
)
AGREEMENT_COLUMNS = ("a", "b", "tau", "low", "high", "prompts")
TRANSFER_COLUMNS = (
    *("selector", "measure", "n", "kl_bound", "sqrt_kl", "transfer", "low", "high", "reason"),
    *("change", "change_low", "change_high", "own", "shares_data", "prompts"),
)
PREFIX_COLUMNS = ("verifier", "measure", "seconds", "tau", "low", "high", "prompts")
FIT_COLUMNS = (
    *("selector", "measure", "a", "b", "b_low", "b_high", "r2", "r2_log2", "own", "prompts"),
)
SELECTOR_COLUMNS = ("judge", "n", "selector", "other", "difference", "low", "high")
COST_COLUMNS = (
    *("method", "source", "n", "beam_width", "lookahead_k", "step_size", "measure", "own"),
    *("prompts", "seeds", "frames", "seconds", "mean", "gain", "low", "high"),
    *("best_of_n", "over_best_of_n", "over_low", "over_high", "front_frames", "front_seconds"),
)

POOL_FIGURES: dict[str, Callable[[Study], Figure]] = {
    "scaling": scaling_figure,
    "matrix": matrix_figure,
    "selectors": selectors_figure,
    "agreement": agreement_figure,
    "transfer": transfer_figure,
    "prefix": prefix_figure,
}


def report(
    pool: "Pool | None", sweeps: Sequence[Path], budgets: Sequence[int], output: Path | None = None
) -> str:
    """Write CSV files and figures; returns the text that says what they show.

    pool: scaling, matrix, selectors, agreement, transfer, prefix, fits, into its folder; sweeps,
    folders: cost, with the pool's best-of-n beside it, into their own. output: one folder for all.
    Raises StatsError and RunFolderError.
    """
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    parts = [] if pool is None else [pool_report(pool, output or pool.folder, budgets)]
    parts += [cost_report(pool, sweep, output or sweep, budgets) for sweep in sweeps]
    return "\n\n".join(parts)


def pool_report(pool: "Pool", output: Path, budgets: Sequence[int]) -> str:
    """What a pool says. Files: see `report`."""
    study = pool_tables(pool, output, budgets)
    digest = {DIGEST_KEY: records_digest(pool.folder)}
    for name, draw in POOL_FIGURES.items():
        save(draw(study), output / f"{name}.png", digest)
    return study_text(study)


def pool_tables(pool: "Pool", output: Path, budgets: Sequence[int]) -> Study:
    """The CSV files of `pool_report`, and the study that they are of."""
    study = study_pool(pool, budgets)
    for name, columns, rows in (
        ("scaling", SCALING_COLUMNS, _scaling_rows(study)),
        ("matrix", MATRIX_COLUMNS, _matrix_rows(study)),
        ("agreement", AGREEMENT_COLUMNS, _agreement_rows(study)),
        ("transfer", TRANSFER_COLUMNS, _transfer_rows(study)),
        ("prefix", PREFIX_COLUMNS, _prefix_rows(study)),
        ("fits", FIT_COLUMNS, _fit_rows(study)),
        ("selectors", SELECTOR_COLUMNS, _selector_rows(study)),
    ):
        write_csv(output / f"{name}.csv", [columns, *rows])
    return study


def cost_report(pool: "Pool | None", sweep: Path, output: Path, budgets: Sequence[int]) -> str:
    """What a sweep's searches give for their cost: cost.csv and cost.png."""
    costs = cost_tables(pool, sweep, output, budgets)
    digests = {DIGEST_KEY: records_digest(sweep)}
    if pool is not None:
        digests[POOL_DIGEST_KEY] = records_digest(pool.folder)
    save(cost_figure(costs), output / "cost.png", digests)
    return cost_text(costs)


def cost_tables(
    pool: "Pool | None", sweep: Path, output: Path, budgets: Sequence[int]
) -> CostStudy:
    """The CSV file of `cost_report`, and what it is of."""
    costs = cost_study(pool, sweep, budgets)
    write_csv(output / "cost.csv", [COST_COLUMNS, *_cost_rows(costs)])
    return costs


def _scaling_rows(study: Study) -> Iterable[Sequence[Any]]:
    for (s, m), pair in study.pairs.items():
        better = study.measures[m].higher_is_better
        for point in pair.points:
            values = _numbers(point.mean, *point.gain)
            own, shares = _marks(pair)
            yield [s, m, point.n, *values, own, len(pair.prompts), shares, better]


def _matrix_rows(study: Study) -> Iterable[Sequence[Any]]:
    for (s, m), pair in study.pairs.items():
        yield [s, m, study.largest, *_ends(pair.standard), *_marks(pair), len(pair.prompts)]


def _agreement_rows(study: Study) -> Iterable[Sequence[Any]]:
    for (a, b), found in study.agreement.items():
        yield [a, b, *_ends(found.tau), found.prompts]


def _transfer_rows(study: Study) -> Iterable[Sequence[Any]]:
    for (s, m), pair in study.pairs.items():
        for t in pair.transfers:
            kl = _numbers(kl_bound(t.n), t.sqrt_kl)
            marks = (*_marks(pair), len(pair.prompts))
            yield [s, m, t.n, *kl, *_ends(t.ratio), t.reason, *_ends(pair.change), *marks]


def _prefix_rows(study: Study) -> Iterable[Sequence[Any]]:
    for p in study.prefixes:
        found = p.agreement
        yield [p.verifier, p.measure, f"{p.seconds:g}", *_ends(found.tau), found.prompts]


def _fit_rows(study: Study) -> Iterable[Sequence[Any]]:
    for (s, m), pair in study.pairs.items():
        if pair.fit is not None and pair.slope is not None:
            slope = (pair.fit.b, pair.slope.low, pair.slope.high)
            values = _numbers(pair.fit.a, *slope, pair.fit.r2, pair.fit.r2_log2)
            yield [s, m, *values, pair.relation == "own", len(pair.prompts)]


def _selector_rows(study: Study) -> Iterable[Sequence[Any]]:
    for *compared, found in selector_rows(study):
        yield [*compared, *_ends(found)]


def _cost_rows(costs: CostStudy) -> Iterable[Sequence[Any]]:
    for p in costs.points:
        cell = p.cell
        optional = (cell.beam_width, cell.lookahead_k, cell.step_size)
        known = ["" if value is None else f"{value:g}" for value in optional]
        spent = _numbers(p.frames, p.seconds, p.mean)
        yield [
            *(cell.method, cell.source, cell.n, *known, p.measure, p.own, p.prompts, p.seeds),
            *(*spent, *_ends(p.gain), p.matched or "", *_ends(p.over_matched), *p.on_front),
        ]


def _marks(pair: Pair) -> tuple[bool, bool]:
    return pair.relation == "own", pair.relation == "shares data"


def _ends(found: Interval | None) -> list[str]:
    return _numbers(*found) if found is not None else [""] * 3


def _numbers(*values: float) -> list[str]:
    """Six digits, and nothing for what is no number."""
    return [f"{value:.6g}" if math.isfinite(value) else "" for value in values]


def main(arguments: Sequence[str] | None = None) -> int:
    from src.runs.pool import PoolError, load_pool

    parser = argparse.ArgumentParser(prog="python -m src.reports.pool_report", description=__doc__)
    parser.add_argument("pool", type=Path, nargs="?", help="a pool's folder")
    parser.add_argument("--sweep", type=Path, nargs="+", default=[], help="of tree searches")
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS, help="N, or several")
    parser.add_argument("--sums", nargs="+", default=[], help="of the pool's verifiers: tags+pmi")
    parser.add_argument("--output", type=Path, help="one folder for all files")
    asked = parser.parse_args(arguments)
    if asked.pool is None and not asked.sweep:
        parser.error("name a pool's folder, --sweep, or both")
    try:
        pool = load_pool(asked.pool, asked.sums) if asked.pool else None
        text = report(pool, asked.sweep, asked.budgets, asked.output)
    except (RunFolderError, PoolError, StatsError) as error:
        parser.exit(5, f"{error}\n")
    sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
