"""The figure of a run of benchmark.py: a panel a measure, and what the searches cost."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.methods import BASELINE, colour_of
from src.reports.benchmark_study import Study, difference_text
from src.reports.figure import GREY, intervals, name_panel, notes, panels, styled
from src.reports.table import Row
from src.runs.measures import Measure
from src.stats.intervals import Array, bootstrap

FIGURE = "benchmark.png"
PANELS_IN_A_ROW = 5
PANEL_WIDTH = 2.1  # inches


@styled
def benchmark_figure(study: Study) -> Figure:
    """A panel a measure, better to the right, and one of costs.

    With a baseline: each prompt's difference to it (dots), their mean and 95% interval. Without:
    the clips' own values, their mean and interval. A measure of sets has one number and no dots.
    """
    paired = BASELINE in study.methods and len(study.methods) > 1
    methods = [m for m in study.methods if not (paired and m == BASELINE)]
    count = len(study.measures) + 1
    across = math.ceil(count / math.ceil(count / PANELS_IN_A_ROW))
    figure, axes = panels(
        *(count, study.manifest["title"], _caption(study)),
        height=0.9 + 0.45 * len(methods),
        width=PANEL_WIDTH * across + 0.3,
        columns=PANELS_IN_A_ROW,
        sharey=True,
    )
    for ax, measure in zip(axes, study.measures, strict=False):
        _panel(ax, study, measure, methods, paired)
    _costs(axes[-1], methods, study, paired)
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].set_ylim(len(methods) - 0.5, -0.5)
    for ax in axes:
        ax.tick_params(axis="y", length=0)
    return figure


def _caption(study: Study) -> str:
    lines = "Dots: prompts. Bars: mean with 95% bootstrap interval over prompts."
    if any(m.kind == "set" for m in study.measures):
        lines += " Diamonds: one number for all clips; p of a paired permutation test."
    made_with = [f"{m.name}: {m.checkpoint}" for m in study.measures if m.checkpoint]
    return lines + notes(study.measures) + f"\nWeights: {'; '.join(made_with)}" * bool(made_with)


def _panel(ax: Axes, study: Study, measure: Measure, methods: list[str], paired: bool) -> None:
    name_panel(ax, measure)
    if paired:
        ax.axvline(0, color=GREY, linewidth=0.8, linestyle="--", zorder=0)
    if not measure.higher_is_better:
        ax.invert_xaxis()
    own = "value" if measure.kind == "set" else "mean"
    ax.set_xlabel(f"{'difference to baseline' if paired else own}\nbetter →")
    for y, method in enumerate(methods):
        row = study.rows[method, measure.name]
        value = row["difference"] if paired else row["mean"]
        if value is None:
            continue
        if measure.kind == "set":
            ax.plot(value, y, "D", color=colour_of(method), markersize=5, markeredgecolor="white")
            text = difference_text(row, study.digits(measure.name))
            ax.annotate(
                text, (value, y), (0, 7), textcoords="offset points", fontsize=6, ha="center"
            )
            ax.margins(x=0.4)
        else:
            _points(ax, y, study.points(method, measure.name, paired), colour_of(method))


def _points(ax: Axes, y: int, values: Array, colour: str) -> None:
    # A fixed spread in height, so that equal values can be told apart and a figure repeats itself.
    heights = y + 0.22 * np.sin(2.4 * np.arange(len(values)))
    ax.scatter(values, heights, s=5, color=colour, alpha=0.35, linewidths=0)
    mean = bootstrap(len(values)).interval(values)
    style: dict[str, Any] = {"markersize": 4.5, "elinewidth": 1.6, "capsize": 3}
    intervals(ax, [y], [mean], colour, sideways=True, **style, markeredgecolor="white")


def _costs(ax: Axes, methods: list[str], study: Study, paired: bool) -> None:
    frames = [study.costs[method]["frames"] for method in methods]
    colours = [colour_of(method) for method in methods]
    ax.barh(range(len(methods)), frames, height=0.5, color=colours, alpha=0.8)
    for y, method in enumerate(methods):
        ax.text(0, y + 0.28, f" {_spent(study.costs[method])}", fontsize=6, va="top")
    ax.set_title("cost\nper prompt")
    ax.set_xlabel("frames generated")
    if paired:
        spent = _spent(study.costs[BASELINE])
        ax.set_xlabel(f"frames generated\nbaseline: {spent}", fontsize=6)


def _spent(cost: Row) -> str:
    return f"{cost['frames']:,.0f} frames, {cost['clips']:,.0f} scored, {cost['seconds']:.3g} s"
