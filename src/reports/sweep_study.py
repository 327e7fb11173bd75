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
    p, p_holm        of over_best_of_n, p_holm adjusted over the searches of this table (Holm)
    verdict          whether the search is better than that best-of-n, by p_holm
    front_frames, front_seconds    whether no other cell is as good for less
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from src.cells import SearchCell
from src.judges.base import CONTRAST
from src.methods import BASELINE, BEST_OF_N, PARAMETERS
from src.reports.benchmark_study import value_of
from src.reports.table import Row, adjusted, ends, without_absent
from src.runs.measures import Measure, measures_of
from src.runs.pool import Pool, of_both
from src.runs.records import Record, read_manifest, read_records, without_tree
from src.stats.best_of_n import best_of_n
from src.stats.intervals import StatsError, mean_interval, mean_p

SAME_LENGTH = 0.05  # seconds by which clips of a pool and a sweep may differ
COSTS = ("frames", "seconds")
SINGLE = (BASELINE, BEST_OF_N)  # what all others, the tree searches, are compared with


@dataclass(frozen=True)
class Sweep:
    """measures: the selector, then the primary judge, or for want of it the first one, with its
    prompt-specific part where there is one. notes: what was left out, and why."""

    title: str
    measures: tuple[Measure, ...]
    rows: list[Row]
    notes: list[str]


@dataclass(frozen=True)
class _Cell:
    """A setting's numbers, seeds averaged: a row a prompt, a column each of COSTS and measures."""

    source: Literal["pool", "sweep"]
    search: SearchCell
    seeds: int
    numbers: pd.DataFrame

    def mean(self, column: str, prompts: Sequence[str] | pd.Index) -> float:
        return float(self.numbers.loc[prompts, column].mean())


def study_sweep(folder: Path | str, pool: Pool | None, budgets: Sequence[int]) -> Sweep:
    """Raises RunFolderError for a folder that is no sweep's, StatsError for an empty one."""
    manifest = read_manifest(folder)
    records = list(read_records(folder, without_tree).heads.values())
    measures = measures_of(manifest)
    judges = [m for m in measures if m.is_judge and m.kind == "clip"]
    judges.sort(key=lambda m: m.role != "primary judge")
    shown = {n for judge in judges[:1] for n in (judge.plain, judge.plain + CONTRAST)}
    measures = [m for m in measures if m.role == "selector"]
    measures += [judge for judge in judges if judge.name in shown]
    cells, notes = _of_sweep(records, measures)
    notes = [*manifest.get("caveats", ()), *notes]
    if not cells:
        raise StatsError(" ".join(["this sweep has no finished search yet.", *notes]))
    if pool is not None and (reason := _differs(pool, records, measures)):
        notes.append(f"Best-of-n of the pool is left out: {reason}.")
        pool = None
    singles = [c for c in cells if c.search.method in SINGLE]
    if pool is not None:
        equal = [int(c.mean("frames", c.numbers.index)) // pool.frames for c in cells]
        exact = _of_pool(pool, measures, [1, *budgets, *equal])
        singles = exact + singles  # exact expectations rather than the few samples of a sweep
        cells += [cell for cell in exact if cell.search.candidates in (1, *budgets)]
    rows: list[Row] = []
    every = {prompt for cell in cells for prompt in cell.numbers.index}
    for measure in measures:
        first, *others = (cell.numbers[measure.name].dropna().index for cell in cells)
        prompts = [p for p in first if all(p in other for other in others)]
        if not prompts:
            notes.append(f"{measure.name}: no prompt has a number in all cells.")
            continue
        if len(prompts) < len(every):
            of = f"{len(prompts)} of {len(every)} prompts"
            notes.append(f"{measure.name}: over the {of} that all cells have numbers for.")
        evidence = measure.is_judge and judges[0].role == "primary judge"
        own = [_row(cell, measure, prompts, singles, evidence) for cell in cells]
        # What a sweep sampled of best-of-n is not to beat its own expectation by chance.
        sampled = SINGLE if pool else ()
        running = [r for r in own if r["source"] == "pool" or r["method"] not in sampled]
        fronts = {f"front_{cost}": front(running, cost, measure.sign) for cost in COSTS}
        rows += [row | {name: row in best for name, best in fronts.items()} for row in own]
    title = manifest.get("title", Path(folder).name)
    rows = without_absent(rows, [p.name for p in PARAMETERS])
    return Sweep(title, tuple(measures), adjusted(rows), notes)


def cell_of(row: Row) -> SearchCell:
    """The setting that a row is of."""
    own = {p.name: row[p.name] for p in PARAMETERS if row.get(p.name) is not None}
    return SearchCell(row["method"], row["n"], own, row["step_size"])


def front(rows: Sequence[Row], cost: str, sign: float) -> list[Row]:
    """The rows that no other beats: as good for less, or better for as little. cost: a column."""
    points = [(row[cost], sign * row["mean"]) for row in rows]
    return [
        row
        for row, (own, score) in zip(rows, points, strict=True)
        if not any(c <= own and s >= score and (c, s) != (own, score) for c, s in points)
    ]


def _of_sweep(
    records: Sequence[Record], measures: Sequence[Measure]
) -> tuple[list[_Cell], list[str]]:
    """Cells that have run on all prompts, and notes of those that have not."""
    by_cell: dict[SearchCell, list[Record]] = defaultdict(list)
    for record in records:
        by_cell[replace(SearchCell.from_record(record["cell"]), seed=None)].append(record)
    has_run = {cell: len({r["prompt_id"] for r in own}) for cell, own in by_cell.items()}
    most = max(has_run.values(), default=0)
    cells, notes = [], []
    for search in sorted(by_cell, key=lambda cell: (cell.method, cell.candidates)):
        done = [_numbers(r, measures) for r in by_cell[search] if r["status"] == "ok"]
        if done and has_run[search] == most:
            seeds = len({r["cell"].get("seed") for r in by_cell[search]})
            numbers = pd.DataFrame(done).groupby("prompt", sort=False).mean()
            cells.append(_Cell("sweep", search, seeds, numbers))
        else:
            why = "all its searches failed"
            if done:
                why = f"it has run on {has_run[search]} of {most} prompts"
            notes.append(f"{search.name} is left out: {why}.")
    return cells, notes


def _numbers(record: Record, measures: Iterable[Measure]) -> dict[str, Any]:
    """A finished search's costs, seconds without judging, and its clip's value by each measure."""
    ledger = record["ledger"]
    seconds = sum(s for stage, s in ledger["seconds"].items() if stage != "judge")
    costs = {"prompt": record["prompt_id"], "frames": float(ledger["frames"]), "seconds": seconds}
    values = {measure.name: value_of(record, measure) for measure in measures}
    return costs | {k: math.nan if value is None else value for k, value in values.items()}


def _of_pool(pool: Pool, measures: Sequence[Measure], budgets: Iterable[int]) -> list[_Cell]:
    """Best-of-n of the pool, n = 1 being the baseline. measures: the selector first."""
    kept = [n for n in sorted(set(budgets)) if 1 <= n <= pool.size]
    selector = measures[0]
    scored = pool.values(selector.name)
    found = {}
    for measure in measures:
        both, scores, values = of_both(scored, pool.values(measure.name))
        at = best_of_n([selector.sign * own for own in scores], values, kept)
        found[measure.name] = pd.DataFrame(at, index=both, columns=kept)
    a_clip = pool.generation_seconds() + pool.seconds(selector.name)
    cells = []
    for n in kept:
        columns = {"frames": float(n * pool.frames), "seconds": n * a_clip}
        numbers = pd.DataFrame(columns | {m: at[n] for m, at in found.items()}, index=list(scored))
        cells.append(_Cell("pool", SearchCell(BASELINE if n == 1 else BEST_OF_N, n), 1, numbers))
    return cells


def _differs(pool: Pool, records: Sequence[Record], measures: Sequence[Measure]) -> str:
    """Why a pool cannot be set beside a sweep; empty where it can."""
    for measure in measures:
        if measure.name not in pool.measures:
            return f"the pool has no scores of {measure.name}"
        known = pool.measures[measure.name]
        if measure.checkpoint and known.checkpoint and known.origin != measure.origin:
            both = f"{known.origin} in the pool, {measure.origin} in the sweep"
            return f"{measure.name} was made with other weights or by another definition: {both}"
    for seconds in (r["winner"]["seconds"] for r in records if r["status"] == "ok"):
        if abs(seconds - pool.duration) > SAME_LENGTH:
            return f"its clips have {pool.duration:g} s, those of the sweep {seconds:g} s"
    return ""


def _row(
    cell: _Cell, measure: Measure, prompts: list[str], singles: Sequence[_Cell], evidence: bool
) -> dict[str, Any]:
    """singles: baseline and best-of-n, with which a cell is compared; the first that fits.
    evidence: whether the measure is independent of the selector."""
    values, search = cell.numbers.loc[prompts, measure.name], cell.search
    frames = cell.mean("frames", prompts)
    equal = None
    if search.method not in SINGLE:
        equal = next((c for c in singles if _as_many(frames, c, prompts)), None)
    one = next((c for c in singles if c.search.method == BASELINE), None)
    gain, over = (
        None if c is None else (values - c.numbers.loc[prompts, measure.name]).to_numpy()
        for c in (one, equal)
    )
    p, verdict = None, None
    if over is not None:
        p = mean_p(over)
        verdict = measure.verdict(over.mean(), p) if evidence else "not independent"
    return (
        {"method": search.method, "source": cell.source, "n": search.candidates}
        | {p.name: search.parameters.get(p.name) for p in PARAMETERS}
        | {"step_size": search.step_size, "measure": measure.name, "role": measure.role}
        | {"prompts": len(prompts), "seeds": cell.seeds}
        | {cost: cell.mean(cost, prompts) for cost in COSTS}
        | {"mean": float(values.mean())}
        | ends("gain", None if gain is None else mean_interval(gain))
        | {"best_of_n": equal.search.candidates if equal else None}
        | ends("over_best_of_n", None if over is None else mean_interval(over), "over_")
        | {"p": p, "p_holm": None, "verdict": verdict}
    )


def _as_many(frames: float, single: _Cell, prompts: Sequence[str]) -> bool:
    """Whether best-of-n spends as much as `frames`, or less by under a clip."""
    n, spent = single.search.candidates, single.mean("frames", prompts)
    return spent <= frames < spent * (n + 1) / n
