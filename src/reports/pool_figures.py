"""Figures of a pool's study as lines: score against N, transfer, and what beginnings say of wholes.

Those that are matrices are in src/reports/pool_matrices.py, that of composites in
src/reports/pool_selectors.py, that of cost in src/reports/cost_figure.py.
Widths suit two columns of a paper; each PNG carries the SHA-256 of the records it shows.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from src.reports.benchmark_figure import STYLE
from src.reports.pool_study import Pair, Study
from src.stats.best_of_n import kl_bound
from src.stats.intervals import Interval
from src.stats.scaling import E_n, even_tau

# Okabe and Ito's, those first that print well on white. Markers tell lines apart without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#888888"
WIDTH = 7.0  # inches: two columns
COLUMNS = 4
PANEL_HEIGHT = 1.75
TITLE_WIDTH = 100  # characters of 8 points on the whole width, beside a legend
CAPTION_WIDTH = 145  # of 6 points
PAPER = {**STYLE, "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7}
PAPER |= {"legend.frameon": False, "hatch.linewidth": 0.5}


def save(figure: Figure, path: Path, digests: Mapping[str, str]) -> Path:
    """Write a PNG. digests: what it is marked with, by key."""
    with mpl.rc_context(PAPER):
        figure.savefig(path, metadata={**digests, "Software": "Curator"})
    return path


def panels(
    count: int,
    title: str,
    caption: str,
    rows_each: int = 1,
    height: float = PANEL_HEIGHT,
    width: float | None = None,
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, or columns of `rows_each`, and its axes column by column.

    height: of a panel, width: of the figure, in inches; few panels make a narrower one by default.
    """
    rows = math.ceil(count / COLUMNS)
    columns = math.ceil(count / rows)
    width = width or min(WIDTH, max(WIDTH * columns / COLUMNS, WIDTH / 2) + 1)
    size = (width, rows * rows_each * height + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows * rows_each, columns, squeeze=False)
    axes = []
    for index in range(rows * columns):
        row, column = divmod(index, columns)
        for line in range(rows_each):
            ax = grid[row * rows_each + line, column]
            if index < count:
                axes.append(ax)
            else:
                ax.remove()
    part = width / WIDTH
    lines = textwrap.wrap(title, int(TITLE_WIDTH * part))
    figure.suptitle("\n".join(lines), fontsize=8, x=0.01, ha="left")
    lines = textwrap.wrap(caption, int(CAPTION_WIDTH * part))
    figure.supxlabel("\n".join(lines), fontsize=6, x=0.01, ha="left")
    return figure, axes


def look(index: int) -> tuple[str, str]:
    """Colour and marker of the index-th of several lines."""
    again = index // len(COLOURS)  # the same colour, with another marker
    return COLOURS[index % len(COLOURS)], MARKERS[(index + again) % len(MARKERS)]


def scaling_figure(study: Study) -> Figure:
    """Score against N: a panel a measure, a line a selector, its own one dashed; better is up."""
    caption = (
        "Points: best-of-N, exact expectations from the pool. Lines: a + b·E(N), where E(N), the "
        "expected maximum of N standard normals, spaces the axis. Bands: 95% interval of the gain "
        "over N = 1, bootstrap over prompts. Dashed: the measure is the selector's own number, no "
        "evidence. Dotted: trained on the selector's data, not independent."
    )
    with mpl.rc_context(PAPER):
        title = f"{study.title}: score against N"
        figure, axes = panels(len(study.shown), title, caption)
        for ax, name in zip(axes, study.shown, strict=True):
            for index, selector in enumerate(study.singles):
                if (pair := study.pairs.get((selector, name))) is not None:
                    _curve(ax, pair, *look(index))
            titled(ax, study, name)
            ax.set_xticks([E_n(n) for n in study.budgets], [str(n) for n in study.budgets])
            ax.set_xlabel("N")
            if not study.measures[name].higher_is_better:
                ax.invert_yaxis()
        axes[0].set_ylabel("score (better ↑)")
        _legend(figure, study.singles, "selector")
    return figure


def transfer_figure(study: Study) -> Figure:
    """Over-optimisation: a column a selector; against N above, against sqrt(KL bound) below."""
    caption = (
        "The judge's gain over the selector's gain, each in within-prompt standard deviations: 1, "
        "the judge gains what the selector gains; falling, the search finds what the selector "
        "alone likes. Bars: 95% interval, bootstrap over prompts. Hollow: trained on the "
        "selector's data. Not drawn: own numbers, and where the selector's gain is not clearly "
        "above zero. KL: bound on KL(best-of-N || model), in nats."
    )
    shown = study.judges or study.singles
    with mpl.rc_context(PAPER):
        title = f"{study.title}: transfer to the judges"
        figure, axes = panels(len(study.singles), title, caption, rows_each=2)
        for column, selector in enumerate(study.singles):
            above, below = axes[2 * column : 2 * column + 2]
            for index, name in enumerate(shown):
                pair = study.pairs.get((selector, name))
                if pair is None or pair.relation == "own":
                    continue
                shift = 1 + 0.03 * (index - (len(shown) - 1) / 2)  # so that bars stand apart
                _transfers(above, pair, [t.n * shift for t in pair.transfers], *look(index))
                roots = [t.sqrt_kl * (1 + (shift - 1) / 2) for t in pair.transfers]
                _transfers(below, pair, roots, *look(index))
            _dress_transfer(above, below, study, selector)
        _level(axes)
        axes[0].set_ylabel("transfer")
        axes[1].set_ylabel("transfer")
        _legend(figure, shown, "judge" if study.judges else "measure")
    return figure


def prefix_figure(study: Study) -> Figure:
    """How the score of the first t seconds ranks whole clips: by itself, then by each judge."""
    caption = (
        "Kendall's tau within prompts, mean and 95% interval over prompts, of the score of the "
        "first t seconds with the whole clip's. A tau of 0.5 orders three pairs of clips in four "
        "alike. Hollow: the judge is the verifier's own number, no evidence. Grey: what seconds "
        "that count alike and independently would give."
    )
    names = ["", *study.judges]
    with mpl.rc_context(PAPER):
        title = f"{study.title}: what beginnings say"
        figure, axes = panels(len(names), title, caption)
        for ax, name in zip(axes, names, strict=True):
            for index, verifier in enumerate(study.singles):
                _prefixes(ax, study, verifier, name or verifier, *look(index))
            ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
            ax.set_xlabel("seconds heard")
            ax.set_xlim(0, study.duration * 1.04)
            if name:
                titled(ax, study, name)
            else:
                ax.set_title("the verifier itself,\nwhole clip", weight="bold")
                x = np.linspace(0, 1, 100)
                even = [even_tau(part) for part in x]
                ax.plot(x * study.duration, even, color=GREY, linewidth=0.8, linestyle=":")
        _level(axes)
        axes[0].set_ylabel("Kendall's tau")
        _legend(figure, study.singles, "verifier")
    return figure


def _curve(ax: Axes, pair: Pair, colour: str, marker: str) -> None:
    x = np.array([E_n(point.n) for point in pair.points])
    y = np.array([point.mean for point in pair.points])
    start = y[0]  # of n = 1: its gain is 0
    low = [start + point.gain.low for point in pair.points]
    high = [start + point.gain.high for point in pair.points]
    ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    line = y if pair.fit is None else pair.fit.a + pair.fit.b * x
    style = {"own": "--", "shares data": ":"}.get(pair.relation, "-")
    ax.plot(x, line, color=colour, linewidth=1, linestyle=style)
    face = "white" if pair.relation == "own" else colour
    points: dict[str, Any] = {"markersize": 3, "markerfacecolor": face, "markeredgewidth": 0.7}
    ax.plot(x, y, marker, color=colour, **points)


def _transfers(ax: Axes, pair: Pair, x: Sequence[float], colour: str, marker: str) -> None:
    known = [(at, t.ratio) for at, t in zip(x, pair.transfers, strict=True) if t.ratio]
    if known:
        hollow = pair.relation == "shares data"
        _bars(ax, [at for at, _ in known], [r for _, r in known], colour, marker, hollow)


def _dress_transfer(above: Axes, below: Axes, study: Study, selector: str) -> None:
    searched = [n for n in study.budgets if n > 1]
    above.set_title(f"selector {selector}")
    above.set_xscale("log", base=2)
    above.set_xticks(searched, [str(n) for n in searched])
    above.minorticks_off()
    above.set_xlabel("N")
    below.set_xlabel("√KL (bound)")
    if searched:
        above.set_xlim(searched[0] / 1.25, searched[-1] * 1.25)
        below.set_xlim(0, math.sqrt(kl_bound(searched[-1])) * 1.1)
    for ax in (above, below):
        for level in (0, 1):
            ax.axhline(level, color=GREY, linewidth=0.6, linestyle="--" if level else "-", zorder=0)
        if not ax.containers:
            ax.text(0.5, 0.5, "no ratio", transform=ax.transAxes, ha="center", color=GREY)


def _prefixes(
    ax: Axes, study: Study, verifier: str, measure: str, colour: str, marker: str
) -> None:
    found = [p for p in study.prefixes if (p.verifier, p.measure) == (verifier, measure)]
    found = [p for p in found if p.agreement.prompts]
    if found:
        taus = [p.agreement.tau for p in found]
        pair = study.pairs.get((verifier, measure))
        own = verifier != measure and pair is not None and pair.relation == "own"
        _bars(ax, [p.seconds for p in found], taus, colour, marker, hollow=own)


def _bars(
    ax: Axes,
    x: Sequence[float],
    found: Sequence[Interval],
    colour: str,
    marker: str,
    hollow: bool,
) -> None:
    means = np.array([f.mean for f in found])
    ends = np.array([[f.mean - f.low, f.high - f.mean] for f in found]).T
    ax.errorbar(
        *(x, means),
        # a percentile interval of a skewed ratio need not hold the estimate
        yerr=np.maximum(np.nan_to_num(ends), 0),
        fmt=f"{marker}-",
        color=colour,
        markersize=3,
        markerfacecolor="white" if hollow else colour,
        markeredgewidth=0.7,
        linewidth=1,
        elinewidth=0.7,
    )


def _level(axes: Sequence[Axes]) -> None:
    """One scale for all: that of the means, so that one wide interval hides nothing."""
    drawn = [y for ax in axes for line in ax.lines for y in np.ravel(line.get_ydata())]
    low, high = min(drawn), max(drawn)
    for ax in axes:
        ax.set_ylim(low - 0.12 * (high - low), high + 0.12 * (high - low))


def titled(ax: Axes, study: Study, name: str) -> None:
    """Name a panel after its measure and that one's role; the primary judge is bold."""
    measure = study.measures[name]
    primary = study.judges[:1] == (name,)
    role = "primary judge" if primary else measure.role
    arrow = "↑" if measure.higher_is_better else "↓"
    ax.set_title(f"{name} {arrow}\n{role}", weight="bold" if primary else "normal")


def _legend(figure: Figure, names: Sequence[str], title: str) -> None:
    handles = []
    for index, name in enumerate(names):
        colour, marker = look(index)
        handles.append(
            Line2D([], [], color=colour, marker=marker, markersize=3, linewidth=1, label=name)
        )
    figure.legend(handles=handles, title=title, title_fontsize=7, loc="outside right upper")
