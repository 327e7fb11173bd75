"""What the stages of a search take, for perf/cluster.py: read from runs, or reckoned.

`measured` reads the records of a latency experiment on a CPU: seconds by stage of whole searches.
`reckoned` has the decoder's steps on a GPU, measured or their floor, and takes the rest from
perf/cluster_model/assumptions.toml. `stages_of` makes a group's stages of a plan and such costs.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import mul
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from perf.cluster_model.simulation import Stage
from src.budget import Plan
from src.cells import SearchCell
from src.data.files import ROOT, as_json
from src.methods import METHODS
from src.runs.records import Record, read_manifest, read_records
from src.runs.run import WRITERS

STEPS = ROOT / "results/gpu/gpu.jsonl"
GROWTH = ROOT / "results/performance/decoding-builtin.json"
SIZES = ROOT / "results/builtin/benchmark-builtin-tags-pmi-n8-d5d436e7"
LIKELIHOODS = ("perplexity", "pmi")  # verifiers that hear nothing
WAV_HEADER = 58  # bytes of a float32 WAV beyond its samples


class CostsError(ValueError):
    """Costs that are not known; says which are."""


@dataclass(frozen=True)
class Costs:
    """decode: seconds a position, by rows side by side. render, score: seconds a frame of a clip
    that is rendered, scored; score is None where a verifier hears nothing. other: seconds of the
    generator a clip scored (conditions, WAV, selection). request, intake: seconds a request and a
    byte until clips wait to be scored. batch: seconds of a micro-batch beyond its clips. rate:
    samples a second. lag: positions by which the last codebook comes later."""

    decode: Mapping[int, float]
    render: float
    score: float | None
    other: float = 0.0
    request: float = 0.0
    intake: float = 0.0
    batch: float = 0.0
    rate: int = 32_000
    lag: int = 3
    threads: int = 1

    def step(self, rows: int) -> float:
        """Seconds a position: on the line through the two known numbers of rows around, or next."""
        known = sorted(self.decode)
        if len(known) == 1:
            return self.decode[known[0]]
        upper = min(max(1, int(np.searchsorted(known, rows))), len(known) - 1)
        low, high = known[upper - 1], known[upper]
        part = (rows - low) / (high - low)
        return self.decode[low] + part * (self.decode[high] - self.decode[low])


def positions(plan: Plan, lag: int) -> int:
    """Decoder steps of a search whose candidates go side by side, rollouts included."""
    return plan.frames + lag + sum(map(plan.rollout, range(len(plan.steps))))


def frames_heard(plan: Plan) -> int:
    """Of all candidates' clips, over all steps."""
    return sum(map(mul, plan.held, plan.heard()))


def growth(frames: int, rows: int, prunes: bool) -> float:
    """Milliseconds of a step, mean over a clip's positions, as measured on the built-in model with
    about as many rows (1 or 16): attention takes longer the more there is to look back at."""
    cells = json.loads(GROWTH.read_text())["cells"]
    nearest = min({cell["candidates"] for cell in cells}, key=lambda n: abs(n - rows))
    cells = [cell for cell in cells if cell["candidates"] == nearest]
    name = "float32, 4 pasts" if prunes and nearest > 1 else "float32"
    at = [cell["position"] for cell in cells]
    times = [median(cell["milliseconds"][name]) for cell in cells]
    return float(np.interp(np.arange(frames), at, times).mean())


def measured(
    folder: Path, method: str, verifier: str, duration: float, known: Mapping[str, Any]
) -> Costs:
    """Of a run of latency_experiment.py, for clips of `duration` seconds. verifier: the run's, or
    one that hears nothing. Raises CostsError."""
    settings = read_manifest(folder)["identity"]["settings"]
    if verifier not in (own := settings["verifier"], *LIKELIHOODS):
        raise CostsError(f"{folder.name} was searched by {own}: it has no costs of {verifier}")
    together, frame_rate = settings["batch"], known["frame_rate"]
    by_cell: dict[SearchCell, list[Record]] = defaultdict(list)
    for record in read_records(folder).values():
        by_cell[SearchCell.from_record(record["cell"])].append(record)
    if method not in (names := sorted({cell.method for cell in by_cell})):
        raise CostsError(f"{folder.name} has no {method}; it has {', '.join(names)}")
    decode, calls, waited = defaultdict(list), [], []
    spent: dict[str, float] = defaultdict(float)
    heard, clips, lag = 0.0, 0.0, known["lag"]
    for cell, records in by_cell.items():
        plan = cell.plan(settings["duration"], settings["step_size"], frame_rate)
        of = {stage: fmean(r["ledger"]["seconds"][stage] for r in records) * together for stage in
              records[0]["ledger"]["seconds"]}  # fmt: skip
        if len(set(plan.held)) == 1 and not plan.stops:
            rows, prunes = plan.candidates * together, METHODS[method].prunes
            longer = [growth(round(s * frame_rate), rows, prunes)
                      for s in (settings["duration"], duration)]  # fmt: skip
            decode[rows].append(of["decode"] / positions(plan, lag) * longer[1] / longer[0])
        part = fmean(r["ledger"]["clips"] for r in records) / plan.expected().clips  # waves stop
        uploaded = fmean(r["ledger"]["uploaded_bytes"] for r in records) * together
        calls.append([part * sum(map(bool, plan.heard())), uploaded])
        waited.append(of["http"])
        if cell.method == method:
            heard += part * frames_heard(plan) * together
            clips += part * plan.expected().clips * together
            for stage, seconds in of.items():
                spent[stage] += seconds
    request, a_byte = np.linalg.lstsq(np.array(calls, float), np.array(waited), rcond=None)[0]
    return Costs(
        decode={rows: fmean(values) for rows, values in decode.items()},
        render=spent["render"] / heard,
        score=None if verifier in LIKELIHOODS else spent["compute"] / heard,
        other=(spent["conditions"] + spent["wav"] + spent["selection"]) / clips,
        request=max(0.0, float(request)),
        intake=max(0.0, float(a_byte)),
        rate=known["audio"]["builtin"],
        lag=lag,
        threads=read_manifest(folder)["identity"]["machine"]["torch_threads"],
    )


def gpu_steps(model: str, prunes: bool) -> dict[int, float]:
    """Seconds a position at 500 by rows, by CUDA graphs, the best kernels that were timed."""
    found: dict[int, dict[bool, list[float]]] = defaultdict(lambda: defaultdict(list))
    pattern = rf"{model}, (\d+) candidates at 500, graphs(, 4 families)?"
    for line in map(json.loads, STEPS.read_text().splitlines()):
        if (is_one := re.fullmatch(pattern, line["what"])) and "ms_a_step" in line:
            found[int(is_one[1])][bool(is_one[2])].append(line["ms_a_step"] / 1000)
    return {rows: min(of[prunes and prunes in of]) for rows, of in found.items()}


def reckoned(
    model: str, verifier: str, floor: bool, cpu: Costs, prunes: bool, known: Mapping[str, Any]
) -> Costs:
    """Of MusicGen on a GPU. cpu: whose host's work is taken over. Raises CostsError."""
    if verifier not in (cores := known["core_seconds"]) and verifier not in LIKELIHOODS:
        raise CostsError(f"no costs of {verifier}; there are {', '.join([*cores, *LIKELIHOODS])}")
    frames = known["gpu"]["times_a_core"] * 10 * known["frame_rate"]  # of 10 s
    rate, resampling = known["audio"]["musicgen"], known["intake"]
    resampled = resampling["resample_ms"] / 1000 / resampling["threads"] / (4 * 10 * rate)
    floors = {int(rows): ms / 1000 for rows, ms in known["floor"][model].items()}
    return Costs(
        decode=floors if floor else gpu_steps(model, prunes),
        render=cores["render"] / frames,
        score=None if verifier in LIKELIHOODS else cores[verifier] / frames,
        other=cpu.other,
        request=cpu.request,
        intake=cpu.intake + resampled,
        batch=known["gpu"]["batch_ms"] / 1000,
        rate=rate,
        lag=known["lag"],
    )


@functools.cache
def record_bytes() -> tuple[float, float]:
    """Of a search's record, and of a clip scored in it: a line through those of a committed run."""
    sizes, clips = [], []
    for record in read_records(SIZES).values():
        sizes.append(len(as_json(record)) + 1)
        clips.append(record["ledger"]["clips"])
    each, own = np.polyfit(clips, sizes, 1)
    return float(own), float(each)


def line_bytes(plan: Plan) -> float:
    """Of a prompt's record."""
    own, each = record_bytes()
    return own + each * plan.expected().clips


def wav_bytes(frames: int, costs: Costs, frame_rate: float) -> float:
    return WAV_HEADER + 4 * costs.rate * frames / frame_rate


def stages_of(
    plan: Plan, prompts: int, costs: Costs, known: Mapping[str, Any], saved: int = 1
) -> list[Stage]:
    """Of a group of so many prompts. saved: clips of a prompt whose audio is written; with any, so
    are the winner's tokens."""
    cluster, stages = known["cluster"], []
    store, disk = (1e9 * cluster[f"{name}_gb_per_s"] for name in ("store", "disk"))
    whole = wav_bytes(plan.length, costs, plan.frame_rate)
    for step, (held, own, heard) in enumerate(
        zip(plan.held, plan.steps, plan.heard(), strict=True)
    ):
        together = min(held, plan.candidates)  # waves: one after the other
        for begins in range(0, held, together):
            rows = prompts * min(together, held - begins)
            taken = costs.step(rows) * (own + plan.rollout(step) + (0 if step else costs.lag))
            if heard and costs.score is not None:
                size = rows * wav_bytes(heard, costs, plan.frame_rate)
                taken += rows * (heard * costs.render + costs.other)
                stages += [
                    Stage("generator", taken),
                    Stage("store", size / store),
                    Stage("intake", costs.request + size * costs.intake),
                    Stage("verifier", heard * costs.score, rows),
                ]
            else:
                stages.append(Stage("generator", taken))
    last = 0.0 if costs.score is not None else prompts * plan.length * costs.render
    # A prompt's files side by side, then its line.
    writes = math.ceil((saved + bool(saved)) / WRITERS) + 1
    size = line_bytes(plan) + saved * whole
    lines = prompts * (writes * cluster["fsync_ms"] / 1000 + size / disk)
    sent = prompts * size / store
    return [*joined([*stages, Stage("generator", last)]), Stage("store", sent),
            Stage("driver", lines)]  # fmt: skip


def joined(stages: Sequence[Stage]) -> list[Stage]:
    """The generator's stages that follow each other are one: it goes on without a break."""
    found: list[Stage] = []
    for stage in stages:
        if found and found[-1].place == stage.place == "generator":
            found[-1] = Stage("generator", found[-1].seconds + stage.seconds)
        elif stage.seconds:
            found.append(stage)
    return found
