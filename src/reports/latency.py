"""What latency_experiment.py leaves in a run's folder besides records: tables and figures.

    text, failed = report(Path("results/latency-builtin-perplexity-1a2b3c4d"))

writes summary.csv, costs.csv, lines.csv, latency.png and cost.png anew, from the records alone.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from src.methods import SearchCell
from src.reports import sentences
from src.reports.figure import DIGEST_KEY, save
from src.reports.latency_figure import COST, LATENCY, cost_figure, latency_figure
from src.reports.latency_study import COST_COLUMNS, TIMED, Study, study_latency
from src.reports.table import (
    ABSENT,
    Column,
    Row,
    brackets,
    figures,
    interval_of,
    is_absent,
    layout,
    ruled,
    shown,
    wrapped,
    write_csv,
)
from src.runs.records import records_digest
from src.stats.intervals import MIN_REPETITIONS
from src.stats.timing import QUIET_LOAD

FEW_REPETITIONS = 5  # resampling fewer gives intervals that are too narrow


def report(folder: Path) -> tuple[str, bool]:
    """Write a run's tables and figures. Returns the text, and whether prompts failed.

    Raises RunFolderError.
    """
    study = study_latency(folder)
    write_tables(study, folder)
    if study.cells:
        digest = {DIGEST_KEY: records_digest(folder)}
        save(latency_figure(study), folder / LATENCY, digest)
        save(cost_figure(study, RATIOS), folder / COST, digest)
    return latency_text(study), bool(study.failed)


def write_tables(study: Study, output: Path) -> None:
    """summary.csv: a row a cell. costs.csv: a row a cell that has something to be compared with.
    lines.csv: a row a method. Seconds are a prompt's; low and high end a 95% interval; what is not
    known is empty."""
    named = ("cell", "method", "candidates")
    write_csv(output / "summary.csv", study.cells, header=named)
    write_csv(output / "costs.csv", study.costs, header=(*named, *COST_COLUMNS))
    write_csv(output / "lines.csv", study.lines, header=("method",))


def latency_text(study: Study) -> str:
    """What each cell took, where its time went, and what it costs beside others."""
    title, notes = study.manifest["title"], wrapped(findings(study))
    if not study.cells:
        return "\n".join([*wrapped([title]), "No repetition is finished.", *notes])
    used = [s for s in TIMED if any(row[f"{s}_seconds"] for row in study.cells)]
    stages = [Column(s, _figures(f"{s}_seconds", decimals=3)) for s in used]
    beside = [row for row in study.costs if row["against"]]
    equal = [row for row in study.costs if row["equal_frames_n"]]
    lines: list[str] = []
    for rows, columns in (
        (study.cells, SECONDS),
        (study.cells, [Column("seconds by stage", shown("cell"), left=True), *stages]),
        (beside, RATIOS),
        (equal, EQUALS),
        (study.lines, LINES),
    ):
        lines += ["", *layout(rows, columns)] if rows else []
    return "\n".join([*wrapped([title]), *ruled(lines[1:]), *notes])


def _figures(key: str, decimals: int = 6) -> Callable[[Row], str]:
    return lambda row: ABSENT if is_absent(row[key]) else figures(row[key], decimals)


def _bracketed(
    key: str, prefix: str = "", absent: str = ABSENT, unit: float = 1
) -> Callable[[Row], str]:
    """Such as "1.23 [1.20, 1.31]"; without brackets where there is no interval."""

    def write(row: Row) -> str:
        found = interval_of(row, key, prefix)
        return brackets(found, write=lambda x: figures(x / unit)) if found else absent

    return write


def _on_a_line(key: str, prefix: str, unit: float = 1) -> Callable[[Row], str]:
    write = _bracketed(key, prefix, unit=unit)
    return lambda row: write(row) if row["verdict"] == "a line" else ABSENT


def _megabytes(*keys: str) -> Callable[[Row], str]:
    """Of the first that is known."""

    def write(row: Row) -> str:
        known = [row[key] for key in keys if row[key] is not None]
        return f"{known[0] / 1e6:,.0f}" if known else ABSENT

    return write


SECONDS = (
    Column("per prompt", shown("cell"), left=True),
    Column("frames", shown("frames", ",")),
    Column("clips", shown("clips", ",")),
    Column("MB up", lambda row: f"{row['uploaded_bytes'] / 1e6:.1f}"),
    Column("seconds", _figures("seconds")),
    Column(
        "quartiles",
        lambda row: f"{figures(row['lower_quartile'])} - {figures(row['upper_quartile'])}",
    ),
    Column("RTF", _figures("real_time_factor")),
    # The GPU's where there is one: what a search is short of.
    Column("peak MB", _megabytes("gpu_bytes", "resident_bytes")),
    Column("server MB", _megabytes("server_bytes")),
)
RATIOS = (
    Column("cost of", shown("cell"), left=True),
    Column("as a multiple of", shown("against"), left=True),
    Column("claimed", shown("claimed_frames", "g")),
    Column("frames", shown("frames", ".3g")),
    Column("clips", shown("clips", ".3g")),
    Column("seconds", _bracketed("seconds")),
    Column("verdict", shown("verdict"), left=True),
)
EQUALS = (
    Column("best_of_n instead of", shown("cell"), left=True),
    Column("at equal frames: N", _figures("equal_frames_n")),
    Column("its time x", _bracketed("equal_frames_seconds", "equal_frames_", "not measured")),
    Column("at equal seconds: N", _bracketed("equal_seconds_n", "equal_seconds_", "not measured")),
)
LINES = (
    Column("seconds over frames", shown("method"), left=True),
    Column("fixed s", _on_a_line("fixed_seconds", "fixed_")),
    Column("ms a frame", _on_a_line("seconds_per_frame", "per_frame_", unit=1e-3)),
    Column("off by up to", shown("worst_residual", ".1%")),
    Column("verdict", shown("verdict"), left=True),
)


def findings(study: Study) -> list[str]:
    """What the tables do not say, or what matters most in them, in sentences."""
    measured = [*_how(study), *_of_costs(study)] if study.cells else []
    return [*measured, *_left_out(study), *_of_machine(study)]


def _how(study: Study) -> Iterable[str]:
    counts = len(study.repetitions), len(study.prompts)
    yield sentences.seconds(*counts, study.settings["batch"])
    if any(row["equal_frames_n"] for row in study.costs):
        yield sentences.EQUALS
    searches = len(study.cells) * counts[0] * counts[1]
    yield sentences.costs(searches, study.off_plan)


def _of_costs(study: Study) -> Iterable[str]:
    for method in study.methods:
        beside = [row for row in study.costs if row["method"] == method and row["against"]]
        if any(row["frames"] != row["claimed_frames"] for row in beside):
            yield sentences.claim(method, beside)
    parts = []
    for method in study.methods:
        rows = [row for row in study.cells if row["method"] == method]
        row = max(rows, key=lambda row: row["candidates"])
        stage = max(TIMED, key=lambda name: row[f"{name}_seconds"])
        parts.append(f"{stage} {row[f'{stage}_seconds'] / row['seconds']:.0%} of {row['cell']}")
    yield f"The largest part of the time: {'; '.join(parts)}."
    if any(row["verdict"] == "no line" for row in study.lines):
        yield sentences.NO_LINE


def _left_out(study: Study) -> Iterable[str]:
    repetitions = len(study.repetitions)
    pruned = any(SearchCell.from_record(c).prunes for c in study.manifest["cells"])
    if study.cells and pruned and not any(row["against"] for row in study.costs):
        yield sentences.NOT_COMPARED
    if study.cells and repetitions < MIN_REPETITIONS:
        yield sentences.NO_SPREAD
    elif study.cells and repetitions < FEW_REPETITIONS:
        yield f"{repetitions} repetitions are too few to rely on these intervals."
    if skipped := [SearchCell.from_record(cell).name for cell in study.manifest["skipped"]]:
        yield f"Skipped, since M does not divide N: {', '.join(skipped)}."
    if study.unfinished:
        yield f"Left out, since unfinished: repetition {', '.join(map(str, study.unfinished))}."
    if study.failed:
        lost = sorted({record["prompt_id"] for record in study.failed})
        yield sentences.left_out(lost, study.failed[0]["reason"])
    if study.changed:
        yield sentences.changed(study.changed)


def _of_machine(study: Study) -> Iterable[str]:
    if not study.starts:
        return
    last = study.starts[-1]
    yield sentences.machine(last)
    before = max(start["load_average"][0] for start in study.starts)
    server = last["cpu_count"] if study.settings["server"] == "auto" else 0
    own = max(last["torch_threads"], server)
    if before > QUIET_LOAD or max(study.loads) > own + 2 * QUIET_LOAD:
        yield sentences.busy(before, max(study.loads), own)
    if len(study.starts) > 1:
        yield f"Measured in {len(study.starts)} starts; what the machine did between is unknown."
    if len({(start["commit"], start["dirty"]) for start in study.starts}) > 1:
        yield sentences.CODE_CHANGED
