"""What verifier_experiment.py leaves beside a sweep of tree searches: cost.csv, cost.png, a text.

They are made anew, from the records alone; the pool's best-of-n stands beside the sweep's searches.
"""

import math
from collections.abc import Sequence
from itertools import groupby, product
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from src.methods import BEST_OF_N, METHODS, colour_of
from src.reports.figure import GREY, WIDTH, intervals, name_panel, notes, panels, save, styled
from src.reports.sweep_study import Sweep, cell_of, study_sweep
from src.reports.table import (
    HOLM,
    INTERVALS,
    Row,
    brackets,
    describe,
    digits_of,
    document,
    interval_of,
    layout,
    shown,
    write_tables,
)
from src.runs.measures import Measure
from src.runs.pool import Pool
from src.stats.intervals import Interval

APART = 1.05  # by which points of equal cost are spread, so that their intervals can be seen
BY_K = ("o", "^", "s", "D")  # markers by lookahead k, the last for all larger ones
AXES = {"frames": "frames generated per prompt", "seconds": "seconds per prompt"}
LEGEND = (
    "*: on the Pareto front of frames; +: of seconds. To equal frames: to best-of-n with as many "
    f"frames, and whether that is better. Brackets: {INTERVALS}, paired by prompt. Better, worse: "
    f"p {HOLM}. (pool): exact expectations from the pool; with it, one sample is the mean of a "
    "prompt's candidates. Seconds are as the runs took them, also where the machine was busy: "
    "latency_experiment.py compares seconds."
)


def report(
    folder: Path | str, pool: Pool | None, budgets: Sequence[int], output: Path | str | None = None
) -> str:
    """Write a sweep's table and figure; returns the text that says what they show.

    budgets: N of the pool's best-of-n. output: instead of the sweep's folder.
    Raises StatsError and RunFolderError.
    """
    study = study_sweep(folder, pool, budgets)
    where = Path(output or folder)
    write_tables(where, {"cost": study.rows})
    beside = None if pool is None else pool.folder
    save(cost_figure(study), where / "cost.png", folder, beside)
    return sweep_text(study)


def sweep_text(study: Sweep) -> str:
    """Under each measure the cells by cost; then what to know."""
    lines: list[str] = []
    for measure in study.measures:
        if rows := [row for row in study.rows if row["measure"] == measure.name]:
            rows.sort(key=lambda row: (row["frames"], row["seconds"]))
            heading = f"{measure.name} {measure.arrow}  {describe(measure)}"
            lines += ["", f"{heading}, {rows[0]['prompts']} prompts", *_table(rows, measure)]
    return document([study.title], lines[1:], [LEGEND, *study.notes])


def _table(rows: Sequence[Row], measure: Measure) -> list[str]:
    digits = digits_of(row["mean"] for row in rows)
    form = f"+.{digits}f"
    texts = [
        {
            "": _label(row),
            "frames": f"{row['frames']:,.0f}",
            "seconds": f"{row['seconds']:.3g}",
            "value": f"{row['mean']:.{digits}f}",
            "to one sample": shown(row["gain"], form),
            "to equal frames": brackets(interval_of(row, "over_best_of_n", "over_"), form),
        }
        | ({"verdict": row["verdict"] or ""} if measure.is_judge else {})
        for row in rows
    ]
    return layout({"": texts}, left=("to one sample", "to equal frames", "verdict"))


def _label(row: Row) -> str:
    front = "*" * row["front_frames"] + "+" * row["front_seconds"]
    step = "" if row["step_size"] is None else f" {row['step_size']:g}s"
    source = " (pool)" if row["source"] == "pool" else ""
    return f"{front:2} {cell_of(row).name}{step}{source}"


@styled
def cost_figure(study: Sweep) -> Figure:
    """Score against frames and against seconds, a row a measure; better is up."""
    figure, axes = panels(
        2,
        f"{study.title}: what each method gives for its cost",
        f"Gains over one sample, mean over prompts (and seeds), {INTERVALS}, paired by prompt. "
        "Size: N. Marker: lookahead k (0 circle, 1 triangle, 2 square, more diamond). Line: "
        "best-of-N from the pool, exact; hollow: run by the sweep itself. Grey: Pareto front, "
        "labelled. Hatched: the selector's own number, no evidence. Points of equal cost stand a "
        "little apart. Seconds leave judging out; those of the pool's best-of-N are N/m of its "
        "own." + notes(study.measures),
        rows_each=len(study.measures),
        height=2.3,
        width=WIDTH,
    )
    for ax, (cost, measure) in zip(axes, product(AXES, study.measures), strict=True):
        _panel(ax, study, measure, cost)
    _legend(figure, study)
    return figure


def _panel(ax: Axes, study: Sweep, measure: Measure, cost: str) -> None:
    rows = sorted((r for r in study.rows if r["measure"] == measure.name), key=lambda r: r[cost])
    height = "gain" if all(row["gain"] is not None for row in rows) else "mean"
    front = [row for row in rows if row[f"front_{cost}"]]
    steps = [row[cost] for row in front], [row[height] for row in front]
    ax.step(*steps, where="post", color=GREY, linewidth=0.8, zorder=1)
    pool = [row for row in rows if row["source"] == "pool"]
    line = [row[cost] for row in pool], [row[height] for row in pool]
    ax.plot(*line, color=colour_of(BEST_OF_N), lw=0.8)
    for spent, level in groupby(rows, key=lambda row: row[cost]):
        found = [*level]
        for index, row in enumerate(found):
            _mark(ax, row, spent * APART ** (index - (len(found) - 1) / 2), height)
    for index, row in enumerate(row for row in front if cell_of(row).prunes):
        # above and to the left of a front there is nothing; neighbours stand at two heights
        place: dict[str, Any] = {"xytext": (-3, 3 + index % 2 * 6), "textcoords": "offset points"}
        place |= {"ha": "right", "va": "bottom", "fontsize": 5}
        ax.annotate(cell_of(row).label, (row[cost], row[height]), **place)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:,g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.margins(x=0.12)
    if not measure.higher_is_better:
        ax.invert_yaxis()
    if cost == "frames":
        ax.set_ylabel("gain (better ↑)" if height == "gain" else "score (better ↑)")
    if measure is study.measures[-1]:
        ax.set_xlabel(AXES[cost])
    name_panel(ax, measure)


def _mark(ax: Axes, row: Row, x: float, height: str) -> None:
    cell = cell_of(row)
    found = interval_of(row, "gain") if height == "gain" else None
    intervals(
        ax,
        [x],
        [found or Interval(row[height], math.nan, math.nan)],
        colour_of(cell.method),
        hollow=row["source"] == "sweep" and not cell.prunes,
        fmt=BY_K[min(int(cell.parameters.get("lookahead_k", 0)), len(BY_K) - 1)],
        markersize=_size(cell.candidates),
        alpha=0.85,
        zorder=2,
    )


def _size(n: int) -> float:
    """Of a marker of N candidates, in points: its area grows with log N."""
    return 2.5 * math.sqrt(1 + math.log2(n))


def _legend(figure: Figure, study: Sweep) -> None:
    methods = {row["method"] for row in study.rows}
    known = [method for method in METHODS if method in methods]
    plain: dict[str, Any] = {"linestyle": "", "marker": "o"}
    handles = [
        Line2D([], [], color=colour_of(method), markersize=4, label=method, **plain)
        for method in [*known, *sorted(methods - set(known))]
    ]
    handles += [
        Line2D([], [], color=GREY, markersize=_size(n), label=f"N = {n}", **plain)
        for n in sorted({row["n"] for row in study.rows})
    ]
    figure.legend(handles=handles, loc="outside right upper")
