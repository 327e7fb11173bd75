"""What verifier_experiment.py leaves beside a pool and sweeps: tables, figures, and a text.

    text = report(load_pool(folder), [sweep_folder], budgets=(1, 2, 4, 8, 16))

writes scaling.csv, matrix.csv and the other tables of src/reports/pool_study.py with their figures
into the pool's folder, and those of src/reports/sweep.py, with the pool's best-of-n beside them,
into each sweep's, anew from the records alone.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from src.reports import pool_figures, pool_matrices, sentences, sweep
from src.reports.figure import DIGEST_KEY, save
from src.reports.pool_study import Study, study_pool
from src.reports.table import (
    Column,
    Row,
    brackets,
    digits_of,
    interval_of,
    layout,
    ruled,
    shown,
    wrapped,
    write_csv,
)
from src.runs.measures import Verdict
from src.runs.pool import Pool
from src.runs.records import records_digest

RANKS = 0.5  # a tau from which three pairs of clips in four are ordered alike
RELATIONS = {"own": "own number", "shares data": "shares data"}
SHOWN_BUDGETS = 6  # at most, as far as they fit the width
FIGURES: dict[str, Callable[[Study], Figure]] = {
    "scaling": pool_figures.scaling_figure,
    "matrix": pool_matrices.matrix_figure,
    "selectors": pool_figures.selectors_figure,
    "agreement": pool_matrices.agreement_figure,
    "transfer": pool_figures.transfer_figure,
    "prefix": pool_figures.prefix_figure,
}


def report(
    pool: Pool | None, sweeps: Sequence[Path], budgets: Sequence[int], output: Path | None = None
) -> str:
    """Write tables and figures of a pool and of sweeps; returns the text that says what they show.

    sweeps: folders. output: one folder for all, instead of their own.
    Raises StatsError and RunFolderError.
    """
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    texts = []
    if pool is not None:
        study, folder = study_pool(pool, budgets), output or pool.folder
        write_tables(study, folder)
        digest = {DIGEST_KEY: records_digest(pool.folder)}
        for name, draw in FIGURES.items():
            save(draw(study), folder / f"{name}.png", digest)
        texts.append(pool_text(study))
    texts += [sweep.report(folder, pool, budgets, output) for folder in sweeps]
    return "\n\n".join(texts)


def write_tables(study: Study, output: Path) -> None:
    """A CSV file for each table; none for one without rows."""
    for name, rows in study.tables.items():
        path = output / f"{name}.csv"
        if rows:
            write_csv(path, rows)
        else:
            path.unlink(missing_ok=True)


def pool_text(study: Study) -> str:
    """Under each measure the selectors: means by N, and the gain in deviations; then sentences."""
    prompts, size = len(study.pool.prompts), study.pool.size
    head = [
        study.title,
        f"{prompts} prompts x {size} candidates of {study.pool.duration:g} s, {prompts * size:,} "
        "clips: all of what follows comes from them, exactly.",
    ]
    return "\n".join([*wrapped(head), *ruled(_gains(study)), *wrapped(findings(study))])


def findings(study: Study) -> list[str]:
    """What the study shows and does not, in sentences."""
    prompts, size = len(study.pool.prompts), study.pool.size
    lines = [sentences.OF_POOLS, *_judged(study), *_over_optimised(study), *_prefixes(study)]
    lines.append(sentences.few_prompts(prompts))
    if study.largest * 2 > size > 1:
        lines.append(sentences.small_pool(size, study.largest))
    if study.dropped:
        lines.append(sentences.beyond_pool(study.dropped, size))
    for name, reasons in study.refused.items():
        lines.append(sentences.without_numbers(name, reasons, prompts))
    lines += [f"{m.name}: {m.note}." for m in study.measures.values() if m.note]
    return [*lines, *sentences.weights(study.measures[name] for name in study.shown)]


def _gains(study: Study) -> list[str]:
    """The table, with as many budgets as fit: the first, and the largest ones."""
    groups: dict[str, list[Row]] = {}
    for name in study.shown:
        measure, own = study.measures[name], study.rows("scaling", measure=name)
        digits = digits_of(row["mean"] for row in own)
        means: dict[str, dict[str, str]] = defaultdict(dict)  # by selector and heading
        for row in own:
            means[row["selector"]][f"N={row['n']}"] = f"{row['mean']:.{digits}f}"
        rows = study.rows("matrix", measure=name)
        heading = f"{name} {measure.arrow}  {measure.role}"
        groups[heading] = [{**row, **means[row["selector"]]} for row in rows]
    first = [
        Column("selector", lambda row: f"  {row['selector']}", left=True),
        Column("prompts", shown("prompts")),
    ]
    last = [
        Column(f"gain at {study.largest} (sd)", lambda row: brackets(interval_of(row, "gain_sd"))),
        Column("", lambda row: RELATIONS.get(row["relation"], row["verdict"] or ""), left=True),
    ]
    budgets = [Column(f"N={n}", shown(f"N={n}")) for n in study.budgets]
    counts = range(min(SHOWN_BUDGETS, len(budgets)), 0, -1)
    choices = [[*budgets[:1], *budgets[1:][len(budgets) - count :]] for count in counts]
    return layout(groups, *([*first, *chosen, *last] for chosen in choices))


def _judged(study: Study) -> Iterator[str]:
    """Whether judges follow the selectors, and which of these serves the primary judge best."""
    gains: dict[str, float] = {}
    judged: dict[Verdict | None, list[str]] = defaultdict(list)
    for selector in study.selectors:
        own = study.row("matrix", selector=selector, measure=selector)
        if own is None or own["gain_sd"] is None:
            yield sentences.SAME_SCORES.format(selector)
            continue
        gains[selector] = own["gain_sd"]
        judge = study.primary(selector)
        row = study.row("matrix", selector=selector, measure=judge)
        if row is None or row["gain_sd"] is None:
            judged[None].append(selector)
        else:
            judged[row["verdict"]].append(f"{selector} ({judge} {row['gain_sd']:+.2f})")
    if gains:
        yield sentences.selectors_judged(study.largest, gains, judged)
    for judge in study.judges[:1]:
        yield from _best(study, judge)
    if not study.judges:
        yield sentences.NO_JUDGE


def _best(study: Study, judge: str) -> Iterator[str]:
    free = study.rows("matrix", measure=judge, relation="")
    known = {row["selector"]: found for row in free if (found := interval_of(row, "gain_sd"))}
    best, *others = sorted(known, key=lambda name: -known[name].mean) or [""]
    rows = study.rows("selectors", judge=judge, n=study.largest)
    verdicts = {(row["selector"], row["other"]): row["verdict"] for row in rows}
    clearly = [
        name
        for name in others
        if verdicts.get((best, name)) == "better" or verdicts.get((name, best)) == "worse"
    ]
    rest = [name for name in others if name not in clearly]
    if others:
        yield sentences.serves_best(judge, best, known[best], clearly, rest)


def _over_optimised(study: Study) -> Iterator[str]:
    changes = {
        f"{row['selector']} to {row['measure']}": change
        for row in study.rows("transfer", n=study.largest)
        if row["relation"] != "own" and row["measure"] in study.judges
        if (change := interval_of(row, "change", "change_"))
    }
    if changes:
        falls = {pair: change for pair, change in changes.items() if change.side < 0}
        yield sentences.over_optimisation(falls, len(changes))
    losses = {
        f"{row['selector']} by {row['measure']} from N = {row['best_n']}": lost
        for row in study.rows("matrix")
        if row["measure"] in study.judges and row["best_n"] > 1
        if (lost := interval_of(row, "since_best", "since_")) and lost.side < 0
    }
    if losses:
        yield sentences.harm(losses, study.largest)


def _prefixes(study: Study) -> Iterator[str]:
    """At which step a beam search could start to prune."""
    starts: dict[float, list[str]] = defaultdict(list)
    never: dict[str, str] = {}
    for verifier in study.selectors:
        rows = study.rows("prefix", verifier=verifier, measure=verifier)
        known = {row["seconds"]: tau for row in rows if (tau := interval_of(row, "tau"))}
        low = {at: tau.low for at, tau in known.items()}
        sure = [at for at in low if all(low[later] >= RANKS for later in low if later >= at)]
        if sure:
            starts[min(sure)].append(verifier)
        elif known:
            best = max(known, key=lambda seconds: known[seconds].mean)
            never[verifier] = f"{brackets(known[best])} at {best:g} s"
    if starts or never:
        yield sentences.first_prune(dict(sorted(starts.items())), never)
