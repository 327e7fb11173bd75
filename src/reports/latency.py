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
    is_absent,
    layout,
    ruled,
    shown,
    wrapped,
    write_csv,
)
from src.runs.records import records_digest
from src.stats.intervals import MIN_REPETITIONS, Interval
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
    key: str, low: str, high: str, absent: str = ABSENT, unit: float = 1
) -> Callable[[Row], str]:
    """Such as "1.23 [1.20, 1.31]"; without brackets where there is no interval."""

    def write(row: Row) -> str:
        if is_absent(row[key]):
            return absent
        return brackets(Interval(*(row[name] / unit for name in (key, low, high))), write=figures)

    return write


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
    Column("seconds", _bracketed("seconds", "low", "high")),
    Column("verdict", shown("verdict"), left=True),
)
AT_FRAMES = ("equal_frames_seconds", "equal_frames_low", "equal_frames_high", "not measured")
AT_SECONDS = ("equal_seconds_n", "equal_seconds_low", "equal_seconds_high", "not measured")
EQUALS = (
    Column("best_of_n instead of", shown("cell"), left=True),
    Column("at equal frames: N", _figures("equal_frames_n")),
    Column("its time x", _bracketed(*AT_FRAMES)),
    Column("at equal seconds: N", _bracketed(*AT_SECONDS)),
)
FIXED, PER_FRAME = (
    _bracketed("fixed_seconds", "fixed_low", "fixed_high"),
    _bracketed("seconds_per_frame", "per_frame_low", "per_frame_high", unit=1e-3),
)
LINES = (
    Column("seconds over frames", shown("method"), left=True),
    Column("fixed s", lambda row: FIXED(row) if row["verdict"] == "a line" else ABSENT),
    Column("ms a frame", lambda row: PER_FRAME(row) if row["verdict"] == "a line" else ABSENT),
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
