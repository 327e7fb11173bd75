"""One search on many machines, from the options of perf/cluster.py, and rows of its tables."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import tomllib
from pathlib import Path
from typing import Any

from perf.cluster_model.costs import (
    LIKELIHOODS,
    Costs,
    CostsError,
    line_bytes,
    measured,
    reckoned,
    stages_of,
    wav_bytes,
)
from perf.cluster_model.simulation import PLACES, Outcome, Setup, Stage, bound, simulate
from src.budget import Plan
from src.data.files import ROOT
from src.methods import METHODS

LATENCY = ROOT / "results/builtin/latency-builtin-tags-8481aab6"
RECKONED = ["clap", "muq", "perplexity"]
DEFAULT_VERIFIERS = {"measured": ["tags"], "h200": RECKONED, "floor": RECKONED}  # by costs
Row = dict[str, Any]
CODEBOOKS, NPY_HEADER = 4, 128  # of MusicGen; bytes of a .npy beside its numbers


class Case:
    """One method with one verifier: its stages, from the options."""

    def __init__(self, method: str, verifier: str, options: argparse.Namespace) -> None:
        self.options, self.known = options, tomllib.loads(options.assumptions.read_text())
        frame_rate = self.known["frame_rate"]
        self.plan: Plan = METHODS[method].make_plan(
            options.candidates, options.duration, options.step_size, frame_rate, vars(options)
        )
        self.verifier = verifier
        self.costs = self._costs(method)
        self.prompts = max(1, options.max_rows // self.plan.candidates)
        saved = {"winners": 1, "none": 0, "all": 1 + self.plan.held[-1]}[options.save_audio]
        self.stages: list[Stage] = stages_of(self.plan, self.prompts, self.costs, self.known, saved)

    def _costs(self, method: str) -> Costs:
        options, known = self.options, self.known
        if options.costs == "measured":
            found = measured(options.latency, method, self.verifier, options.duration, known)
        else:
            cpu = measured(LATENCY, "best_of_n", "tags", options.duration, known)
            prunes, is_floor = METHODS[method].prunes, options.costs == "floor"
            found = reckoned(options.model, self.verifier, is_floor, cpu, prunes, known)
        frames = 1000 * 10 * known["frame_rate"]  # of 10 s, and milliseconds
        own: Row = {
            "decode": options.decode_ms and {1: options.decode_ms / 1000},
            "render": options.render_ms and options.render_ms / frames,
            "score": None if self.hears_nothing else options.score_ms and options.score_ms / frames,
        }
        return dataclasses.replace(found, **{k: v for k, v in own.items() if v is not None})

    @property
    def hears_nothing(self) -> bool:
        return self.verifier in LIKELIHOODS

    def setup(self, generators: int, verifiers: int, in_flight: int | None = None) -> Setup:
        cluster, options = self.known["cluster"], self.options
        return Setup(
            generators,
            max(1, verifiers),
            in_flight or options.in_flight,
            cluster["gpus_per_node"],
            cluster["max_clips"],
            self.costs.batch,
            cores=options.cores
            or (math.inf if verifiers or self.hears_nothing else self.costs.threads),
            threads=(self.costs.threads, 1),
            spread=options.spread if options.spread is not None else cluster["spread"],
            balanced=options.balanced,
        )

    def splits(self, gpus: int) -> list[tuple[int, int]]:
        """All that use every GPU; one GPU is shared, and so there is no verifier's."""
        if self.hears_nothing or gpus == 1:
            return [(gpus, 0)]
        return [(gpus - verifiers, verifiers) for verifiers in range(1, gpus)]

    def best(self, gpus: int) -> tuple[int, int]:
        """The fastest of the five splits with the highest bounds."""
        promising = sorted(self.splits(gpus), key=lambda s: -bound(self.setup(*s), self.stages))[:5]
        return max(promising, key=lambda s: self.run(*s).rate)

    def run(self, generators: int, verifiers: int, in_flight: int | None = None) -> Outcome:
        return simulate(self.setup(generators, verifiers, in_flight), self.stages)

    @property
    def decoding(self) -> float:
        """Seconds of a group's decoding alone."""
        silent = dataclasses.replace(self.costs, score=None, render=0.0)
        stages = stages_of(self.plan, self.prompts, silent, self.known)
        return sum(stage.seconds for stage in stages if stage.place == "generator")

    def row(self, generators: int, verifiers: int) -> Row:
        outcome, alone = self.run(generators, verifiers), self.run(generators, verifiers, 1)
        most = bound(self.setup(generators, verifiers), self.stages)
        return {
            "method": self.plan.method.name,
            "verifier": self.verifier,
            "generators": generators,
            "verifiers": verifiers,
            "prompts a minute": 60 * self.prompts * outcome.rate,
            "most": 60 * self.prompts * most,
            "gain": outcome.rate / alone.rate,
            "first": outcome.first,
            **{f"{place} busy": outcome.busy.get(place, 0.0) for place in PLACES},
        }


def check(options: argparse.Namespace) -> list[Row]:
    """Simulated beside measured."""
    rows = []
    for point in json.loads(options.check.read_text()):
        note, found = point.pop("note", ""), point.pop("prompts_per_minute")
        point.pop("measured", None)  # how, for readers
        if unknown := sorted(point.keys() - vars(options).keys()):
            raise CostsError(f"{options.check}: no such setting: {', '.join(unknown)}")
        own = with_options(options, **{"spread": 0.0, **point})
        own.latency = Path(own.latency)
        chosen = own.method, own.verifier or DEFAULT_VERIFIERS[own.costs]
        method, verifier = (v if isinstance(v, str) else v[0] for v in chosen)
        case = Case(method, verifier, own)
        rate = 60 * case.prompts * case.run(own.generators or 1, own.verifiers or 1).rate
        beside = {"measured": found, "simulated": rate, "ratio": rate / found, "note": note}
        rows.append(point | beside)
    return rows


def with_options(options: argparse.Namespace, **own: Any) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(options), **own})


def hours(options: argparse.Namespace) -> list[Row]:
    """Of all prompts, one generator and one verifier, one after the other: sums of stages."""
    rows = []
    for candidates in (16, 64):
        for method in options.method:
            row: Row = {"N": candidates, "method": method}
            for costs, verifier in (("measured", "tags"), ("h200", "clap"), ("floor", "clap")):
                own = with_options(options, candidates=candidates, costs=costs)
                case = Case(method, verifier, own)
                seconds = sum(stage.seconds * max(1, stage.clips) for stage in case.stages)
                scale = options.prompts / case.prompts / 3600
                row |= {f"{costs}, decoding": scale * case.decoding, costs: scale * seconds}
            row["record kB"] = line_bytes(case.plan) / 1000
            rows.append(row)
    return rows


def gigabytes(options: argparse.Namespace) -> list[Row]:
    """What a run of all prompts leaves on the disk, clips of MusicGen."""
    rows = []
    for candidates in (16, 64):
        case = Case("best_of_n", "clap", with_options(options, candidates=candidates, costs="h200"))
        clip = wav_bytes(case.plan.length, case.costs, case.plan.frame_rate)
        each = {
            "tokens of a pool": candidates * CODEBOOKS * case.plan.length * 2 + NPY_HEADER,
            "tokens of winners": CODEBOOKS * case.plan.length * 2 + NPY_HEADER,
            "audio, winners": clip,
            "audio, all": (1 + candidates) * clip,
            "embeddings of a pool, 512 numbers": candidates * 512 * 2 + NPY_HEADER,
        }
        rows.append({"N": candidates, **{k: options.prompts * v / 1e9 for k, v in each.items()}})
    return rows
