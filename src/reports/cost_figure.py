"""The figure of what each method gives for its cost, with the Pareto front."""

import math
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from src.reports.benchmark_figure import COLOURS
from src.reports.benchmark_summary import Measure
from src.reports.cost_cells import BEST_OF_N
from src.reports.cost_study import CostPoint, CostStudy
from src.reports.pool_figures import GREY, PAPER, WIDTH, panels

APART = 1.05  # by which points of equal cost are spread, so that their intervals can be seen
BY_K = ("o", "^", "s", "D")  # markers by lookahead k, the last for all larger ones
AXES = ("frames generated per prompt", "seconds per prompt")


def cost_figure(costs: CostStudy) -> Figure:
    """Score against frames and against seconds, a row a measure; better is up."""
    caption = (
        "Gains over one sample, mean over prompts (and seeds) with 95% interval, paired by prompt. "
        "Size: N. Marker: lookahead k (0 circle, 1 triangle, 2 square, more diamond). Line: "
        "best-of-N from the pool, exact; hollow: run by the sweep itself. Grey: Pareto front, "
        "labelled. Points of equal cost stand a little apart. Seconds leave judging out; those of "
        "the pool's best-of-N are N/m of its own."
    )
    with mpl.rc_context(PAPER):
        title = f"{costs.title}: what each method gives for its cost"
        rows = len(costs.measures)
        figure, axes = panels(2, title, caption, rows_each=rows, height=2.3, width=WIDTH)
        for column in range(2):
            for row, measure in enumerate(costs.measures):
                _panel(axes[column * rows + row], costs, measure, column)
                axes[column * rows + row].set_xlabel(AXES[column] if row == rows - 1 else "")
        _legend(figure, costs)
    return figure


def _panel(ax: Axes, costs: CostStudy, measure: Measure, column: int) -> None:
    found = [p for p in costs.points if p.measure == measure.name]
    gains = all(point.gain for point in found)

    def height(point: CostPoint) -> float:
        return point.gain.mean if gains and point.gain else point.mean

    def cost(point: CostPoint) -> float:
        return (point.frames, point.seconds)[column]

    front = sorted((p for p in found if p.on_front[column]), key=cost)
    steps = [height(p) for p in front]
    ax.step([cost(p) for p in front], steps, where="post", color=GREY, linewidth=0.8, zorder=1)
    pool = sorted((p for p in found if p.cell.source == "pool"), key=cost)
    ax.plot([cost(p) for p in pool], [height(p) for p in pool], color=COLOURS[BEST_OF_N], lw=0.8)
    for spent in sorted({cost(point) for point in found}):
        level = [point for point in found if cost(point) == spent]
        for index, point in enumerate(level):
            shift = APART ** (index - (len(level) - 1) / 2)
            _mark(ax, point, spent * shift, height(point), gains)
    for point in front:
        if point.cell.beam_width is not None:
            # above and to the left of a front there is nothing
            place: dict[str, Any] = {"xytext": (-3, 3), "textcoords": "offset points"}
            place |= {"ha": "right", "va": "bottom"}
            ax.annotate(point.cell.label, (cost(point), height(point)), fontsize=5, **place)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:,g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.margins(x=0.12)
    if not measure.higher_is_better:
        ax.invert_yaxis()
    mark = "↑" if measure.higher_is_better else "↓"
    own = "" if measure.is_evidence else ", own verifier: no evidence"
    style = "normal" if measure.is_evidence else "italic"
    if column == 0:
        ax.set_ylabel("gain (better ↑)" if gains else "score (better ↑)")
        ax.set_title(f"{measure.name} {mark} ({measure.role}{own})", style=style, loc="left")
    if not measure.is_evidence:
        ax.set_facecolor("#F3F3F3")


def _mark(ax: Axes, point: CostPoint, x: float, y: float, gains: bool) -> None:
    colour, cell = COLOURS[point.cell.method], point.cell
    marker = BY_K[min(cell.lookahead_k or 0, len(BY_K) - 1)]
    hollow = cell.source == "sweep" and cell.beam_width is None
    ends = None
    if gains and point.gain and np.isfinite(point.gain.low):
        ends = [[point.gain.mean - point.gain.low], [point.gain.high - point.gain.mean]]
    ax.errorbar(
        *(x, y),
        yerr=ends,
        fmt=marker,
        color=colour,
        markersize=_size(cell.n),
        markerfacecolor="white" if hollow else colour,
        markeredgewidth=0.7,
        alpha=0.85,
        elinewidth=0.7,
        zorder=2,
    )


def _size(n: int) -> float:
    """Of a marker of N candidates, in points: its area grows with log N."""
    return 2.5 * math.sqrt(1 + math.log2(n))


def _legend(figure: Figure, costs: CostStudy) -> None:
    cells = {p.cell for p in costs.points}
    methods = [m for m in COLOURS if any(c.method == m for c in cells)]
    plain: dict[str, Any] = {"linestyle": "", "marker": "o"}
    handles = [Line2D([], [], color=COLOURS[m], markersize=4, label=m, **plain) for m in methods]
    handles += [
        Line2D([], [], color=GREY, markersize=_size(n), label=f"N = {n}", **plain)
        for n in sorted({c.n for c in cells})
    ]
    figure.legend(handles=handles, loc="outside right upper")
