"""Figures of a run of latency_experiment.py: seconds by stage, and seconds over frames."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from src.methods import colour_of
from src.reports.figure import intervals, new_figure, styled
from src.reports.latency_study import STRAIGHT, TIMED, Study
from src.reports.table import Column
from src.stats.intervals import Interval

LATENCY, COST = "latency.png", "cost.png"
SIZES = (7.0, 6.0, 4.5, 3.5)  # of markers, so that points on one another can be seen
# Paul Tol's muted colours, told apart by all kinds of colour vision.
PALETTE = (
    *("#DDCC77", "#332288", "#88CCEE", "#44AA99", "#117733"),
    *("#999933", "#CC6677", "#AA4499", "#DDDDDD"),
)
STAGE_COLOURS = dict(zip(TIMED, PALETTE, strict=True))


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
        ax.set_xlim(-0.7, len(group) - 0.3)
        ax.set_title(method)
        ax.set_xlabel("N")
    axes[0].set_ylabel("seconds per prompt")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right upper")
    return figure


@styled
def cost_figure(study: Study, columns: tuple[Column, ...]) -> Figure:
    """Seconds over frames with their lines; and the table of cost ratios. columns: the table's."""
    rows = [row for row in study.costs if row["against"]]
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
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("frames generated")
    ax.set_ylabel("seconds per prompt")
    ax.legend()
    below.axis("off")
    if rows:
        table = below.table(
            [[column.write(row) for column in columns] for row in rows],
            colLabels=[column.heading for column in columns],
            cellLoc="left",
            colLoc="left",
            bbox=Bbox.unit(),
            colWidths=[0.2, 0.14, 0.08, 0.08, 0.08, 0.22, 0.2],
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
        f"{len(study.repetitions)} repetitions, {len(study.prompts)} prompts; {start['cpu']}, "
        f"{start['cpu_count']} cores, torch threads: {start['torch_threads']}{gpus}."
    )
