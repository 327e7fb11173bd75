"""Figures, from a run's records alone; each PNG carries the SHA-256 of the records it shows.

python -m src.reports.benchmark_figure results/benchmark-builtin-tags-n8-1a2b3c4d
"""

import math
import sys
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from src.reports.benchmark_summary import (
    BASELINE,
    Cell,
    CostPerPrompt,
    Measure,
    SetDifference,
    Summary,
    interval,
    summarise,
)
from src.reports.benchmark_tables import difference_text
from src.reports.command import again
from src.runs.records import records_digest

FIGURE = "benchmark.png"
PANELS_IN_A_ROW = 5
CAPTION_WIDTH = 42  # characters under one panel
DIGEST_KEY = "Records-SHA256"
# Okabe and Ito's colours, told apart by all kinds of colour vision.
COLOURS = {
    BASELINE: "#555555",
    "best_of_n": "#0072B2",
    "sbs": "#D55E00",
    "lookahead": "#009E73",
}
ANOTHER = "#CC79A7"  # of a method that is not among them
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "figure.dpi": 200,
}


def colour_of(method: str) -> str:
    return COLOURS.get(method, ANOTHER)


def save_benchmark(folder: Path, summary: Summary | None = None) -> Path:
    """Draw a run's figure into its folder. summary: where it is made already."""
    path = folder / FIGURE
    figure = benchmark_figure(summary or summarise(folder))
    figure.savefig(path, metadata={DIGEST_KEY: records_digest(folder), "Software": "Curator"})
    return path


def benchmark_figure(summary: Summary) -> Figure:
    """A panel a measure, better to the right, and one of costs.

    With a baseline: each prompt's difference to it (dots), their mean and 95% interval. Without:
    the clips' own values, their mean and interval. A measure of sets has one number and no dots.
    """
    paired = BASELINE in summary.methods and len(summary.methods) > 1
    methods = [m for m in summary.methods if not (paired and m == BASELINE)]
    panels = len(summary.measures) + 1
    rows = math.ceil(panels / PANELS_IN_A_ROW)
    columns = math.ceil(panels / rows)
    with mpl.rc_context(STYLE):
        size = (2.1 * columns + 0.3, rows * (1.5 + 0.45 * len(methods)))
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        axes = list(grid.flat)
        for ax, measure in zip(axes, summary.measures, strict=False):
            _dress(ax, measure, paired)
            for y, method in enumerate(methods):
                cell = summary.cells[method, measure.name]
                if measure.kind == "set":
                    _one_number(ax, y, colour_of(method), summary, measure, cell, paired)
                else:
                    _points(ax, y, colour_of(method), cell, paired)
        _costs(axes[panels - 1], methods, summary.costs)
        if paired:
            spent = _spent(summary.costs[BASELINE])
            axes[panels - 1].set_xlabel(f"frames generated\nbaseline: {spent}", fontsize=6)
        axes[0].set_yticks(range(len(methods)), methods)
        axes[0].set_ylim(len(methods) - 0.5, -0.5)
        for ax in axes[panels:]:
            ax.remove()
        figure.suptitle(summary.title, fontsize=8, x=0.01, ha="left")
        caption = _caption(summary, CAPTION_WIDTH * columns)
        figure.supxlabel(caption, fontsize=6, x=0.01, ha="left")
    return figure


def _caption(summary: Summary, width: int) -> str:
    lines = ["Dots: prompts. Bars: mean with 95% bootstrap interval over prompts."]
    if any(m.kind == "set" for m in summary.measures):
        lines[0] += " Diamonds: one number for all clips; p of a paired permutation test."
    notes = [f"† {m.name}: {m.note}." for m in summary.measures if m.note]
    made_with = [f"{m.name}: {m.checkpoint}" for m in summary.measures if m.checkpoint]
    lines += ["  ".join(notes)] if notes else []
    lines += ["Weights: " + "; ".join(made_with)] if made_with else []
    return "\n".join(part for line in lines for part in textwrap.wrap(line, width))


def _one_number(
    ax: Axes,
    y: int,
    colour: str,
    summary: Summary,
    measure: Measure,
    cell: Cell,
    paired: bool,
) -> None:
    value = cell.shift if paired else cell.value
    if value is None:
        return
    ax.plot(value, y, "D", color=colour, markersize=5, markeredgecolor="white")
    if isinstance(cell.difference, SetDifference):
        text = difference_text(summary, measure, cell.difference)
        ax.annotate(text, (value, y), (0, 7), textcoords="offset points", fontsize=6, ha="center")
    ax.margins(x=0.4)


def _points(ax: Axes, y: int, colour: str, cell: Cell, paired: bool) -> None:
    values = list((cell.paired if paired else cell.values).values())
    if not values:
        return
    # A fixed spread in height, so that equal values can be told apart and a figure repeats itself.
    heights = y + 0.22 * np.sin(2.4 * np.arange(len(values)))
    ax.scatter(values, heights, s=5, color=colour, alpha=0.35, linewidths=0)
    found = interval(values)
    ax.errorbar(
        float(np.mean(values)),
        y,
        xerr=None if found is None else [[found.mean - found.low], [found.high - found.mean]],
        fmt="o",
        color=colour,
        markersize=4.5,
        elinewidth=1.6,
        capsize=3,
        markeredgecolor="white",
        markeredgewidth=0.5,
    )


def _dress(ax: Axes, measure: Measure, paired: bool) -> None:
    noted = " †" if measure.note else ""
    if not measure.is_evidence:
        role = "selector: own verifier" if measure.role == "selector" else "own verifier"
        ax.set_title(f"{measure.name}{noted}\n{role}", style="italic")
        ax.patch.set(facecolor="#F0F0F0", hatch="////", edgecolor="#E0E0E0", linewidth=0)
    else:
        weight = "bold" if measure.role == "primary judge" else "normal"
        ax.set_title(f"{measure.name}{noted}\n{measure.role}", weight=weight)
    if paired:
        ax.axvline(0, color=COLOURS[BASELINE], linewidth=0.8, linestyle="--", zorder=0)
    if not measure.higher_is_better:
        ax.invert_xaxis()
    own = "value" if measure.kind == "set" else "mean"
    ax.set_xlabel(f"{'difference to baseline' if paired else own}\nbetter →")
    ax.tick_params(axis="y", length=0)


def _costs(ax: Axes, rows: list[str], costs: dict[str, CostPerPrompt]) -> None:
    frames = [costs[method].frames for method in rows]
    ax.barh(range(len(rows)), frames, height=0.5, color=[colour_of(m) for m in rows], alpha=0.8)
    for y, method in enumerate(rows):
        ax.text(0, y + 0.28, f" {_spent(costs[method])}", fontsize=6, va="top")
    ax.set_title("cost\nper prompt")
    ax.set_xlabel("frames generated")
    ax.tick_params(axis="y", length=0)


def _spent(cost: CostPerPrompt) -> str:
    return f"{cost.frames:,.0f} frames, {cost.clips:,.0f} scored, {cost.seconds:.3g} s"


if __name__ == "__main__":
    sys.exit(
        again(
            "src.reports.benchmark_figure",
            "Draw a run's figure.",
            lambda folder: str(save_benchmark(folder)),
        )
    )
