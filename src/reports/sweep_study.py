"""What each method gives for its cost: a sweep's tree searches beside best-of-n from a pool.

    study = study_sweep(sweep_folder, load_pool(pool_folder), budgets=(1, 2, 4, 8, 16))

Best-of-n of every n follows from the pool: its score exactly (src/stats/best_of_n.py), its frames
as n clips, its seconds as n times what a clip of the pool took to generate and to score. A tree
search has to be run; its cells are averaged over seeds within a prompt. All rows are means over the
same prompts. cost.csv, a row a cell and measure:

    source           "pool", or the "sweep" that ran it
    frames, seconds  of a prompt, seconds without judging, which no search needs
    gain             over one sample of the same prompt, paired
    best_of_n        of a tree search: the n with as many frames, rounded down to whole clips;
                     over_best_of_n: by how much more the search gives, paired
    verdict          whether the search is better than that best-of-n
    front_frames, front_seconds    whether no other cell is as good for less
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from src.methods import BASELINE, BEST_OF_N, PARAMETERS, SearchCell
from src.reports import sentences
from src.reports.benchmark_study import value_of
from src.reports.table import Row, ends
from src.runs.measures import Measure, Verdict
from src.runs.pool import Pool
from src.runs.records import Record, read_manifest, read_records
from src.stats.best_of_n import chances, expected
from src.stats.intervals import Interval, StatsError, bootstrap

SAME_LENGTH = 0.05  # seconds by which clips of a pool and a sweep may differ
Source = Literal["pool", "sweep"]
Values = dict[str, float]  # by prompt


@dataclass(frozen=True)
class Sweep:
    """measures: the selector, then the primary judge, or for want of it the first one. notes: what
    was left out, and why."""

    title: str
    measures: tuple[Measure, ...]
    rows: list[Row]
    notes: list[str]


@dataclass(frozen=True)
class _Cell:
    """A cell's numbers by prompt, seeds averaged. values: by measure."""

    source: Source
    search: SearchCell
    seeds: int
    frames: Values
    seconds: Values
    values: dict[str, Values]

    @property
    def is_tree(self) -> bool:
        return self.search.method not in (BASELINE, BEST_OF_N)

    def mean_frames(self, prompts: Iterable[str]) -> float:
        return float(np.mean([self.frames[p] for p in prompts]))


def study_sweep(folder: Path, pool: Pool | None, budgets: Sequence[int]) -> Sweep:
    """Raises RunFolderError for a folder that is no sweep's, StatsError for an empty one."""
    manifest, records = read_manifest(folder), list(read_records(folder).values())
    measures = [Measure.from_record(entry) for entry in manifest["measures"]]
    judges = [m for m in measures if m.is_judge and m.kind == "clip"]
    judges.sort(key=lambda m: m.role != "primary judge")
    measures = [m for m in measures if m.role == "selector"] + judges[:1]
    cells, notes = _of_sweep(records, measures)
    if not cells:
        raise StatsError(" ".join(["this sweep has no finished search yet.", *notes]))
    if pool is not None and (reason := _differs(pool, records, measures)):
        notes.append(f"Best-of-n of the pool is left out: {reason}.")
        pool = None
    known = [cell for cell in cells if not cell.is_tree]
    if pool is not None:
        equal = [int(cell.mean_frames(cell.frames)) // pool.frames for cell in cells]
        exact = _of_pool(pool, measures, [1, *budgets, *equal])
        known = exact + known  # exact expectations rather than the few samples that a sweep drew
        cells += [cell for cell in exact if cell.search.candidates in (1, *budgets)]
    rows: list[Row] = []
    every = {p for cell in cells for p in cell.frames}
    fewer: dict[int, list[str]] = defaultdict(list)
    for measure in measures:
        first, *others = (cell.values[measure.name] for cell in cells)
        prompts = [p for p in first if all(p in other for other in others)]
        if not prompts:
            notes.append(f"{measure.name}: no prompt has a number in all cells.")
            continue
        if len(prompts) < len(every):
            fewer[len(prompts)].append(measure.name)
        rows += _with_front([_row(cell, measure, prompts, known) for cell in cells], measure)
    notes += [sentences.over_fewer(names, count, len(every)) for count, names in fewer.items()]
    return Sweep(manifest.get("title", folder.name), tuple(measures), rows, notes)


def cell_of(row: Row) -> SearchCell:
    """The setting that a row is of."""
    own = {p.name: row[p.name] for p in PARAMETERS if row[p.name] is not None}
    return SearchCell(row["method"], row["n"], own, row["step_size"])


def is_on_front(row: Row, rows: Sequence[Row], cost: str, sign: float) -> bool:
    """Whether no other scores as much for less, or more for as little. cost: a column."""
    own = row[cost], sign * row["mean"]
    others = [(other[cost], sign * other["mean"]) for other in rows]
    return not any(c <= own[0] and s >= own[1] and (c, s) != own for c, s in others)


def _of_sweep(
    records: Sequence[Record], measures: Sequence[Measure]
) -> tuple[list[_Cell], list[str]]:
    """Cells that have run on all prompts, and notes of those that have not."""
    by_cell: dict[SearchCell, list[Record]] = defaultdict(list)
    for record in records:
        by_cell[replace(SearchCell.from_record(record["cell"]), seed=None)].append(record)
    prompts = {cell: {r["prompt_id"] for r in own} for cell, own in by_cell.items()}
    most = max(map(len, prompts.values()), default=0)
    cells, notes = [], []
    for search in sorted(by_cell, key=lambda cell: (cell.method, cell.candidates)):
        own, has_run = by_cell[search], len(prompts[search])
        done = [record for record in own if record["status"] == "ok"]
        if has_run < most:
            why = f"it has run on {has_run} of {most} prompts"
            notes.append(f"{search.name} is left out: {why}.")
        elif not done:
            notes.append(f"{search.name} is left out: all its searches failed.")
        else:
            cells.append(
                _Cell(
                    source="sweep",
                    search=search,
                    seeds=len({SearchCell.from_record(r["cell"]).seed for r in own}),
                    frames=_by_prompt(done, lambda r: r["ledger"]["frames"]),
                    seconds=_by_prompt(done, _seconds),
                    values={
                        m.name: _by_prompt(done, partial(value_of, measure=m)) for m in measures
                    },
                )
            )
    return cells, notes


def _of_pool(pool: Pool, measures: Sequence[Measure], budgets: Iterable[int]) -> list[_Cell]:
    """Best-of-n of the pool, n = 1 being the baseline. measures: the selector first."""
    kept = [n for n in sorted(set(budgets)) if 1 <= n <= pool.size]
    selector = measures[0]
    scored = pool.values(selector.name)
    scores = [selector.sign * values for values in scored.values()]
    chosen = dict(zip(scored, chances(scores, kept), strict=True))
    found: dict[str, dict[str, Any]] = {}
    for measure in measures:
        values = pool.values(measure.name)
        both = [p for p in scored if p in values]
        at = expected([chosen[p] for p in both], [values[p] for p in both])
        found[measure.name] = dict(zip(both, at, strict=True))
    a_clip = pool.generation_seconds() + pool.seconds(selector.name)
    return [
        _Cell(
            source="pool",
            search=SearchCell(BASELINE if n == 1 else BEST_OF_N, n),
            seeds=1,
            frames=dict.fromkeys(scored, float(n * pool.frames)),
            seconds=dict.fromkeys(scored, n * a_clip),
            values={m: {p: float(x[i]) for p, x in at.items()} for m, at in found.items()},
        )
        for i, n in enumerate(kept)
    ]


def _differs(pool: Pool, records: Sequence[Record], measures: Sequence[Measure]) -> str:
    """Why a pool cannot be set beside a sweep; empty where it can."""
    for measure in measures:
        if measure.name not in pool.measures:
            return f"the pool has no scores of {measure.name}"
        known = pool.measures[measure.name].checkpoint
        if measure.checkpoint and known and measure.checkpoint != known:
            return (
                f"{measure.name} was made with other weights: {known} in the pool, "
                f"{measure.checkpoint} in the sweep"
            )
    for record in records:
        if record["status"] == "ok":
            seconds = record["winner"]["seconds"]
            if abs(seconds - pool.duration) > SAME_LENGTH:
                return f"its clips have {pool.duration:g} s, those of the sweep {seconds:g} s"
    return ""


def _row(cell: _Cell, measure: Measure, prompts: list[str], known: Sequence[_Cell]) -> Row:
    """known: baseline and best-of-n, with which a cell is compared; the first that fits."""

    def over(other: _Cell | None) -> Interval | None:
        if other is None:
            return None
        theirs = np.array([other.values[measure.name][p] for p in prompts])
        return bootstrap(len(prompts)).interval(values - theirs)

    values = np.array([cell.values[measure.name][p] for p in prompts])
    frames = cell.mean_frames(prompts)
    one = next((c for c in known if c.search.method == BASELINE), None)
    equal = None
    if cell.is_tree:
        equal = next((c for c in known if _as_many(frames, c, prompts)), None)
    difference = over(equal)
    verdict: Verdict | None = None
    if difference is not None:
        independent = measure.role == "primary judge"
        verdict = measure.verdict(difference) if independent else "not independent"
    return (
        {"method": cell.search.method, "source": cell.source, "n": cell.search.candidates}
        | {p.name: cell.search.parameters.get(p.name) for p in PARAMETERS}
        | {"step_size": cell.search.step_size, "measure": measure.name, "role": measure.role}
        | {"prompts": len(prompts), "seeds": cell.seeds, "frames": frames}
        | {"seconds": float(np.mean([cell.seconds[p] for p in prompts]))}
        | {"mean": float(values.mean())}
        | ends("gain", over(one))
        | {"best_of_n": equal.search.candidates if equal else None}
        | ends("over_best_of_n", difference, "over_")
        | {"verdict": verdict}
    )


def _as_many(frames: float, single: _Cell, prompts: Sequence[str]) -> bool:
    """Whether best-of-n spends as much as `frames`, or less by under a clip."""
    n, spent = single.search.candidates, single.mean_frames(prompts)
    return spent <= frames < spent * (n + 1) / n


def _with_front(rows: Sequence[Row], measure: Measure) -> list[Row]:
    """The rows with their place on the front of frames and on that of seconds."""
    exact = any(row["source"] == "pool" for row in rows)
    # What a sweep sampled of best-of-n is not to beat its own expectation by chance.
    sampled = {BASELINE, BEST_OF_N} if exact else set()
    running = [row for row in rows if row["source"] == "pool" or row["method"] not in sampled]
    found: list[Row] = []
    for row in rows:
        fronts = {
            f"front_{cost}": row in running and is_on_front(row, running, cost, measure.sign)
            for cost in ("frames", "seconds")
        }
        found.append({**row, **fronts})
    return found


def _by_prompt(
    records: Iterable[Record], read: Callable[[Record], float | None]
) -> dict[str, float]:
    """Means over seeds, where there is a number."""
    found: dict[str, list[float]] = defaultdict(list)
    for record in records:
        if (value := read(record)) is not None:
            found[record["prompt_id"]].append(float(value))
    return {prompt: float(np.mean(values)) for prompt, values in found.items()}


def _seconds(record: Record) -> float:
    """Without judging, which no search needs."""
    return float(sum(s for stage, s in record["ledger"]["seconds"].items() if stage != "judge"))
