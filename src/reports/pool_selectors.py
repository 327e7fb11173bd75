"""Which selector serves the judges best, all at equal frames: composites beside their parts.

Every selector chooses among the same clips of a pool, so its gain at one N costs the same frames
whoever selects; sums cost what their parts cost to score. Compared are gains in within-prompt
deviations of the judge, and paired differences of two selectors over the same prompts.
"""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from src.reports.pool_figures import COLOURS, GREY, PAPER, WIDTH, panels, titled
from src.reports.pool_study import Pair, Study, difference
from src.reports.text import brackets, digits_of

SINGLE, SUM = COLOURS[:2]
ROW = 0.19  # inches
OWN = "own number"


def ranked(study: Study, judge: str) -> list[Pair]:
    """The selectors that are independent of a judge, best first."""
    found = [
        (pair.standard.mean, pair)
        for s in study.selectors
        if (pair := study.pairs.get((s, judge))) and not pair.relation and pair.standard
    ]
    return [pair for _, pair in sorted(found, key=lambda item: -item[0])]


def selector_sentences(study: Study) -> list[str]:
    """Who serves each judge best and whom it clearly beats; what sums add to their parts."""
    if not study.judges:
        return ["No judge has scored this pool: nothing here shows that selected clips are better."]
    lines = [line for judge in study.judges if (line := _best(study, judge))]
    if lines:
        lines[-1] += " The best of several on the same prompts is a little flattered."
    return lines + [line for name in study.sums if (line := _over_parts(study, name))]


def _best(study: Study, judge: str) -> str:
    free = ranked(study, judge)
    if len(free) < 2:
        return ""
    best = free[0]
    if best.standard is None or not best.standard.mean > 0:
        return f"By {judge}, none of the {len(free)} selectors independent of it gains anything."
    sides: dict[bool, list[str]] = {True: [], False: []}
    for other in free[1:]:
        over = difference(study, judge, best.selector, other.selector)
        sides[over is not None and over.low > 0].append(other.selector)
    told = [
        f"{word} better than {', '.join(sides[clear])}"
        for clear, word in ((True, "clearly"), (False, "not clearly"))
        if sides[clear]
    ]
    return (
        f"Of the selectors independent of {judge}, {best.selector} serves it best at equal frames, "
        f"{brackets(best.standard)}: {'; '.join(told)}."
    )


def _over_parts(study: Study, name: str) -> str:
    """A sum by the first judge that is independent of it, beside its parts by the same judge."""
    judge = study.primary(name)
    if judge is None:
        return f"{name}: no judge is independent of it."
    told = []
    for part in study.measures[name].scales:
        over = difference(study, judge, name, part)
        told.append(f"{brackets(over, digits_of(over) if over else 2)} over {part}")
    return f"{name} by {judge}, paired, in its unit, positive where better: {', '.join(told)}."


def selector_rows(study: Study) -> list[list[Any]]:
    """judge, N, selector, other, and by how much more the first gains: each two selectors once."""
    rows = []
    for judge in study.judges or study.shown:
        for n in study.budgets[1:]:
            for index, one in enumerate(study.selectors):
                for other in study.selectors[index + 1 :]:
                    found = difference(study, judge, one, other, n)
                    if found is not None:
                        rows.append([judge, n, one, other, found])
    return rows


def selectors_figure(study: Study) -> Figure:
    """Gains at the largest N, a panel a judge, a row a selector, sums below their parts."""
    caption = (
        f"Gain of best-of-{study.largest} over one sample in within-prompt standard deviations of "
        "the judge, positive where better, with 95% interval over prompts; every selector chooses "
        "among the same clips: equal frames. Orange: weighted sums, each part in units of its own "
        "deviation. Hollow: trained on the judge's data, not independent. Own number: the judge is "
        "the selector's number or a part of it, no evidence."
    )
    judges = study.judges or study.singles
    names = (*study.singles, *study.sums)
    with mpl.rc_context(PAPER):
        title = f"{study.title}: who selects for the judges"
        height = 0.75 + ROW * len(names)
        figure, axes = panels(len(judges), title, caption, height=height, width=WIDTH)
        for index, (ax, judge) in enumerate(zip(axes, judges, strict=True)):
            _panel(ax, study, judge, names)
            ax.set_yticklabels(names if index == 0 else [])
        _level(axes)
        handles = [
            Line2D([], [], color=colour, marker=marker, markersize=3.5, linewidth=1, label=label)
            for colour, marker, label in ((SINGLE, "o", "one verifier"), (SUM, "D", "sum"))
        ]
        if study.sums:
            figure.legend(handles=handles, loc="outside right upper")
    return figure


def _panel(ax: Axes, study: Study, judge: str, names: Sequence[str]) -> None:
    for y, name in enumerate(names):
        pair = study.pairs.get((name, judge))
        if pair is None or pair.standard is None or pair.relation == "own":
            why = OWN if pair is not None and pair.relation == "own" else "-"
            ax.text(0, y, f"  {why}", fontsize=5.5, color=GREY, ha="left", va="center")
            continue
        found, is_sum = pair.standard, name in study.sums
        ends = [[max(found.mean - found.low, 0)], [max(found.high - found.mean, 0)]]
        colour = SUM if is_sum else SINGLE
        ax.errorbar(
            *(found.mean, y),
            xerr=ends if math.isfinite(found.low) else None,
            fmt="D" if is_sum else "o",
            color=colour,
            markersize=3.5,
            markerfacecolor="white" if pair.relation else colour,
            markeredgewidth=0.8,
            elinewidth=1,
        )
    ax.axvline(0, color=GREY, linewidth=0.6, zorder=0)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_yticks(range(len(names)))
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("gain (sd)")
    titled(ax, study, judge)


def _level(axes: Sequence[Axes]) -> None:
    """One scale for all panels."""
    ends = [end for ax in axes for end in ax.get_xlim()]
    for ax in axes:
        ax.set_xlim(min(ends), max(ends))
