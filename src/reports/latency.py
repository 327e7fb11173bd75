"""What latency_experiment.py leaves in a run's folder besides records: tables and figures.

    text, failed = report(Path("results/latency-builtin-perplexity-1a2b3c4d"))

writes summary.csv, costs.csv, lines.csv, latency.png and cost.png anew, from the records alone.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from src.budget import Cost
from src.methods import SearchCell
from src.reports import sentences
from src.reports.figure import DIGEST_KEY, save
from src.reports.latency_figure import COST, LATENCY, cost_figure, how, latency_figure
from src.reports.latency_study import COST_COLUMNS, TIMED, Study, study_latency
from src.reports.table import (
    ABSENT,
    Column,
    Row,
    brackets,
    figures,
    interval_of,
    layout,
    ruled,
    shown,
    wrapped,
    write_csv,
)
from src.runs.provenance import QUIET_LOAD
from src.runs.records import records_digest

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
    stages = [Column(s, shown(f"{s}_seconds", partial(figures, decimals=3))) for s in used]
    unknown = {"fixed_seconds": None, "seconds_per_frame": None}
    lines: list[str] = []
    for rows, columns in (
        (study.cells, SECONDS),
        (study.cells, [Column("seconds by stage", shown("cell"), left=True), *stages]),
        ([row for row in study.costs if row["against"]], RATIOS),
        ([row for row in study.costs if row["equal_frames_n"]], EQUALS),
        ([r if r["verdict"] == "a line" else {**r, **unknown} for r in study.lines], LINES),
    ):
        lines += ["", *layout(rows, columns)] if rows else []
    return "\n".join([*wrapped([title]), *ruled(lines[1:]), *notes])


def _bracketed(
    key: str, prefix: str = "", absent: str = ABSENT, unit: float = 1
) -> Callable[[Row], str]:
    """Such as "1.23 [1.20, 1.31]"; without brackets where there is no interval."""

    def write(row: Row) -> str:
        found = interval_of(row, key, prefix)
        return brackets(found, write=lambda x: figures(x / unit)) if found else absent

    return write


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f}"


LEGEND = (
    "Seconds: medians, their quartiles, and in brackets 95% intervals, which resample repetitions "
    "and prompts. RTF: seconds of compute per second of audio. Verdict: seconds beside frames, "
    "within the interval; no line: rows side by side do not cost what they would alone. Its time "
    "x: as a multiple of best_of_n's, interpolated between the N measured (1: the baseline)."
)
SECONDS = (
    Column("per prompt", shown("cell"), left=True),
    Column("frames", shown("frames", ",")),
    Column("clips", shown("clips", ",")),
    Column("MB up", lambda row: f"{row['uploaded_bytes'] / 1e6:.1f}"),
    Column("seconds", shown("seconds", figures)),
    Column(
        "quartiles",
        lambda row: f"{figures(row['lower_quartile'])} - {figures(row['upper_quartile'])}",
    ),
    Column("RTF", shown("real_time_factor", figures)),
    # The GPU's where there is one: what a search is short of.
    Column(
        "peak MB",
        lambda row: shown("gpu_bytes" if row["gpu_bytes"] else "resident_bytes", _megabytes)(row),
    ),
    Column("server MB", shown("server_bytes", _megabytes)),
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
    Column("at equal frames: N", shown("equal_frames_n", figures)),
    Column("its time x", _bracketed("equal_frames_seconds", "equal_frames_", "not measured")),
    Column("at equal seconds: N", _bracketed("equal_seconds_n", "equal_seconds_", "not measured")),
)
LINES = (
    Column("seconds over frames", shown("method"), left=True),
    Column("fixed s", _bracketed("fixed_seconds", "fixed_")),
    Column("ms a frame", _bracketed("seconds_per_frame", "per_frame_", unit=1e-3)),
    Column("off by up to", shown("worst_residual", ".1%")),
    Column("verdict", shown("verdict"), left=True),
)


def findings(study: Study) -> Iterable[str]:
    """What the tables do not say, or what matters most in them, in sentences."""
    if study.cells:
        yield LEGEND
        yield from _of_measurements(study)
        yield from _of_machine(study)
    if skipped := [SearchCell.from_record(cell).name for cell in study.manifest["skipped"]]:
        yield f"Skipped, since M does not divide N: {', '.join(skipped)}."
    if study.unfinished:
        yield f"Left out, since unfinished: repetition {', '.join(map(str, study.unfinished))}."
    if study.failed:
        lost = ", ".join(sorted({record["prompt_id"] for record in study.failed}))
        reason = sentences.shortened(study.failed[0]["reason"])
        yield f"Left out everywhere, since they failed: {lost}. The first: {reason}"


def _of_measurements(study: Study) -> Iterable[str]:
    """Whether there is enough of them, and whether searches did what they should."""
    if any(cell.prunes for cell in study.timed) and not any(row["against"] for row in study.costs):
        yield "Nothing is compared: best_of_n is not among the methods (--method best_of_n ..)."
    yield sentences.few_prompts(len(study.repetitions), "repetitions", FEW_REPETITIONS)
    off_plan, winners = [], defaultdict(set)
    for cell, own in study.timed.items():
        for record in own.records:
            name, ledger = f"{cell.name} on {record['prompt_id']}", record["ledger"]
            winners[name].add(record["winner"]["tokens_sha256"])
            if Cost(ledger["frames"], ledger["clips"]) != own.cost:
                off_plan.append(name)
    if off_plan:
        yield (
            f"{len(off_plan)} searches did not cost the frames and clips that they should, such as "
            f"{off_plan[0]}: a defect, please report it."
        )
    if changed := [name for name, found in winners.items() if len(found) > 1]:
        first = ", ".join(changed[: sentences.SHOWN_FAILURES])
        yield f"Repetitions did not all choose the same clip: {first}."


def _of_machine(study: Study) -> Iterable[str]:
    yield (
        f"Measured: {how(study)} Peaks of memory have the model in them, and a process's also what "
        "earlier searches have left to it."
    )
    last = study.starts[-1]
    before = max(start["load_average"][0] for start in study.starts)
    most = max(record["load"] for record in study.records)
    served = study.manifest["identity"]["settings"]["server"] == "auto"
    own = max(last["torch_threads"], last["cpu_count"] if served else 0)
    if before > QUIET_LOAD or most > own + 2 * QUIET_LOAD:
        yield (
            f"The machine was busy: load average {before:.2f} before the run, up to {most:.2f} in "
            f"it, of which it makes {own} at most itself. These seconds are not to be relied on."
        )
    if len({(start["commit"], start["dirty"]) for start in study.starts}) > 1:
        yield "The code changed between starts: the seconds are of several versions."
