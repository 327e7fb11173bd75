"""What all figures have in common: style, colours, panels, and the mark of their records.

Widths suit two columns of a paper. Each PNG carries the SHA-256 of the records that it shows, so
that a figure can be told from one of another run. Colours of methods are src/methods.py's.
"""

import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from src.data.files import write_whole
from src.runs.measures import Measure
from src.runs.records import records_digest
from src.stats.intervals import Interval

DIGEST_KEY = "Records-SHA256"  # in a PNG
POOL_DIGEST_KEY = f"Pool-{DIGEST_KEY}"  # of a sweep with a pool beside it
# Okabe and Ito's, those first that print well on white. Markers tell lines apart without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#888888"
WIDTH = 7.0  # inches: two columns
COLUMNS = 4  # of panels
PANEL_HEIGHT = 1.75  # inches
ROW = 0.19  # inches, of a name under its judges
TITLE_CHARACTERS, CAPTION_CHARACTERS = 14, 20  # an inch: of 8 and of 6 points
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "hatch.linewidth": 0.5,
    "figure.dpi": 200,
}
styled = mpl.rc_context(STYLE)  # decorates what draws


def new_figure(width: float, height: float, title: str, caption: str) -> Figure:
    """An empty figure, in inches. title, caption: wrapped to its width, line by line."""
    figure = Figure(figsize=(width, height), layout="constrained")
    above, below = (
        "\n".join(textwrap.fill(line, int(width * characters)) for line in text.splitlines())
        for text, characters in ((title, TITLE_CHARACTERS), (caption, CAPTION_CHARACTERS))
    )
    figure.suptitle(above, fontsize=8, x=0.01, ha="left")
    figure.supxlabel(below, fontsize=6, x=0.01, ha="left")
    return figure


def panels(
    count: int,
    title: str,
    caption: str,
    rows_each: int = 1,
    height: float = PANEL_HEIGHT,
    width: float | None = None,
    columns: int = COLUMNS,
    sharey: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, or columns of `rows_each`, and its axes column by column.

    height: of a panel, width: of the figure, in inches; few panels make a narrower one by default.
    columns: the most in a row; panels are spread evenly over the rows that this takes.
    """
    rows = math.ceil(count / columns)
    across = math.ceil(count / rows)
    width = width or min(WIDTH, max(WIDTH * across / COLUMNS, WIDTH / 2) + 1)
    figure = new_figure(width, rows * rows_each * height + 0.6, title, caption)
    grid = figure.subplots(rows * rows_each, across, squeeze=False, sharey=sharey)
    columns_of = [
        grid[row * rows_each :][:rows_each, i] for row in range(rows) for i in range(across)
    ]
    axes = [ax for column in columns_of for ax in column]
    for ax in axes[count * rows_each :]:
        ax.remove()
    return figure, axes[: count * rows_each]


def gain_panels(
    judges: Sequence[Measure], names: Sequence[str], title: str, caption: str
) -> tuple[Figure, list[Axes]]:
    """For gains in deviations: a panel a judge, a row a name, the first name on top."""
    # Three in a row: names of judges with controls are long.
    style: dict[str, Any] = {"height": 0.75 + ROW * len(names), "width": WIDTH, "columns": 3}
    figure, axes = panels(len(judges), title, caption + notes(judges), **style)
    for ax, judge in zip(axes, judges, strict=True):
        ax.axvline(0, color=GREY, linewidth=0.6, zorder=0)
        ax.set(xlabel="gain (sd)", ylim=(len(names) - 0.5, -0.5))
        first = ax.get_subplotspec().is_first_col()  # type: ignore[union-attr]
        ax.set_yticks(range(len(names)), names if first else [""] * len(names))
        ax.tick_params(axis="y", length=0)
        name_panel(ax, judge)
    return figure, axes


@styled
def save(figure: Figure, path: Path, run: Path | str, pool: Path | None = None) -> None:
    """Write a PNG of 64 colours, a quarter of the bytes of one with all.

    run: the folder whose records it shows; pool: that of a sweep's figure with a pool beside it.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., :3] @ [1 << 16, 1 << 8, 1]
    marks = PngInfo()
    marks.add_text(DIGEST_KEY, records_digest(run))
    if pool is not None:
        marks.add_text(POOL_DIGEST_KEY, records_digest(pool))
    marks.add_text("Software", "Curator")
    # The commonest colours as they are, others as the nearest of them: in a palette of averages a
    # method of few pixels has another colour.
    packed, which, counts = np.unique(drawn, return_inverse=True, return_counts=True)
    colours = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=-1)
    common = colours[np.argsort(-counts, kind="stable")[:256]]
    nearest = abs(colours[:, None] - common).sum(axis=-1).argmin(axis=1)
    few = Image.fromarray(nearest[which].reshape(drawn.shape).astype(np.uint8), "P")
    few.putpalette(common.astype(np.uint8).tobytes())
    png = io.BytesIO()
    few.save(png, "PNG", pnginfo=marks, optimize=True, dpi=(figure.dpi, figure.dpi))
    write_whole(path, png.getvalue())


def look(index: int) -> tuple[str, str]:
    """Colour and marker of the index-th of several lines."""
    again = index // len(COLOURS)  # the same colour, with another marker
    return COLOURS[index % len(COLOURS)], MARKERS[(index + again) % len(MARKERS)]


def name_panel(ax: Axes, measure: Measure) -> None:
    """Title a panel with a measure, its direction and role.

    The primary judge is bold; what is no evidence is italic, on a hatched ground.
    """
    noted = " †" if measure.note else ""
    role = "selector: own verifier" if measure.role == "selector" else measure.role
    own = measure.role in ("selector", "own verifier")
    ax.set_title(
        f"{measure.name} {measure.arrow}{noted}\n{role}",
        weight="bold" if measure.role == "primary judge" else "normal",
        style="italic" if own else "normal",
    )
    if own:
        ax.patch.set(facecolor="#F0F0F0", hatch="////", edgecolor="#E0E0E0", linewidth=0)


def notes(measures: Iterable[Measure]) -> str:
    """Lines of a caption: what the marks at measures' names stand for."""
    return "".join(f"\n† {m.name}: {m.note}." for m in measures if m.note)


def intervals(
    ax: Axes,
    at: Sequence[float],
    found: Sequence[Interval],
    colour: str,
    sideways: bool = False,
    hollow: bool = False,
    **style: Any,
) -> None:
    """Means with bars to the ends of their intervals, where there are ends.

    at: where they stand on the other axis. sideways: values are on the x axis. hollow: markers
    that are not filled. style: of Axes.errorbar.
    """
    means = np.array([f.mean for f in found])
    # A percentile interval of a skewed ratio need not hold the estimate.
    ends = np.maximum(0, [[f.mean - f.low for f in found], [f.high - f.mean for f in found]])
    places: dict[str, Any] = {"x": at, "y": means, "yerr": ends}
    if sideways:
        places = {"x": means, "y": at, "xerr": ends}
    usual = {"fmt": "o", "markersize": 3, "markeredgewidth": 0.7, "elinewidth": 0.7}
    face = "white" if hollow else colour
    ax.errorbar(**places, color=colour, **{**usual, "markerfacecolor": face, **style})
