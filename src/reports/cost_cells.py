"""The cells of a sweep of tree searches, and best-of-n of a pool as cells beside them.

    rows = sweep_rows(records, measures, notes) | pool_rows(pool, measures, budgets)

A row has a cell's numbers by prompt: what it cost, and what the measures say. Seeds are averaged
within a prompt.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from src.budget import TREE_METHODS
from src.reports.benchmark_summary import BASELINE, Measure, value_of
from src.runs.records import Record, read_records
from src.stats.intervals import StatsError
from src.stats.scaling import chances, expected

if TYPE_CHECKING:
    from src.runs.pool import Pool

BEST_OF_N = "best_of_n"
SAME_LENGTH = 0.05  # seconds by which clips of a pool and a sweep may differ
Source = Literal["pool", "sweep"]


class Cell(NamedTuple):
    """One setting of one method. What it does not use is None."""

    method: str
    n: int
    beam_width: int | None = None
    lookahead_k: int | None = None
    step_size: float | None = None
    source: Source = "sweep"

    @property
    def label(self) -> str:
        if self.beam_width is None:
            return f"N={self.n}"
        k = f" k={self.lookahead_k}" if self.lookahead_k else ""
        return f"N={self.n} M={self.beam_width}{k}"


@dataclass(frozen=True)
class Row:
    """A cell's numbers by prompt, seeds averaged."""

    seeds: int
    frames: dict[str, float]
    seconds: dict[str, float]
    values: dict[str, dict[str, float]]  # by measure


def sweep_rows(
    records: list[Record], measures: Sequence[Measure], notes: list[str]
) -> dict[Cell, Row]:
    """Cells that have run on all prompts; notes: takes those that have not, and why.

    Raises StatsError for an empty sweep.
    """
    if not records:
        raise StatsError("this sweep has no finished search yet")
    by_cell: dict[Cell, list[Record]] = defaultdict(list)
    for record in records:
        by_cell[_cell(record)].append(record)
    most = max(len({r["prompt_id"] for r in own}) for own in by_cell.values())
    rows = {}
    for cell, own in sorted(by_cell.items(), key=lambda item: item[0][:2]):
        prompts = {r["prompt_id"] for r in own}
        if len(prompts) < most:
            notes.append(
                f"{cell.method} {cell.label} is left out: it has run on {len(prompts)} of {most} "
                "prompts."
            )
            continue
        done = [r for r in own if r["status"] == "ok"]
        if not done:
            notes.append(f"{cell.method} {cell.label} is left out: all its searches failed.")
            continue
        rows[cell] = Row(
            seeds=len({r["seed"] for r in own}),
            frames=_by_prompt((r["prompt_id"], r["ledger"]["frames"]) for r in done),
            seconds=_by_prompt((r["prompt_id"], _seconds(r["ledger"])) for r in done),
            values={
                m.name: _by_prompt(
                    (r["prompt_id"], value) for r in done if (value := value_of(r, m)) is not None
                )
                for m in measures
            },
        )
    return rows


def _cell(record: Record) -> Cell:
    method, n = record["search"], record["candidates"]
    if method == BASELINE:
        return Cell(method, 1)
    if method not in TREE_METHODS:
        return Cell(method, n)
    return Cell(
        *(method, n, record["beam_width"], record["lookahead_k"], float(record["step_size"]))
    )


def pool_rows(pool: "Pool", measures: Sequence[Measure], budgets: Sequence[int]) -> dict[Cell, Row]:
    """Best-of-n of the pool, n = 1 being the baseline."""
    kept = [n for n in sorted({1, *budgets}) if 1 <= n <= pool.size]
    selector = measures[0].name
    sign = 1.0 if measures[0].higher_is_better else -1.0
    scored = pool.values(selector)
    prompts = [p for p in pool.prompts if p in scored]
    chosen = dict(zip(prompts, chances([sign * scored[p] for p in prompts], kept), strict=True))
    found: dict[str, dict[str, Any]] = {}
    for measure in measures:
        values = pool.values(measure.name)
        both = [p for p in prompts if p in values]
        at = expected([chosen[p] for p in both], [values[p] for p in both])
        found[measure.name] = dict(zip(both, at, strict=True))
    a_clip = pool.generation_seconds() + pool.seconds(selector)
    return {
        Cell(BASELINE if n == 1 else BEST_OF_N, n, source="pool"): Row(
            seeds=1,
            frames=dict.fromkeys(prompts, float(n * pool.frames)),
            seconds=dict.fromkeys(prompts, n * a_clip),
            values={m: {p: float(x[i]) for p, x in at.items()} for m, at in found.items()},
        )
        for i, n in enumerate(kept)
    }


def differs(pool: "Pool", sweep: Path, measures: Sequence[Measure]) -> str:
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
    for record in read_records(sweep).values():
        if record["status"] == "ok":
            seconds = record["winner"]["seconds"]
            if abs(seconds - pool.duration) > SAME_LENGTH:
                return f"its clips have {pool.duration:g} s, those of the sweep {seconds:g} s"
    return ""


def _by_prompt(entries: Iterable[tuple[str, float]]) -> dict[str, float]:
    found: dict[str, list[float]] = defaultdict(list)
    for prompt, value in entries:
        found[prompt].append(float(value))
    return {prompt: float(np.mean(values)) for prompt, values in found.items()}


def _seconds(ledger: Mapping[str, Any]) -> float:
    """Without judging, which no search needs."""
    return float(sum(s for stage, s in ledger["seconds"].items() if stage != "judge"))
