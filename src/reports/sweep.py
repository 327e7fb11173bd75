"""What verifier_experiment.py leaves beside a sweep of tree searches: cost.csv, cost.png, a text.

    text = report(sweep_folder, load_pool(pool_folder), budgets=(1, 2, 4, 8, 16))

makes them anew, from the records alone; the pool's best-of-n stands beside the sweep's searches.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from src.reports import sentences
from src.reports.figure import DIGEST_KEY, save
from src.reports.sweep_figure import cost_figure
from src.reports.sweep_study import Sweep, cell_of, study_sweep
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
from src.runs.measures import Measure, Verdict
from src.runs.pool import Pool
from src.runs.records import records_digest

POOL_DIGEST_KEY = f"Pool-{DIGEST_KEY}"  # in figures of a sweep that show a pool as well


def report(
    folder: Path, pool: Pool | None, budgets: Sequence[int], output: Path | None = None
) -> str:
    """Write a sweep's table and figure; returns the text that says what they show.

    budgets: N of the pool's best-of-n. output: instead of the sweep's folder.
    Raises StatsError and RunFolderError.
    """
    study = study_sweep(folder, pool, budgets)
    write_table(study, output or folder)
    digests = {DIGEST_KEY: records_digest(folder)}
    if pool is not None:
        digests[POOL_DIGEST_KEY] = records_digest(pool.folder)
    save(cost_figure(study), (output or folder) / "cost.png", digests)
    return sweep_text(study)


def write_table(study: Sweep, output: Path) -> None:
    write_csv(output / "cost.csv", study.rows)


def sweep_text(study: Sweep) -> str:
    """Under each measure the cells by cost; then what to know."""
    lines: list[str] = []
    for measure in study.measures:
        rows = [row for row in study.rows if row["measure"] == measure.name]
        if not rows:
            continue
        rows.sort(key=lambda row: (row["frames"], row["seconds"]))
        role = measure.role if measure.is_judge else "own verifier: no evidence"
        lines += ["", f"{measure.name} {measure.arrow}  {role}, {rows[0]['prompts']} prompts"]
        lines += _table(rows, digits_of(row["mean"] for row in rows), measure.is_judge)
    said = [line for measure in study.measures for line in _at_equal_frames(study, measure)]
    notes = [sentences.OF_COSTS, *said, *study.notes]
    return "\n".join([*wrapped([study.title]), *ruled(lines[1:]), *wrapped(notes)])


def _table(rows: Sequence[Row], digits: int, is_judge: bool) -> list[str]:
    """Where it is too wide, differences to one sample go without intervals, then the verdicts,
    which intervals imply."""
    numbers = [
        Column("", _label, left=True),
        Column("frames", shown("frames", ",.0f")),
        Column("seconds", shown("seconds", ".3g")),
        Column("value", shown("mean", f".{digits}f")),
    ]
    gain = Column("to one sample", _difference("gain", "", digits), left=True)
    no_ends = Column("to one sample", shown("gain", f"+.{digits}f"), left=True)
    over = Column("to equal frames", _difference("over_best_of_n", "over_", digits), left=True)
    verdict = [Column("", lambda row: row["verdict"] or "", left=True)] if is_judge else []
    widest, narrowest = [*numbers, gain, over, *verdict], [*numbers, no_ends, over]
    return layout(rows, widest, [*narrowest, *verdict], narrowest)


def _difference(name: str, prefix: str, digits: int) -> Callable[[Row], str]:
    return lambda row: brackets(interval_of(row, name, prefix), digits)


def _label(row: Row) -> str:
    front = "*" * row["front_frames"] + "+" * row["front_seconds"]
    step = "" if row["step_size"] is None else f" {row['step_size']:g}s"
    source = " (pool)" if row["source"] == "pool" else ""
    return f"{front:2} {cell_of(row).name}{step}{source}"


def _at_equal_frames(study: Sweep, measure: Measure) -> Iterator[str]:
    """Whether tree searches beat best-of-n with as many frames."""
    verdicts: dict[str, list[Verdict]] = defaultdict(list)
    for row in study.rows:
        found = interval_of(row, "over_best_of_n", "over_")
        if row["measure"] == measure.name and found is not None:
            verdicts[row["method"]].append(measure.verdict(found))
    if verdicts:
        yield sentences.at_equal_frames(measure, verdicts)
