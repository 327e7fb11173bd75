"""What each method gives for its cost: a sweep's tree searches beside best-of-n from a pool.

    costs = cost_study(load_pool(pool_folder), sweep_folder, budgets=(1, 2, 4, 8, 16))

Best-of-n of every n follows from the pool: its score exactly (statistics.py), its frames as n
clips, its seconds as n times what a clip of the pool took to generate and to score. A tree search
has to be run; its cells are averaged over seeds within a prompt. All points are means over the same
prompts, and gains are paired with one sample of the same prompt.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from src.budget import TREE_METHODS
from src.reports.benchmark_summary import BASELINE, Measure
from src.reports.cost_cells import Cell, Row, differs, pool_rows, sweep_rows
from src.runs.records import read_manifest, read_records
from src.stats.intervals import Interval, bootstrap

if TYPE_CHECKING:
    from src.runs.pool import Pool


@dataclass(frozen=True)
class CostPoint:
    """A cell by one measure: means over prompts.

    gain: over one sample, None where no sample is known. matched: of a tree search, the best-of-n
    with as many frames (rounded down to whole clips), and over_matched by how much it differs from
    that one, paired. on_front: of frames, of seconds: no other point of the measure is as good for
    less.
    """

    cell: Cell
    measure: str
    own: bool
    prompts: int
    seeds: int
    frames: float
    seconds: float
    mean: float
    gain: Interval | None
    matched: int | None = None
    over_matched: Interval | None = None
    on_front: tuple[bool, bool] = (False, False)


@dataclass(frozen=True)
class CostStudy:
    """measures: the selector, then the primary judge, or for want of it the first one. notes: what
    was left out, and why."""

    title: str
    measures: tuple[Measure, ...]
    points: tuple[CostPoint, ...]
    notes: tuple[str, ...]


def cost_study(pool: "Pool | None", sweep: Path, budgets: Sequence[int]) -> CostStudy:
    """Raises RunFolderError for a folder that is no sweep's, StatsError for an empty one."""
    manifest, notes = read_manifest(sweep), list[str]()
    measures = [Measure(**entry) for entry in manifest["measures"]]
    # the primary judge, or for want of an independent one the first
    judges = [m for m in measures if m.is_evidence and m.kind == "clip"]
    judges.sort(key=lambda m: m.role != "primary judge")
    shown = [m for m in measures if m.role == "selector"] + judges[:1]
    rows = sweep_rows(list(read_records(sweep).values()), shown, notes)
    if pool is not None and (reason := differs(pool, sweep, shown)):
        notes.append(f"Best-of-n of the pool is left out: {reason}.")
        pool = None
    single = dict(rows)
    if pool is not None:
        equal = [int(np.mean(list(r.frames.values()))) // pool.frames for r in rows.values()]
        single |= pool_rows(pool, shown, [*budgets, *equal])
        rows |= {c: r for c, r in single.items() if c.source == "pool" and c.n in (1, *budgets)}
    single = {c: r for c, r in single.items() if not _tree(c)}
    points: list[CostPoint] = []
    every = {p for row in rows.values() for p in row.frames}
    over: dict[int, list[str]] = defaultdict(list)
    for measure in shown:
        prompts = _common(row.values[measure.name] for row in rows.values())
        if not prompts:
            notes.append(f"{measure.name}: no prompt has a number in all cells.")
            continue
        over[len(prompts)].append(measure.name)
        found = [_point(cell, row, measure, prompts, single) for cell, row in rows.items()]
        points += _front(found, measure)
    notes += [
        f"{', '.join(names)}: over the {count} of {len(every)} prompts that all of these have "
        "numbers for."
        for count, names in over.items()
        if count < len(every)
    ]
    return CostStudy(manifest.get("title", sweep.name), tuple(shown), tuple(points), tuple(notes))


def _point(
    cell: Cell, row: Row, measure: Measure, prompts: list[str], single: Mapping[Cell, Row]
) -> CostPoint:
    """single: baseline and best-of-n, with which a cell is compared."""

    def over(other: Cell | None) -> Interval | None:
        if other is None:
            return None
        theirs = single[other].values[measure.name]
        return bootstrap(len(prompts)).interval(values - np.array([theirs[p] for p in prompts]))

    values = np.array([row.values[measure.name][p] for p in prompts])
    frames = float(np.mean([row.frames[p] for p in prompts]))
    matched = _matched(frames, single, prompts) if _tree(cell) else None
    return CostPoint(
        cell=cell,
        measure=measure.name,
        own=not measure.is_evidence,
        prompts=len(prompts),
        seeds=row.seeds,
        frames=frames,
        seconds=float(np.mean([row.seconds[p] for p in prompts])),
        mean=float(values.mean()),
        gain=over(_exact([c for c in single if c.method == BASELINE])),
        matched=matched.n if matched else None,
        over_matched=over(matched),
    )


def _matched(frames: float, single: Mapping[Cell, Row], prompts: list[str]) -> Cell | None:
    """Best-of-n that spends as much as `frames`, or less by under a clip."""
    near = []
    for cell, row in single.items():
        spent = float(np.mean([row.frames[p] for p in prompts]))
        if spent <= frames < spent * (cell.n + 1) / cell.n:
            near.append(cell)
    return _exact(near)


def _exact(cells: Sequence[Cell]) -> Cell | None:
    """Exact expectations of a pool rather than the few samples that a sweep drew."""
    return next(iter(sorted(cells, key=lambda cell: cell.source != "pool")), None)


def _front(points: list[CostPoint], measure: Measure) -> list[CostPoint]:
    """The points with their place on the front of frames and on that of seconds."""
    sign = 1.0 if measure.higher_is_better else -1.0
    exact = any(point.cell.source == "pool" for point in points)
    # What a sweep sampled of best-of-n is not to beat its own expectation by chance.
    running = [p for p in points if not exact or p.cell.source == "pool" or _tree(p.cell)]
    scores = [sign * point.mean for point in running]
    by_frames = pareto([point.frames for point in running], scores)
    by_seconds = pareto([point.seconds for point in running], scores)
    fronts = {p.cell: on for p, *on in zip(running, by_frames, by_seconds, strict=True)}
    nowhere = [False, False]
    return [
        replace(point, on_front=(on[0], on[1]))
        for point in points
        for on in (fronts.get(point.cell, nowhere),)
    ]


def pareto(costs: Sequence[float], scores: Sequence[float]) -> list[bool]:
    """Which points no other beats: none scores as much for less, or more for as little."""
    pairs = list(zip(costs, scores, strict=True))
    return [
        not any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in pairs)
        for cost, score in pairs
    ]


def _tree(cell: Cell) -> bool:
    return cell.method in TREE_METHODS


def _common(values: Iterable[Mapping[str, float]]) -> list[str]:
    first, *rest = values
    return [p for p in first if all(p in other for other in rest)]
