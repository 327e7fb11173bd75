"""Figures of a pool's study as matrices: who selects well for whom, and which measures agree."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from src.reports.figure import new_figure, styled
from src.reports.pool_study import Study
from src.reports.table import interval_of
from src.runs.measures import Relation
from src.stats.best_of_n import expected_maximum
from src.stats.intervals import Interval

# Okabe and Ito's orange and blue, pale enough for black numbers.
DIVERGING = LinearSegmentedColormap.from_list("worse to better", ["#E69F5A", "#FFFFFF", "#5AA5D6"])
OWN = "#D9D9D9"
HATCH = "#808080"
CELL = (0.78, 0.42)  # inches
Cells = Mapping[tuple[str, str], tuple[Interval | None, Relation]]  # by row and column


@styled
def matrix_figure(study: Study) -> Figure:
    """Selector x measure: gains at the largest N in within-prompt deviations, positive better.

    Own-verifier cells are grey, those that share training data hatched.
    """
    cells: Cells = {
        (row["selector"], row["measure"]): (interval_of(row, "gain_sd"), row["relation"])
        for row in study.rows("matrix")
    }
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
    figure = _heat(study, study.selectors, study.shown, cells, title, caption, "gain (sd)")
    figure.axes[0].set_ylabel("selector")
    return figure


@styled
def agreement_figure(study: Study) -> Figure:
    """Kendall's tau within prompts between all measures, positive where both call better alike."""
    cells: Cells = {
        (row["b"], row["a"]): (interval_of(row, "tau"), "") for row in study.rows("agreement")
    }
    title = f"{study.title}: Kendall's tau within prompts"
    caption = (
        "Mean over prompts, with its 95% interval. Positive: both measures call the same clips "
        "better."
    )
    names = study.shown
    return _heat(study, names[1:], names[:-1], cells, title, caption, "tau", largest=1.0)


def _heat(
    study: Study,
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Cells,
    title: str,
    caption: str,
    label: str,
    largest: float | None = None,
) -> Figure:
    """largest: of the colours; that of what is independent by default."""
    free = [abs(v.mean) for v, relation in cells.values() if v and relation != "own"]
    limit = largest or max([*free, 0.1])
    colours = ScalarMappable(Normalize(-limit, limit), DIVERGING)
    width = max(3.4, 1.9 + CELL[0] * len(columns))
    figure = new_figure(width, 1.4 + CELL[1] * max(len(rows), 1), title, caption)
    ax = figure.subplots()
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            if (row, column) in cells:
                _cell(ax, x, y, *cells[row, column], colours)
    ax.set_xlim(0, max(len(columns), 1))
    ax.set_ylim(max(len(rows), 1), 0)
    ax.set_yticks([y + 0.5 for y in range(len(rows))], list(rows))
    named = [f"{name}\n{study.measures[name].role}" for name in columns]
    ax.set_xticks([x + 0.5 for x in range(len(columns))], named)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.xaxis.tick_top()
    bar = figure.colorbar(colours, ax=ax, shrink=0.8, aspect=15, pad=0.02)
    bar.set_label(label)
    bar.outline.set_linewidth(0)  # type: ignore[operator]
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
    centred: dict[str, Any] = {"ha": "center", "va": "center"}
    centred["color"] = "#555555" if own else "black"
    if value is None:
        ax.text(x + 0.5, y + 0.5, "-", **centred)
        return
    # numbers stay legible on the hatching
    centred["bbox"] = {"facecolor": face, "linewidth": 0, "pad": 0.6}
    ax.text(x + 0.5, y + 0.36, f"{value.mean:+.2f}", fontsize=8, **centred)
    if value.low == value.low:
        ends = f"[{value.low:+.2f}, {value.high:+.2f}]"
        ax.text(x + 0.5, y + 0.72, ends, fontsize=5.5, **centred)
