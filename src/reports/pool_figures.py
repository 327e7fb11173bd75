"""Figures of a pool's study: score against N, transfer, what beginnings say, gains by judge.

Lines are those of selectors that are no sums; the gains by judge show sums as well. Figures that
are matrices are in src/reports/pool_matrices.py.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from src.reports.figure import (
    GREY,
    WIDTH,
    intervals,
    look,
    name_panel,
    notes,
    panels,
    styled,
)
from src.reports.pool_study import Study
from src.reports.table import Row, interval_of
from src.runs.measures import Relation
from src.stats.best_of_n import even_tau, expected_maximum, kl_bound

ROW = 0.19  # inches, of a selector under its judges


@styled
def scaling_figure(study: Study) -> Figure:
    """Score against N: a panel a measure, a line a selector, its own one dashed; better is up."""
    figure, axes = panels(
        len(study.shown),
        f"{study.title}: score against N",
        "Points: best-of-N, exact expectations from the pool. Lines: a + b·E(N), where E(N), the "
        "expected maximum of N standard normals, spaces the axis. Bands: 95% interval of the gain "
        "over N = 1, bootstrap over prompts. Dashed: the measure is the selector's own number, no "
        "evidence. Dotted: trained on the selector's data, not independent."
        + notes(study.measures[name] for name in study.shown),
    )
    for ax, name in zip(axes, study.shown, strict=True):
        for index, selector in enumerate(study.singles):
            rows = study.rows("scaling", selector=selector, measure=name)
            if rows:
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
        "alone likes. Bars: 95% interval, bootstrap over prompts. Hollow: trained on the "
        "selector's data. Not drawn: own numbers, and where the selector's gain is not clearly "
        "above zero. KL: bound on KL(best-of-N || model), in nats.",
        rows_each=2,
    )
    searched = [n for n in study.budgets if n > 1]
    for column, selector in enumerate(study.singles):
        above, below = axes[2 * column : 2 * column + 2]
        above.set_title(f"selector {selector}")
        above.set_xlabel("N")
        above.set_xscale("log", base=2)
        above.set_xticks(searched, [str(n) for n in searched])
        above.minorticks_off()
        below.set_xlabel("√KL (bound)")
        below.set_xlim(0, math.sqrt(kl_bound(study.largest)) * 1.1 or 1)
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
        + notes(study.measures[name] for name in study.shown),
    )
    for ax, name in zip(axes, names, strict=True):
        for index, verifier in enumerate(study.singles):
            rows = study.rows("prefix", verifier=verifier, measure=name or verifier)
            _line(ax, rows, "seconds", "tau", index, "own" if name else None)
        ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
        ax.set_xlabel("seconds heard")
        ax.set_xlim(0, study.pool.duration * 1.04)
        if name:
            name_panel(ax, study.measures[name])
        else:
            ax.set_title("the verifier itself,\nwhole clip", weight="bold")
            x = np.linspace(0, 1, 100)
            even = [even_tau(part) for part in x]
            ax.plot(x * study.pool.duration, even, color=GREY, linewidth=0.8, linestyle=":")
    _level(axes)
    axes[0].set_ylabel("Kendall's tau")
    _legend(figure, study.singles, "verifier")
    return figure


@styled
def selectors_figure(study: Study) -> Figure:
    """Gains at the largest N, a panel a judge, a row a selector, sums below their parts."""
    judges, names = study.judges or study.singles, (*study.singles, *study.sums)
    figure, axes = panels(
        len(judges),
        f"{study.title}: who selects for the judges",
        f"Gain of best-of-{study.largest} over one sample in within-prompt standard deviations of "
        "the judge, positive where better, with 95% interval over prompts; every selector chooses "
        "among the same clips: equal frames. Orange: weighted sums, each part in units of its own "
        "deviation. Hollow: trained on the judge's data, not independent. Own number: the judge is "
        "the selector's number or a part of it, no evidence."
        + notes(study.measures[name] for name in study.shown),
        height=0.75 + ROW * len(names),
        width=WIDTH,
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
        ax.axvline(0, color=GREY, linewidth=0.6, zorder=0)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.set_yticks(range(len(names)), names if ax is axes[0] else [""] * len(names))
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel("gain (sd)")
        name_panel(ax, study.measures[judge])
    ends = [end for ax in axes for end in ax.get_xlim()]
    for ax in axes:
        ax.set_xlim(min(ends), max(ends))
    if study.sums:
        _legend(figure, ("one verifier", "sum"), "selector")
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
