"""Figures of a pool's study: score against N, transfer, what beginnings say, gains by judge, and
as matrices who selects well for whom, and which measures agree.

Lines are those of selectors that are no sums; the gains by judge show sums as well.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from src.reports.figure import (
    GREY,
    gain_panels,
    intervals,
    look,
    name_panel,
    new_figure,
    notes,
    panels,
    styled,
)
from src.reports.pool_study import Study
from src.reports.table import INTERVALS, Row, interval_of, shown
from src.runs.measures import Relation
from src.stats.best_of_n import even_tau, expected_maximum, kl_bound

# Okabe and Ito's orange and blue, pale enough for black numbers.
DIVERGING = LinearSegmentedColormap.from_list("worse to better", ["#E69F5A", "#FFFFFF", "#5AA5D6"])
OWN = "#D9D9D9"
HATCH = "#808080"
CELL = (0.78, 0.42)  # inches


@styled
def scaling_figure(study: Study) -> Figure:
    """Score against N: a panel a measure, a line a selector, its own one dashed; better is up."""
    figure, axes = panels(
        len(study.shown),
        f"{study.title}: score against N",
        "Points: best-of-N, exact expectations from the pool. Lines: a + b·E(N), where E(N), the "
        "expected maximum of N standard normals, spaces the axis. Bands: the gain over N = 1, "
        f"{INTERVALS}. Dashed: the measure is the selector's own number, no "
        "evidence. Dotted: trained on the selector's data, not independent."
        + notes(study.measures[name] for name in study.shown),
    )
    for ax, name in zip(axes, study.shown, strict=True):
        for index, selector in enumerate(study.singles):
            if rows := study.rows("scaling", selector=selector, measure=name):
                line = study.row("fits", selector=selector, measure=name)
                _curve(ax, rows, line, *look(index))
        name_panel(ax, study.measures[name])
        ax.set_xticks([expected_maximum(n) for n in study.budgets], list(map(str, study.budgets)))
        ax.set_xlabel("N")
        if not study.measures[name].higher_is_better:
            ax.invert_yaxis()
    axes[0].set_ylabel("score (better ↑)")
    _legend(figure, study.singles, "selector")
    return figure


@styled
def transfer_figure(study: Study) -> Figure:
    """Over-optimisation: a column a selector; against N above, against sqrt(KL bound) below."""
    shown = study.judges or study.singles
    figure, axes = panels(
        len(study.singles),
        f"{study.title}: transfer to the judges",
        "The judge's gain over the selector's gain, each in within-prompt standard deviations: 1, "
        "the judge gains what the selector gains; falling, the search finds what the selector "
        f"alone likes. Bars: {INTERVALS}. Hollow: trained on the "
        "selector's data. Not drawn: own numbers, and where the selector's gain is not clearly "
        "above zero. KL: bound on KL(best-of-N || model), in nats.",
        rows_each=2,
    )
    searched = [n for n in study.budgets if n > 1]
    for column, selector in enumerate(study.singles):
        above, below = axes[2 * column : 2 * column + 2]
        above.set(title=f"selector {selector}", xlabel="N")
        above.set_xscale("log", base=2)
        above.set_xticks(searched, [str(n) for n in searched])
        above.minorticks_off()
        furthest = math.sqrt(kl_bound(study.largest)) * 1.1 or 1
        below.set(xlabel="√KL (bound)", xlim=(0, furthest))
        for index, name in enumerate(shown):
            rows = study.rows("transfer", selector=selector, measure=name)
            shift = 0.03 * (index - (len(shown) - 1) / 2)  # so that bars stand apart
            if rows and rows[0]["relation"] != "own":
                _line(above, rows, "n", "transfer", index, "shares data", 1 + shift)
                _line(below, rows, "sqrt_kl", "transfer", index, "shares data", 1 + shift / 2)
        for ax in (above, below):
            ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
            ax.axhline(1, color=GREY, linewidth=0.6, linestyle="--", zorder=0)
            ax.set_ylabel("" if column else "transfer")
            if not ax.containers:
                ax.text(0.5, 0.5, "no ratio", transform=ax.transAxes, ha="center", color=GREY)
    _level(axes)
    _legend(figure, shown, "judge" if study.judges else "measure")
    return figure


@styled
def prefix_figure(study: Study) -> Figure:
    """How the score of the first t seconds ranks whole clips: by itself, then by each judge."""
    names = ["", *study.judges]
    figure, axes = panels(
        len(names),
        f"{study.title}: what beginnings say",
        "Kendall's tau within prompts, mean and 95% interval over prompts, of the score of the "
        "first t seconds with the whole clip's. A tau of 0.5 orders three pairs of clips in four "
        "alike. Hollow: the judge is the verifier's own number, no evidence. Grey: what seconds "
        "that count alike and independently would give."
        + notes(study.measures[name] for name in study.judges),
    )
    for ax, name in zip(axes, names, strict=True):
        for index, verifier in enumerate(study.singles):
            rows = study.rows("prefix", verifier=verifier, measure=name or verifier)
            _line(ax, rows, "seconds", "tau", index, "own" if name else None)
        ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
        ax.set(xlabel="seconds heard", xlim=(0, study.pool.duration * 1.04))
        if name:
            name_panel(ax, study.measures[name])
        else:
            ax.set_title("the verifier itself,\nwhole clip", weight="bold")
            x = np.linspace(0, 1, 100)
            even = list(map(even_tau, x))
            ax.plot(x * study.pool.duration, even, color=GREY, linewidth=0.8, linestyle=":")
    _level(axes)
    axes[0].set_ylabel("Kendall's tau")
    _legend(figure, study.singles, "verifier")
    return figure


@styled
def selectors_figure(study: Study) -> Figure:
    """Gains at the largest N, a panel a judge, a row a selector, sums below their parts."""
    judges, names = study.judges or study.singles, (*study.singles, *study.sums)
    figure, axes = gain_panels(
        [study.measures[name] for name in judges],
        names,
        f"{study.title}: who selects for the judges",
        f"Gain of best-of-{study.largest} over one sample in within-prompt standard deviations of "
        "the judge, positive where better, with 95% interval over prompts; every selector chooses "
        "among the same clips: equal frames. Orange: expressions, each part in units of its own "
        "deviation. Hollow: trained on the judge's data, not independent. Own number: the judge is "
        "the selector's number or a part of it, no evidence.",
    )
    for ax, judge in zip(axes, judges, strict=True):
        for y, name in enumerate(names):
            row = study.row("matrix", selector=name, measure=judge)
            gain = interval_of(row, "gain_sd") if row else None
            if row is None or gain is None or row["relation"] == "own":
                why = "own number" if row and row["relation"] == "own" else "-"
                ax.text(0, y, f"  {why}", fontsize=5.5, color=GREY, ha="left", va="center")
                continue
            colour, marker = look(int(name in study.sums))
            hollow = row["relation"] != ""
            intervals(ax, [y], [gain], colour, sideways=True, hollow=hollow, fmt=marker)
    ends = [end for ax in axes for end in ax.get_xlim()]
    for ax in axes:
        ax.set_xlim(min(ends), max(ends))
    if study.sums:
        _legend(figure, ("one verifier", "several"), "selector")
    return figure


@styled
def matrix_figure(study: Study) -> Figure:
    """Selector x measure: gains at the largest N in within-prompt deviations, positive better.

    Own-verifier cells are grey, those that share training data hatched.
    """
    rows = [row for row in study.tables["matrix"] if row["measure"] in study.shown]
    free = [abs(r["gain_sd"]) for r in rows if r["gain_sd"] and r["relation"] != "own"]
    title = (
        f"{study.title}: gain of best-of-{study.largest} over one sample, in within-prompt "
        "standard deviations; the best that a selector could reach with normal scores is "
        f"{expected_maximum(study.largest):.2f}"
    )
    caption = (
        "Positive: better, whatever the measure's direction. Brackets: 95% interval over prompts. "
        "Grey: the selector's own number, no evidence. Hatched: trained on the selector's data, "
        "not independent."
    )
    keys = ("selector", "measure", "gain_sd")
    figure = _heat(study, rows, keys, "gain (sd)", max([*free, 0.1]), title, caption)
    figure.axes[0].set_ylabel("selector")
    return figure


@styled
def agreement_figure(study: Study) -> Figure:
    """Kendall's tau within prompts between all measures, positive where both call better alike."""
    rows = [{**row, "relation": ""} for row in study.tables["agreement"]]
    title = f"{study.title}: Kendall's tau within prompts"
    caption = (
        "Mean over prompts, with its 95% interval. Positive: both measures call the same clips "
        "better."
    )
    return _heat(study, rows, ("b", "a", "tau"), "tau", 1.0, title, caption)


def _heat(
    study: Study, cells: Sequence[Row], keys: Sequence[str], label: str, limit: float, *texts: str
) -> Figure:
    """keys: the columns that say where a cell stands, down and across, and what is in it. limit:
    the value of the strongest colour. texts: title and caption."""
    down, across, name = keys
    rows, columns = (list(dict.fromkeys(cell[key] for cell in cells)) for key in (down, across))
    colours = ScalarMappable(Normalize(-limit, limit), DIVERGING)
    size = max(3.4, 1.9 + CELL[0] * len(columns)), 1.4 + CELL[1] * max(len(rows), 1)
    figure = new_figure(*size, *texts)
    ax = figure.subplots()
    for cell in cells:
        x, y = columns.index(cell[across]), rows.index(cell[down])
        value, own = interval_of(cell, name), cell["relation"] == "own"
        face: Any = OWN
        if value is not None and not own:
            face = colours.to_rgba(value.mean)  # type: ignore[arg-type]
        ax.add_patch(Rectangle((x, y), 1, 1, facecolor=face, edgecolor="white", linewidth=1.5))
        if cell["relation"] == "shares data":
            inner: dict[str, Any] = {"facecolor": "none", "edgecolor": HATCH, "linewidth": 0}
            ax.add_patch(Rectangle((x, y), 1, 1, hatch="////", **inner))
        style: dict[str, Any] = {"ha": "center", "va": "center"}
        style["color"] = "#555555" if own else "black"
        # Numbers stay legible on the hatching.
        style["bbox"] = {"facecolor": face, "linewidth": 0, "pad": 0.6}
        ax.text(x + 0.5, y + 0.36, shown(cell[name], "+.2f"), fontsize=8, **style)
        if value is not None and not math.isnan(value.low):
            ends = f"[{value.low:+.2f}, {value.high:+.2f}]"
            ax.text(x + 0.5, y + 0.72, ends, fontsize=5.5, **style)
    named = [f"{column}\n{study.measures[column].role}" for column in columns]
    ax.set(xlim=(0, max(len(columns), 1)), ylim=(max(len(rows), 1), 0))
    ax.set_yticks(np.arange(len(rows)) + 0.5, rows)
    ax.set_xticks(np.arange(len(columns)) + 0.5, named)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.xaxis.tick_top()
    bar = figure.colorbar(colours, ax=ax, shrink=0.8, aspect=15, pad=0.02)
    bar.set_label(label)
    bar.outline.set_linewidth(0)  # type: ignore[operator]
    return figure


def _curve(ax: Axes, rows: Sequence[Row], fitted: Row | None, colour: str, marker: str) -> None:
    x = np.array([expected_maximum(row["n"]) for row in rows])
    y = np.array([row["mean"] for row in rows])
    low, high = (y[0] + np.array([row[end] for row in rows]) for end in ("low", "high"))
    ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    line = y if fitted is None else fitted["a"] + fitted["b"] * x
    relation = rows[0]["relation"]
    style = {"own": "--", "shares data": ":"}.get(relation, "-")
    ax.plot(x, line, color=colour, linewidth=1, linestyle=style)
    face = "white" if relation == "own" else colour
    ax.plot(x, y, marker, color=colour, ms=3, markerfacecolor=face, markeredgewidth=0.7)


def _line(
    ax: Axes,
    rows: Sequence[Row],
    at: str,
    name: str,
    index: int,
    hollow: Relation | None,
    apart: float = 1.0,
) -> None:
    """A line with intervals through what rows have of `name`, against the column `at`.

    hollow: the relation of selector and measure that is marked. apart: a factor of what is at.
    """
    known = {row[at] * apart: found for row in rows if (found := interval_of(row, name))}
    if known:
        colour, marker = look(index)
        style: dict[str, Any] = {"hollow": rows[0]["relation"] == hollow, "linewidth": 1}
        intervals(ax, list(known), list(known.values()), colour, fmt=f"{marker}-", **style)


def _level(axes: Sequence[Axes]) -> None:
    """One scale for all: that of the means, so that one wide interval hides nothing."""
    drawn = [y for ax in axes for line in ax.lines for y in np.ravel(line.get_ydata())]
    low, high = min(drawn), max(drawn)
    for ax in axes:
        ax.set_ylim(low - 0.12 * (high - low), high + 0.12 * (high - low))


def _legend(figure: Figure, names: Sequence[str], title: str) -> None:
    style: dict[str, Any] = {"markersize": 3, "linewidth": 1}
    handles = [
        Line2D([], [], color=colour, marker=marker, label=name, **style)
        for name, (colour, marker) in zip(names, map(look, range(len(names))), strict=True)
    ]
    figure.legend(handles=handles, title=title, title_fontsize=7, loc="outside right upper")


FIGURES: dict[str, Callable[[Study], Figure]] = {
    "scaling": scaling_figure,
    "matrix": matrix_figure,
    "selectors": selectors_figure,
    "agreement": agreement_figure,
    "transfer": transfer_figure,
    "prefix": prefix_figure,
}
