"""Figures of a pool's study as matrices: who selects well for whom, and which measures agree."""

from collections.abc import Sequence
from typing import Any

from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from src.reports.figure import new_figure, styled
from src.reports.pool_study import Study
from src.reports.table import ABSENT, Row, interval_of
from src.stats.best_of_n import expected_maximum

# Okabe and Ito's orange and blue, pale enough for black numbers.
DIVERGING = LinearSegmentedColormap.from_list("worse to better", ["#E69F5A", "#FFFFFF", "#5AA5D6"])
OWN = "#D9D9D9"
HATCH = "#808080"
CELL = (0.78, 0.42)  # inches


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
    keys, limit = ("selector", "measure", "gain_sd"), max([*free, 0.1])
    figure = _heat(study, rows, keys, title, caption, "gain (sd)", limit)
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
    return _heat(study, rows, ("b", "a", "tau"), title, caption, "tau", 1.0)


def _heat(
    study: Study,
    cells: Sequence[Row],
    keys: tuple[str, str, str],
    title: str,
    caption: str,
    label: str,
    limit: float,
) -> Figure:
    """keys: the columns that say where a cell stands, down and across, and what is in it. limit:
    the value of the strongest colour."""
    down, across, name = keys
    rows, columns = (list(dict.fromkeys(cell[key] for cell in cells)) for key in (down, across))
    colours = ScalarMappable(Normalize(-limit, limit), DIVERGING)
    size = max(3.4, 1.9 + CELL[0] * len(columns)), 1.4 + CELL[1] * max(len(rows), 1)
    figure = new_figure(*size, title, caption)
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
        mean = ABSENT if value is None else f"{value.mean:+.2f}"
        ax.text(x + 0.5, y + 0.36, mean, fontsize=8, **style)
        if value is not None and value.low == value.low:
            ends = f"[{value.low:+.2f}, {value.high:+.2f}]"
            ax.text(x + 0.5, y + 0.72, ends, fontsize=5.5, **style)
    ax.set_xlim(0, max(len(columns), 1))
    ax.set_ylim(max(len(rows), 1), 0)
    ax.set_yticks([y + 0.5 for y in range(len(rows))], rows)
    named = [f"{column}\n{study.measures[column].role}" for column in columns]
    ax.set_xticks([x + 0.5 for x in range(len(columns))], named)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.xaxis.tick_top()
    bar = figure.colorbar(colours, ax=ax, shrink=0.8, aspect=15, pad=0.02)
    bar.set_label(label)
    bar.outline.set_linewidth(0)  # type: ignore[operator]
    return figure
