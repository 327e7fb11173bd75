"""What a latency run found, from its folder alone: seconds with their spread, ratios, lines.

    found = summarise(Path("results/latency-builtin-perplexity-1a2b3c4d"))
    found.cells[Cell("best_of_n", 8)].median

A cell's seconds are a table [repetitions, prompts]. Intervals resample repetitions and prompts, the
same ones for all cells at once: what slowed a whole repetition slows it in every cell, and cancels
in ratios. The baseline is best_of_n with N = 1, and stands for it.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from src.budget import STAGES, TREE_METHODS, Cost, Plan
from src.experiments.latency_settings import Cell
from src.runs.records import Record, read_manifest, read_records, records_digest
from src.stats.intervals import Interval
from src.stats.timing import (
    MIN_REPETITIONS,
    Array,
    Line,
    crossing,
    fit,
    interpolated,
    interval,
    resampled_medians,
)

REFERENCE = "best_of_n"
OTHER = "other"  # what a search does outside of its stages
MIN_ON_A_LINE = 3  # cells: two are on a line always


@dataclass(frozen=True)
class CellFound:
    """One cell's measurements.

    plan: what it should cost. seconds: a prompt's, float64 [repetitions, prompts]. resampled: its
    medians, float64 [RESAMPLES], empty without a spread. stages: the median split by the stages'
    mean shares, so that they sum to it. uploaded_bytes: a prompt's mean. memory: of the searches'
    peaks the median, in bytes; None where one is unknown. winners: by prompt, how many different
    clips its repetitions chose (1 as it should be).
    """

    plan: Plan
    seconds: Array
    resampled: Array
    stages: dict[str, float]
    uploaded_bytes: float
    memory: dict[str, int | None]
    winners: dict[str, int]

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def quartiles(self) -> tuple[float, float]:
        low, high = np.quantile(self.seconds, [0.25, 0.75])
        return float(low), float(high)

    @property
    def interval(self) -> Interval:
        """The median with its 95% interval."""
        return interval(self.median, self.resampled)

    @property
    def cost(self) -> Cost:
        return self.plan.expected()

    @property
    def real_time_factor(self) -> float:
        """Seconds of compute per second of audio."""
        return self.median * self.plan.frame_rate / self.plan.frames


@dataclass(frozen=True)
class Comparison:
    """A cell's cost as a multiple of another's: best_of_n's of that of the baseline, a tree
    search's of that of best_of_n with the same N.

    claimed: what is commonly said of frames (N; 1; k+1). frames, clips: exact. seconds: the ratio
    of medians.
    """

    against: Cell
    claimed: float
    frames: float
    clips: float
    seconds: Interval


@dataclass(frozen=True)
class Equals:
    """A tree search against a best_of_n of another N, interpolated between those measured.

    frames_n: best_of_n's N with as many frames; frames_seconds: the ratio of seconds there.
    seconds_n: best_of_n's N that takes as long. None: not within what was measured.
    """

    frames_n: float
    frames_seconds: Interval | None
    seconds_n: Interval | None


@dataclass(frozen=True)
class LatencySummary:
    """cells: in the order asked for. failed: records, their prompts left out of every cell.
    unfinished: repetitions left out. off_plan: records whose ledger is not the plan's cost."""

    manifest: dict[str, Any]
    digest: str
    cells: dict[Cell, CellFound]
    prompts: tuple[str, ...]
    repetitions: tuple[int, ...]
    unfinished: tuple[int, ...]
    failed: tuple[Record, ...]
    off_plan: tuple[Record, ...]
    starts: tuple[dict[str, Any], ...]
    loads: tuple[float, ...]

    @property
    def settings(self) -> dict[str, Any]:
        found: dict[str, Any] = self.manifest["identity"]["settings"]
        return found

    @property
    def has_spread(self) -> bool:
        return len(self.repetitions) >= MIN_REPETITIONS

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.method for cell in self.cells))

    @cached_property
    def comparisons(self) -> dict[Cell, Comparison]:
        """Of every cell whose opposite was measured."""
        found = {}
        for cell, own in self.cells.items():
            claimed = float(cell.lookahead_k + 1)
            against = Cell("best_of_n", cell.candidates)
            if cell.method == "best_of_n":
                against, claimed = Cell("baseline", 1), float(cell.candidates)
            if cell.method != "baseline" and against in self.cells:
                to = self.cells[against]
                found[cell] = Comparison(
                    against=against,
                    claimed=claimed,
                    frames=own.cost.frames / to.cost.frames,
                    clips=own.cost.clips / to.cost.clips,
                    seconds=interval(own.median / to.median, own.resampled / to.resampled),
                )
        return found

    @cached_property
    def equals(self) -> dict[Cell, Equals]:
        """Of every tree search; empty where best_of_n was measured at fewer than two N."""
        if len(self.reference) < 2:
            return {}
        return {
            cell: _equals(own, self.reference)
            for cell, own in self.cells.items()
            if cell.method in TREE_METHODS
        }

    @property
    def reference(self) -> dict[int, CellFound]:
        """best_of_n's cells by N, ascending; the baseline stands for N = 1."""
        found = {c.candidates: f for c, f in self.cells.items() if c.method == "baseline"}
        found |= {c.candidates: f for c, f in self.cells.items() if c.method == REFERENCE}
        return dict(sorted(found.items()))

    @cached_property
    def lines(self) -> dict[str, Line]:
        """By method, where enough cells lie on the line; best_of_n's has the baseline on it."""
        groups = {m: [f for c, f in self.cells.items() if c.method == m] for m in self.methods}
        if REFERENCE in groups:
            groups[REFERENCE] = list(self.reference.values())
        return {
            method: fit(
                np.array([found.cost.frames for found in group], dtype=np.float64),
                np.array([found.median for found in group]),
                np.stack([found.resampled for found in group], axis=-1),
            )
            for method, group in groups.items()
            if len(group) >= MIN_ON_A_LINE
        }


def summarise(folder: Path) -> LatencySummary:
    """Read a run's folder. Raises RunFolderError.

    Repetitions count that all cells and prompts are finished in; prompts, that failed nowhere.
    """
    manifest = read_manifest(folder)
    records = list(read_records(folder).values())
    cells = [Cell(**cell) for cell in manifest["cells"]]
    failed = [r for r in records if r["status"] != "ok"]
    lost = {r["prompt_id"] for r in failed}
    done = {
        (Cell(**r["cell"]), r["repetition"], r["prompt_id"]): r
        for r in records
        if r["status"] == "ok" and r["prompt_id"] not in lost
    }
    prompts = tuple(dict.fromkeys(prompt for _, _, prompt in done))
    counts = Counter(repetition for _, repetition, _ in done)
    whole = tuple(sorted(r for r in counts if counts[r] == len(cells) * len(prompts)))
    settings = manifest["identity"]["settings"]
    lengths = settings["duration"], settings["step_size"], manifest["frame_rate"]
    plans = {cell: cell.plan(*lengths) for cell in cells}
    used = sorted({r["start"] for r in done.values()})
    return LatencySummary(
        manifest=manifest,
        digest=records_digest(folder),
        cells={
            cell: _cell_found(
                plans[cell], [[done[cell, rep, prompt] for prompt in prompts] for rep in whole]
            )
            for cell in cells
            if whole
        },
        prompts=prompts,
        repetitions=whole,
        unfinished=tuple(sorted(set(counts) - set(whole))),
        failed=tuple(failed),
        off_plan=tuple(
            record
            for (cell, _, _), record in done.items()
            if Cost(record["ledger"]["frames"], record["ledger"]["clips"]) != plans[cell].expected()
        ),
        starts=tuple(manifest["starts"][number] for number in used),
        loads=tuple(r["load"] for r in done.values()),
    )


def _equals(own: CellFound, reference: dict[int, CellFound]) -> Equals:
    ns = list(reference)
    medians = [reference[n].median for n in ns]
    resamples = list(zip(*(reference[n].resampled for n in ns), strict=True))
    frames_n = own.cost.frames / own.plan.frames
    at_equal = interpolated(frames_n, ns, medians)
    seconds_n = crossing(own.median, ns, medians)
    ratios = [
        y / interpolated(frames_n, ns, row) for y, row in zip(own.resampled, resamples, strict=True)
    ]
    crossings = [crossing(y, ns, row) for y, row in zip(own.resampled, resamples, strict=True)]
    return Equals(
        frames_n=frames_n,
        frames_seconds=interval(own.median / at_equal, ratios) if at_equal > 0 else None,
        seconds_n=interval(seconds_n, crossings) if seconds_n > 0 else None,
    )


def _cell_found(plan: Plan, table: list[list[Record]]) -> CellFound:
    """table: [repetitions][prompts]."""
    records = [record for row in table for record in row]
    seconds = np.array([[r["wall_seconds"] / r["group"] for r in row] for row in table])
    shares: dict[str, float] = {
        stage: float(np.mean([r["ledger"]["seconds"][stage] for r in records])) / seconds.mean()
        for stage in STAGES
        if stage != "judge"
    }
    shares[OTHER] = 1 - sum(shares.values())
    median = float(np.median(seconds))
    winners: dict[str, set[str]] = {}
    for record in records:
        winners.setdefault(record["prompt_id"], set()).add(record["winner"]["tokens_sha256"])
    sizes = ("gpu", "resident", "server")
    return CellFound(
        plan=plan,
        seconds=seconds,
        resampled=resampled_medians(seconds),
        stages={stage: share * median for stage, share in shares.items()},
        uploaded_bytes=float(np.mean([r["ledger"]["uploaded_bytes"] for r in records])),
        memory={name: _median([r["memory"][name] for r in records]) for name in sizes},
        winners={prompt: len(hashes) for prompt, hashes in winners.items()},
    )


def _median(sizes: list[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return round(float(np.median(known))) if known and len(known) == len(sizes) else None
