"""What latency_experiment.py leaves in a run's folder besides records: tables and figures.

summary.csv, costs.csv, lines.csv, latency.png and cost.png are made anew, from the records alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from src.cells import SearchCell
from src.methods import colour_of
from src.reports.figure import intervals, new_figure, save, styled
from src.reports.latency_study import STRAIGHT, TIMED, Study, study_latency
from src.reports.table import (
    ABSENT,
    Row,
    brackets,
    document,
    few_prompts,
    figures,
    interval_of,
    layout,
    shortened,
    write_tables,
)
from src.runs.provenance import QUIET_LOAD
from src.stats.intervals import Interval

FEW_REPETITIONS = 5  # resampling fewer gives intervals that are too narrow
SIZES = (7.0, 6.0, 4.5, 3.5)  # of markers, so that points on one another can be seen
# Paul Tol's muted colours, told apart by all kinds of colour vision.
PALETTE = (
    *("#DDCC77", "#332288", "#88CCEE", "#44AA99", "#117733"),
    *("#999933", "#CC6677", "#AA4499", "#DDDDDD"),
)
STAGE_COLOURS = dict(zip(TIMED, PALETTE, strict=True))
Columns = Mapping[str, Callable[[Row], str]]

LEGEND = (
    "Seconds: medians, their quartiles, and in brackets 95% intervals, which resample repetitions "
    "and prompts. RTF: seconds of compute per second of audio. Verdict: seconds beside frames, "
    "within the interval; no line: rows side by side do not cost what they would alone. Its time "
    "x: as a multiple of best_of_n's, interpolated between the N measured (1: the baseline); -: "
    "beyond them."
)


def report(folder: Path | str) -> tuple[str, bool]:
    """Write a run's tables and figures. Returns the text, and whether prompts failed.

    Raises RunFolderError.
    """
    folder = Path(folder)
    study = study_latency(folder)
    write_tables(folder, tables(study))
    if study.cells:
        save(latency_figure(study), folder / "latency.png", folder)
        save(cost_figure(study), folder / "cost.png", folder)
    return latency_text(study), bool(study.failed)


def tables(study: Study) -> dict[str, Sequence[Row]]:
    """summary: a row a cell. costs: a row a cell that has something to be compared with. lines: a
    row a method. Seconds are a prompt's; low and high end a 95% interval; what is not known is
    empty."""
    return {"summary": study.cells, "costs": study.costs, "lines": study.lines}


def latency_text(study: Study) -> str:
    """What each cell took, where its time went, and what it costs beside others."""
    head, lines = [study.manifest["title"]], []
    if not study.cells:
        head.append("No repetition is finished.")
    used = [stage for stage in TIMED if any(row[f"{stage}_seconds"] for row in study.cells)]
    unknown = {"fixed_seconds": None, "seconds_per_frame": None}
    for texts in (
        _texts(SECONDS, study.cells),
        [
            {"seconds by stage": row["cell"]}
            | {stage: figures(row[f"{stage}_seconds"], decimals=3) for stage in used}
            for row in study.cells
        ],
        _texts(RATIOS, _compared(study)),
        _texts(EQUALS, [row for row in study.costs if row["equal_frames_n"]]),
        _texts(LINES, [r if r["verdict"] == "a line" else {**r, **unknown} for r in study.lines]),
    ):
        if texts:
            lines += ["", *layout({"": texts}, left=("as a multiple of", "verdict"))]
    return document(head, lines[1:], findings(study))


def _texts(columns: Columns, rows: Iterable[Row]) -> list[dict[str, str]]:
    return [{heading: write(row) for heading, write in columns.items()} for row in rows]


def _compared(study: Study) -> list[Row]:
    return [row for row in study.costs if row["against"]]


def _megabytes(size: int | None) -> str:
    return ABSENT if size is None else f"{size / 1e6:,.0f}"


def _bracketed(row: Row, name: str, prefix: str = "", unit: float = 1) -> str:
    return brackets(interval_of(row, name, prefix), lambda x: figures(x / unit))


# Columns of text by heading, each a function of a row.
SECONDS: Columns = {
    "per prompt": itemgetter("cell"),
    "frames": lambda row: f"{row['frames']:,}",
    "clips": lambda row: f"{row['clips']:,}",
    "MB up": lambda row: f"{row['uploaded_bytes'] / 1e6:.1f}",
    "seconds": lambda row: figures(row["seconds"]),
    "quartiles": lambda row: f"{figures(row['lower_quartile'])} - {figures(row['upper_quartile'])}",
    "RTF": lambda row: figures(row["real_time_factor"]),
    # The GPU's where there is one: what a search is short of.
    "peak MB": lambda row: _megabytes(row["gpu_bytes"] or row["resident_bytes"]),
    "server MB": lambda row: _megabytes(row["server_gpu_bytes"] or row["server_bytes"]),
}
RATIOS: Columns = {
    "cost of": itemgetter("cell"),
    "as a multiple of": itemgetter("against"),
    "claimed": lambda row: f"{row['claimed_frames']:g}",
    "frames": lambda row: f"{row['frames']:.3g}",
    "clips": lambda row: f"{row['clips']:.3g}",
    "seconds": lambda row: _bracketed(row, "seconds"),
    "verdict": itemgetter("verdict"),
}
EQUALS: Columns = {
    "best_of_n instead of": itemgetter("cell"),
    "at equal frames: N": lambda row: figures(row["equal_frames_n"]),
    "its time x": lambda row: _bracketed(row, "equal_frames_seconds", "equal_frames_"),
    "at equal seconds: N": lambda row: _bracketed(row, "equal_seconds_n", "equal_seconds_"),
}
LINES: Columns = {
    "seconds over frames": itemgetter("method"),
    "fixed s": lambda row: _bracketed(row, "fixed_seconds", "fixed_"),
    "ms a frame": lambda row: _bracketed(row, "seconds_per_frame", "per_frame_", unit=1e-3),
    "off by up to": lambda row: f"{row['worst_residual']:.1%}",
    "verdict": itemgetter("verdict"),
}


def findings(study: Study) -> Iterable[str]:
    """What the tables do not say, or what matters most in them, in sentences."""
    if study.cells:
        yield LEGEND
        yield from _of_measurements(study)
        yield from _of_machine(study)
    yield from study.manifest.get("caveats", ())
    if skipped := [SearchCell.from_record(cell).name for cell in study.manifest["skipped"]]:
        yield f"Skipped, since M does not divide N: {', '.join(skipped)}."
    if study.unfinished:
        yield f"Left out, since unfinished: repetition {', '.join(map(str, study.unfinished))}."
    if study.failed:
        lost = ", ".join(sorted({record["prompt_id"] for record in study.failed}))
        reason = shortened(study.failed[0]["reason"])
        yield f"Left out everywhere, since they failed: {lost}. The first: {reason}"


def _of_measurements(study: Study) -> Iterable[str]:
    """Whether there is enough of them."""
    if any(cell.prunes for cell in study.timed) and not any(row["against"] for row in study.costs):
        yield "Nothing is compared: best_of_n is not among the methods (--method best_of_n ..)."
    yield few_prompts(len(study.repetitions), "repetitions", FEW_REPETITIONS)


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


@styled
def latency_figure(study: Study) -> Figure:
    """Seconds a prompt by N, a panel a method: bars of stages, lines from quartile to quartile."""
    groups = {m: [row for row in study.cells if row["method"] == m] for m in study.methods}
    widths = [0.6 + len(group) for group in groups.values()]
    caption = (
        "Bars: medians, split by the stages' mean shares. Lines: quartiles. wav, http: making and "
        "sending audio; queue, compute: the server's."
    )
    width = max(4.5, 0.5 * sum(widths) + 1.6)
    figure = new_figure(width, 3.2, study.manifest["title"], f"{caption} {how(study)}")
    axes = figure.subplots(1, len(groups), sharey=True, squeeze=False, width_ratios=widths)[0]
    used = [s for s in STAGE_COLOURS if any(row[f"{s}_seconds"] > 0 for row in study.cells)]
    for ax, (method, group) in zip(axes, groups.items(), strict=True):
        bottoms = np.zeros(len(group))
        for stage in used:
            heights = np.array([max(0.0, row[f"{stage}_seconds"]) for row in group])
            colour = STAGE_COLOURS[stage]
            ax.bar(range(len(group)), heights, 0.7, bottoms, color=colour, label=stage)
            bottoms += heights
        low, high = ([row[f"{end}_quartile"] for row in group] for end in ("lower", "upper"))
        ax.vlines(range(len(group)), low, high, color="black", linewidth=1)
        ax.set_xticks(range(len(group)), [f"{row['candidates']}" for row in group])
        ax.set(title=method, xlabel="N", xlim=(-0.7, len(group) - 0.3))
    axes[0].set_ylabel("seconds per prompt")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right upper")
    return figure


@styled
def cost_figure(study: Study) -> Figure:
    """Seconds over frames with their lines; and the table of cost ratios."""
    rows = _compared(study)
    caption = (
        "Points: medians with quartiles. Lines: least squares, where all medians are within "
        f"{STRAIGHT:.0%} of them. Table: multiples of another cell's cost; seconds with 95% "
        "intervals."
    )
    height = 3.6 + 0.16 * len(rows)
    figure = new_figure(7.5, height, study.manifest["title"], f"{caption} {how(study)}")
    figure.subplots(2, 1, height_ratios=[2.6, 0.3 + 0.16 * (len(rows) + 1)])
    ax, below = figure.axes
    lines = {line["method"]: line for line in study.lines if line["verdict"] == "a line"}
    for index, method in enumerate(study.methods):
        group = [row for row in study.cells if row["method"] == method]
        frames = [row["frames"] for row in group]
        names = ("seconds", "lower_quartile", "upper_quartile")
        found = [Interval(*(row[name] for name in names)) for row in group]
        size = SIZES[min(index, len(SIZES) - 1)]
        colour = colour_of(method)
        intervals(ax, frames, found, colour, markersize=size, capsize=2, label=method)
        if line := lines.get(method):
            xs = np.array([0, max(frames)])
            ys = line["fixed_seconds"] + line["seconds_per_frame"] * xs
            ax.plot(xs, ys, color=colour, linewidth=0.8, zorder=0)
    ax.set(xlabel="frames generated", ylabel="seconds per prompt")
    ax.set_xlim(0, 1.03 * ax.get_xlim()[1])
    ax.set_ylim(bottom=0)
    ax.legend()
    below.axis("off")
    if rows:
        table = below.table(
            [[write(row) for write in RATIOS.values()] for row in rows],
            colLabels=list(RATIOS),
            cellLoc="left",
            colLoc="left",
            bbox=Bbox.unit(),
            colWidths=[0.25, 0.14, 0.08, 0.08, 0.08, 0.2, 0.17],
            edges="horizontal",
        )
        table.auto_set_font_size(False)
        table.set_fontsize(6)
        for cell in table.get_celld().values():
            cell.set_linewidth(0.3)
    return figure


def how(study: Study) -> str:
    """How much was measured, on which machine."""
    start = study.starts[-1]
    gpus = "".join(f", {gpu}" for gpu in start["gpus"])
    return (
        f"{len(study.repetitions)} repetitions, prompts: {len(study.prompts)}; {start['cpu']}, "
        f"{start['cpu_count']} cores, torch threads: {start['torch_threads']}{gpus}."
    )
