"""Figures of a pool's study as matrices: who selects well for whom, and which measures agree."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from src.reports.pool_figures import PAPER
from src.reports.pool_study import Relation, Study
from src.stats.intervals import Interval
from src.stats.scaling import E_n

# Okabe and Ito's orange and blue, pale enough for black numbers.
DIVERGING = LinearSegmentedColormap.from_list("worse to better", ["#E69F5A", "#FFFFFF", "#5AA5D6"])
OWN = "#D9D9D9"
HATCH = "#808080"
CELL = (0.78, 0.42)  # inches


def matrix_figure(study: Study) -> Figure:
    """Selector x measure: gains at the largest N in within-prompt deviations, positive better.

    Own-verifier cells are grey, those that share training data hatched.
    """
    columns = list(study.shown)
    cells = {
        (row, column): (pair.standard, pair.relation) for (row, column), pair in study.pairs.items()
    }
    title = (
        f"{study.title}: gain of best-of-{study.largest} over one sample,\nin within-prompt "
        f"standard deviations; the best that a selector could reach with normal scores is "
        f"{E_n(study.largest):.2f}"
    )
    caption = (
        "Positive: better, whatever the measure's direction. Brackets: 95% interval over prompts.\n"
        "Grey: the selector's own number, no evidence. Hatched: trained on the selector's data, "
        "not independent."
    )
    figure = _heat(study.selectors, columns, cells, title, caption, "gain (sd)")
    (ax, *_) = figure.axes
    ax.set_ylabel("selector")
    ax.set_xticks(*_centres(_labelled(study, columns)))
    return figure


def agreement_figure(study: Study) -> Figure:
    """Kendall's tau within prompts between all measures, positive where both call better alike."""
    names = study.shown
    cells: dict[tuple[str, str], tuple[Interval | None, Relation]] = {
        (b, a): (found.tau if found.prompts else None, "")
        for (a, b), found in study.agreement.items()
    }
    title = f"{study.title}: Kendall's tau within prompts"
    caption = (
        "Mean over prompts, with its 95% interval. Positive: both measures call the same clips "
        "better."
    )
    figure = _heat(names[1:], names[:-1], cells, title, caption, "tau", largest=1.0)
    figure.axes[0].set_xticks(*_centres(_labelled(study, names[:-1])))
    return figure


def _heat(
    rows: Sequence[str],
    columns: Sequence[str],
    cells: dict[tuple[str, str], tuple[Interval | None, Relation]],
    title: str,
    caption: str,
    label: str,
    largest: float | None = None,
) -> Figure:
    free = [abs(v.mean) for v, relation in cells.values() if v and relation != "own"]
    limit = largest or max([*free, 0.1])
    colours = ScalarMappable(Normalize(-limit, limit), DIVERGING)
    size = (max(3.4, 1.9 + CELL[0] * len(columns)), 1.4 + CELL[1] * max(len(rows), 1))
    with mpl.rc_context(PAPER):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.subplots()
        for y, row in enumerate(rows):
            for x, column in enumerate(columns):
                if (row, column) in cells:
                    _cell(ax, x, y, *cells[row, column], colours)
        ax.set_xlim(0, max(len(columns), 1))
        ax.set_ylim(max(len(rows), 1), 0)
        ax.set_yticks(*_centres(rows))
        ax.tick_params(length=0)
        for side in ax.spines.values():
            side.set_visible(False)
        ax.xaxis.tick_top()
        bar = figure.colorbar(colours, ax=ax, shrink=0.8, aspect=15, pad=0.02)
        bar.set_label(label)
        bar.outline.set_linewidth(0)  # type: ignore[operator]
        figure.suptitle(title, fontsize=8, x=0.01, ha="left")
        figure.supxlabel(caption, fontsize=6, x=0.01, ha="left")
    return figure


def _cell(
    ax: Axes, x: int, y: int, value: Interval | None, relation: Relation, colours: ScalarMappable
) -> None:
    own = relation == "own"
    face = OWN if own or value is None else colours.to_rgba(value.mean)  # type: ignore[arg-type]
    ax.add_patch(Rectangle((x, y), 1, 1, facecolor=face, edgecolor="white", linewidth=1.5))
    if relation == "shares data":
        inner: dict[str, Any] = {"facecolor": "none", "edgecolor": HATCH, "linewidth": 0}
        ax.add_patch(Rectangle((x, y), 1, 1, hatch="////", **inner))
    colour = "#555555" if own else "black"
    # numbers stay legible on the hatching
    plate = {"facecolor": face, "linewidth": 0, "pad": 0.6}
    if value is None:
        ax.text(x + 0.5, y + 0.5, "-", ha="center", va="center", color=colour)
        return
    text: dict[str, Any] = {"ha": "center", "va": "center", "color": colour, "bbox": plate}
    ax.text(x + 0.5, y + 0.36, f"{value.mean:+.2f}", fontsize=8, **text)
    if value.low == value.low:
        ends = f"[{value.low:+.2f}, {value.high:+.2f}]"
        ax.text(x + 0.5, y + 0.72, ends, fontsize=5.5, **text)


def _centres(names: Sequence[str]) -> tuple[list[float], list[str]]:
    return [index + 0.5 for index in range(len(names))], list(names)


def _labelled(study: Study, names: Sequence[str]) -> list[str]:
    primary = study.judges[:1]
    roles = {n: "primary judge" if n in primary else study.measures[n].role for n in names}
    return [f"{name}\n{roles[name]}" for name in names]
