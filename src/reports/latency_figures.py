"""Figures of a latency run, from its records alone; each PNG carries the SHA-256 of the records.

python -m src.reports.latency_figures results/latency-builtin-perplexity-1a2b3c4d
"""

import sys
import textwrap
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from src.reports.benchmark_figure import COLOURS, DIGEST_KEY, STYLE
from src.reports.command import again
from src.reports.latency_findings import CROOKED, bracketed, verdict
from src.reports.latency_summary import OTHER, CellFound, LatencySummary, summarise

LATENCY, COST = "latency.png", "cost.png"
CAPTION_WIDTH = 20  # characters an inch
# Paul Tol's muted colours, told apart by all kinds of colour vision.
STAGE_COLOURS = {
    "conditions": "#DDCC77",
    "decode": "#332288",
    "render": "#88CCEE",
    "wav": "#44AA99",
    "http": "#117733",
    "queue": "#999933",
    "compute": "#CC6677",
    "selection": "#AA4499",
    OTHER: "#DDDDDD",
}


def save_figures(folder: Path, found: LatencySummary | None = None) -> list[Path]:
    """Draw a run's two figures into its folder. found: where it is made already."""
    found = found or summarise(folder)
    paths = []
    for name, draw in ((LATENCY, latency_figure), (COST, cost_figure)):
        paths.append(folder / name)
        draw(found).savefig(paths[-1], metadata={DIGEST_KEY: found.digest, "Software": "Curator"})
    return paths


def latency_figure(found: LatencySummary) -> Figure:
    """Seconds a prompt by N, a panel a method: bars of stages, lines from quartile to quartile."""
    groups = {m: [x for x in found.cells.items() if x[0].method == m] for m in found.methods}
    widths = [0.6 + len(group) for group in groups.values()]
    with mpl.rc_context(STYLE):
        figure = _figure(max(4.5, 0.5 * sum(widths) + 1.6), 3.2)
        axes = figure.subplots(1, len(groups), sharey=True, squeeze=False, width_ratios=widths)[0]
        used = [s for s in STAGE_COLOURS if any(c.stages[s] > 0 for c in found.cells.values())]
        for ax, (method, group) in zip(axes, groups.items(), strict=True):
            bottoms = np.zeros(len(group))
            for stage in used:
                heights = np.array([max(0.0, own.stages[stage]) for _, own in group])
                colour = STAGE_COLOURS[stage]
                ax.bar(range(len(group)), heights, 0.7, bottoms, color=colour, label=stage)
                bottoms += heights
            _spread(ax, [own for _, own in group])
            ax.set_xticks(range(len(group)), [f"{cell.candidates}" for cell, _ in group])
            ax.set_xlim(-0.7, len(group) - 0.3)
            ax.set_title(method)
            ax.set_xlabel("N")
        axes[0].set_ylabel("seconds per prompt")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside right upper", frameon=False)
        _label(
            figure,
            found,
            "Bars: medians, split by the stages' mean shares. Lines: quartiles. "
            "wav, http: making and sending audio; queue, compute: the server's.",
        )
    return figure


def cost_figure(found: LatencySummary) -> Figure:
    """Seconds over frames with their lines; and the table of cost ratios."""
    rows = list(found.comparisons.items())
    with mpl.rc_context(STYLE):
        figure = _figure(7.5, 3.6 + 0.16 * len(rows))
        figure.subplots(2, 1, height_ratios=[2.6, 0.3 + 0.16 * (len(rows) + 1)])
        ax, below = figure.axes
        for size, method in zip((7.0, 6.0, 4.5, 3.5), found.methods, strict=False):
            group = [own for cell, own in found.cells.items() if cell.method == method]
            frames = [own.cost.frames for own in group]
            medians = [own.median for own in group]
            ends = np.array(
                [
                    [m - own.quartiles[0], own.quartiles[1] - m]
                    for m, own in zip(medians, group, strict=True)
                ]
            ).T
            ax.errorbar(
                frames,
                medians,
                yerr=np.maximum(0, ends),
                fmt="o",
                markersize=size,
                capsize=2,
                color=COLOURS[method],
                label=method,
            )
            line = found.lines.get(method)
            if line and line.worst <= CROOKED:
                xs = np.array([0, max(frames)])
                ys = line.fixed.mean + line.per_frame.mean * xs
                ax.plot(xs, ys, color=COLOURS[method], linewidth=0.8, zorder=0)
        ax.set_xlim(left=0)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("frames generated")
        ax.set_ylabel("seconds per prompt")
        ax.legend(frameon=False)
        below.axis("off")
        if rows:
            header = ["cost of", "as a multiple of", "claimed", "frames", "clips", "seconds", ""]
            text = [
                [
                    *(cell.name, beside.against.name, f"{beside.claimed:g}"),
                    *(f"{beside.frames:.3g}", f"{beside.clips:.3g}", bracketed(beside.seconds)),
                    verdict(beside),
                ]
                for cell, beside in rows
            ]
            table = below.table(
                text,
                colLabels=header,
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
        _label(
            figure,
            found,
            "Points: medians with quartiles. Lines: least squares, where all medians are within "
            f"{CROOKED:.0%} of them. Table: multiples of another cell's cost; seconds with 95% "
            "intervals.",
        )
    return figure


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _spread(ax: Axes, group: list[CellFound]) -> None:
    for x, own in enumerate(group):
        ax.plot([x, x], own.quartiles, color="black", linewidth=1)


def _label(figure: Figure, found: LatencySummary, caption: str) -> None:
    width = int(figure.get_size_inches()[0] * CAPTION_WIDTH)
    title = textwrap.fill(found.manifest["title"], width)
    figure.suptitle(title, fontsize=8, x=0.01, ha="left")
    start = found.starts[-1]
    gpus = "".join(f", {gpu}" for gpu in start["gpus"])
    caption += (
        f" {len(found.repetitions)} repetitions, {len(found.prompts)} prompts; "
        f"{start['cpu']}, torch threads: {start['torch_threads']}{gpus}."
    )
    figure.supxlabel(textwrap.fill(caption, width), fontsize=6, x=0.01, ha="left")


if __name__ == "__main__":
    sys.exit(
        again(
            "src.reports.latency_figures",
            "Draw the figures of a run of latency_experiment.py.",
            lambda folder: "\n".join(map(str, save_figures(folder))),
        )
    )
