"""What a run of latency_experiment.py found, from its folder alone: seconds, ratios, lines.

    study = study_latency(Path("results/latency-builtin-perplexity-1a2b3c4d"))
    study.cells[0]["seconds"]

A cell's seconds are a table [repetitions, prompts]. Intervals resample repetitions and prompts, the
same ones for all cells at once: what slowed a whole repetition slows it in every cell, and cancels
in ratios. The baseline is best_of_n with N = 1, and stands for it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.budget import STAGES, Cost, Plan
from src.cells import SearchCell
from src.methods import BASELINE, BEST_OF_N, PARAMETERS
from src.reports.table import Row, ends, without_absent
from src.runs.records import Record, read_manifest, read_records
from src.stats.intervals import (
    Interval,
    crossing,
    interval,
    line_of_seconds,
    resampled_medians,
)

OTHER = "other"  # what a search does outside of its stages
TIMED = (*(stage for stage in STAGES if stage != "judge"), OTHER)
MIN_ON_A_LINE = 3  # cells: two are on a line always
STRAIGHT = 0.1  # a line from which a median lies further off than this part says nothing
SIDES = {1: "above frames", 0: "as frames", -1: "below frames"}  # of Interval.side
COST_COLUMNS = (
    *("against", "claimed_frames", "frames", "clips", "seconds", "low", "high", "verdict"),
    *("equal_frames_n", "equal_frames_seconds", "equal_frames_low", "equal_frames_high"),
    *("equal_seconds_n", "equal_seconds_low", "equal_seconds_high"),
)


class Timed:
    """One cell's measurements.

    plan: what it should cost. seconds: a prompt's, float64 [repetitions, prompts]. resampled: their
    medians, float64 [TIMING_RESAMPLES], empty without a spread.
    """

    def __init__(self, cell: SearchCell, plan: Plan, table: Sequence[Sequence[Record]]) -> None:
        """table: [repetitions][prompts]."""
        self.cell = cell
        self.plan = plan
        self.records = [record for row in table for record in row]
        self.cost = _mean_cost(self.records) if plan.stops else plan.expected()
        self.seconds = np.array([[r["wall_seconds"] / r["group"] for r in row] for row in table])
        self.median = float(np.median(self.seconds))
        self.resampled = resampled_medians(self.seconds)


@dataclass(frozen=True)
class Study:
    """A run's results.

    timed: by cell. prompts: those that failed nowhere. repetitions, unfinished: those that count,
    and those left out. failed: records. cells, costs, lines: rows as summary.csv, costs.csv and
    lines.csv have them.
    """

    manifest: Mapping[str, Any]
    timed: Mapping[SearchCell, Timed]
    prompts: tuple[str, ...]
    repetitions: tuple[int, ...]
    unfinished: tuple[int, ...]
    failed: tuple[Record, ...]
    cells: tuple[Row, ...]
    costs: tuple[Row, ...]
    lines: tuple[Row, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row["method"] for row in self.cells))

    @property
    def records(self) -> list[Record]:
        """What the rows are made from."""
        return [record for own in self.timed.values() for record in own.records]

    @property
    def starts(self) -> list[Mapping[str, Any]]:
        """The manifest's, those that the records come from."""
        return [self.manifest["starts"][n] for n in sorted({r["start"] for r in self.records})]


def study_latency(folder: Path | str) -> Study:
    """Read a run's folder. Raises RunFolderError.

    Repetitions count that all cells and prompts are finished in; prompts, that failed nowhere.
    """
    manifest = read_manifest(folder)
    records = list(read_records(folder).values())
    cells = [SearchCell.from_record(cell) for cell in manifest["cells"]]
    failed = [r for r in records if r["status"] != "ok"]
    lost = {r["prompt_id"] for r in failed}
    done = {
        (SearchCell.from_record(r["cell"]), r["repetition"], r["prompt_id"]): r
        for r in records
        if r["status"] == "ok" and r["prompt_id"] not in lost
    }
    prompts = tuple(dict.fromkeys(prompt for _, _, prompt in done))
    counts = Counter(repetition for _, repetition, _ in done)
    whole = tuple(sorted(r for r in counts if counts[r] == len(cells) * len(prompts)))
    settings = manifest["identity"]["settings"]
    lengths = settings["duration"], settings["step_size"], manifest["frame_rate"]
    timed = {
        cell: Timed(cell, cell.plan(*lengths), [[done[cell, r, p] for p in prompts] for r in whole])
        for cell in cells
        if whole
    }
    names = [p.name for p in PARAMETERS]
    return Study(
        manifest=manifest,
        timed=timed,
        prompts=prompts,
        repetitions=whole,
        unfinished=tuple(sorted(set(counts) - set(whole))),
        failed=tuple(failed),
        cells=tuple(without_absent([*map(_cell_row, timed.values())], names)),
        costs=tuple(without_absent([*_cost_rows(timed)], names)),
        lines=tuple(_line_rows(timed)),
    )


def _named(cell: SearchCell) -> dict[str, Any]:
    row: dict[str, Any] = {"cell": cell.name, "method": cell.method, "candidates": cell.candidates}
    return row | {p.name: cell.parameters.get(p.name) for p in PARAMETERS}


def _cell_row(own: Timed) -> Row:
    """Seconds are a prompt's, split by the stages' mean shares so that they sum to the median.

    real_time_factor: seconds of compute per second of audio. Bytes: uploaded, a prompt's mean; of
    memory the median of the searches' peaks, None where one is unknown.
    """
    seconds = [record["ledger"]["seconds"] for record in own.records]
    shares = {
        stage: float(np.mean([spent[stage] for spent in seconds]) / own.seconds.mean())
        for stage in TIMED[:-1]
    }
    shares[OTHER] = 1 - sum(shares.values())
    low, high = np.quantile(own.seconds, [0.25, 0.75])
    return {
        **_named(own.cell),
        "repetitions": own.seconds.shape[0],
        "prompts": own.seconds.shape[1],
        "frames": own.cost.frames,
        "clips": own.cost.clips,
        "uploaded_bytes": float(np.mean([r["ledger"]["uploaded_bytes"] for r in own.records])),
        **ends("seconds", interval(own.median, own.resampled)),
        "lower_quartile": float(low),
        "upper_quartile": float(high),
        "real_time_factor": own.median * own.plan.frame_rate / own.plan.frames,
        **{f"{stage}_seconds": share * own.median for stage, share in shares.items()},
        **{
            f"{name}_bytes": _median(r["memory"].get(name) for r in own.records)
            for name in ("gpu", "resident", "server", "server_gpu")
        },
    }


def _median(sizes: Iterable[int | None]) -> int | None:
    found = np.median(np.array(list(sizes), dtype=np.float64))  # NaN where one is None
    return None if np.isnan(found) else round(float(found))


def _cost_rows(timed: Mapping[SearchCell, Timed]) -> Iterable[Row]:
    """Each cell's cost beside best_of_n's with as many candidates, frames and seconds.

    best_of_n itself stands beside the baseline. What was not measured is None.
    """
    reference = _reference(timed)
    for cell, own in timed.items():
        row = _named(cell) | dict.fromkeys(COST_COLUMNS)
        alone = SearchCell(BASELINE, 1)
        against = alone if cell.method == BEST_OF_N else SearchCell(BEST_OF_N, cell.candidates)
        beside = cell != alone and against in timed
        if beside:
            row |= _ratios(own, timed[against])
        if among := cell.method not in (BASELINE, BEST_OF_N) and len(reference) > 1:
            row |= _equals(own, reference)
        if beside or among:
            yield row


def _mean_cost(records: Sequence[Record]) -> Cost:
    """Of a method that may stop before it has spent all."""
    spent = [record["ledger"] for record in records]
    frames, clips = (round(np.mean([own[name] for own in spent])) for name in ("frames", "clips"))
    return Cost(frames, clips)


def _reference(timed: Mapping[SearchCell, Timed]) -> dict[int, Timed]:
    """best_of_n's cells by N, ascending; the baseline stands for N = 1."""
    singles = [cell for cell in timed if cell.method in (BASELINE, BEST_OF_N)]
    singles.sort(key=lambda cell: (cell.candidates, cell.method != BASELINE))
    return {cell.candidates: timed[cell] for cell in singles}


def _ratios(own: Timed, against: Timed) -> Row:
    """A cost as a multiple of another's.

    claimed_frames: what is commonly said (N; 1; k + 1). frames, clips: exact. seconds: the ratio
    of medians. verdict: whether that is the ratio of frames, within its interval.
    """
    cell, k = own.cell, own.cell.parameters.get("lookahead_k", 0)
    frames = own.cost.frames / against.cost.frames
    seconds = interval(own.median / against.median, own.resampled / against.resampled)
    beside = Interval(seconds.mean, seconds.low - frames, seconds.high - frames).side
    verdict = SIDES[beside] if np.isfinite(seconds.low) else "no spread"
    return {
        "against": against.cell.name,
        "claimed_frames": float(cell.candidates if cell.method == BEST_OF_N else k + 1),
        "frames": frames,
        "clips": own.cost.clips / against.cost.clips,
        **ends("seconds", seconds),
        "verdict": verdict,
    }


def _equals(own: Timed, reference: Mapping[int, Timed]) -> Row:
    """A tree search against a best_of_n of another N, interpolated between those measured.

    equal_frames_n: best_of_n's N with as many frames; equal_frames_seconds: the ratio of seconds
    there. equal_seconds_n: best_of_n's N that takes as long.
    """
    ns = list(reference)
    medians = [found.median for found in reference.values()]
    resampled = list(zip(*(found.resampled for found in reference.values()), strict=True))
    frames_n = own.cost.frames / own.plan.frames
    row: dict[str, Any] = {"equal_frames_n": frames_n}
    if ns[0] <= frames_n <= ns[-1]:
        levels = np.array([np.interp(frames_n, ns, found) for found in resampled])
        ratio = own.median / float(np.interp(frames_n, ns, medians))
        row |= ends(
            "equal_frames_seconds", interval(ratio, own.resampled / levels), "equal_frames_"
        )
    if (n := crossing(own.median, ns, medians)) > 0:
        pairs = zip(own.resampled, resampled, strict=True)
        found = np.array([crossing(y, ns, ys) for y, ys in pairs])
        # An interval of which a part was not measured has no ends.
        known = found if np.isfinite(found).all() else np.empty(0)
        row |= ends("equal_seconds_n", interval(n, known), "equal_seconds_")
    return row


def _line_rows(timed: Mapping[SearchCell, Timed]) -> Iterable[Row]:
    """Seconds over frames, by method, where enough cells lie on the line; best_of_n's has the
    baseline on it. worst_residual: of a median, as a part of it."""
    for method in dict.fromkeys(cell.method for cell in timed):
        group = [own for cell, own in timed.items() if cell.method == method]
        if method == BEST_OF_N:
            group = list(_reference(timed).values())
        if len(group) < MIN_ON_A_LINE:
            continue
        fixed, per_frame, worst = line_of_seconds(
            np.array([own.cost.frames for own in group], dtype=np.float64),
            np.array([own.median for own in group]),
            np.stack([own.resampled for own in group], axis=-1),
        )
        yield {
            "method": method,
            "cells": len(group),
            **ends("fixed_seconds", fixed, "fixed_"),
            **ends("seconds_per_frame", per_frame, "per_frame_"),
            "worst_residual": worst,
            "verdict": "a line" if worst <= STRAIGHT else "no line",
        }
