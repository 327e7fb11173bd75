"""Pools and sweeps with made-up numbers of which the answers are known, for what reads records.

Everything follows from z, a standard normal for each candidate:
tags, its selector, is z beside a level of the prompt, and its beginnings come to know z with time;
noise knows nothing of z; copy is z again, a judge with less is better; turning follows z up to a
point and then turns against it; kin is trained on the data of tags; again is the number of tags.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.cells import SearchCell
from src.runs.measures import Measure
from src.runs.records import CANDIDATES, scores_key, search_key
from src.runs.run import Run

Array = NDArray[np.float64]
SHA = "0123456789abcdef" * 4
DURATION, FRAMES = 5.0, 250
PREFIXES = (1.0, 2.0, 4.0)
TURNS_AT = 0.8
MEASURES = {
    measure.name: measure
    for measure in (
        Measure("tags", "verifier", is_verifier=("tags",)),
        Measure("noise", "verifier", is_verifier=("noise",)),
        Measure("copy", "judge", higher_is_better=False),
        Measure("turning", "judge"),
        Measure("kin", "judge", shares_data_with=("tags",)),
        Measure("again", "judge", is_verifier=("tags",)),
    )
}
MORE = {
    "flat": Measure("flat", "verifier", is_verifier=("flat",)),
    "copy_wrong": Measure("copy_wrong", "judge", higher_is_better=False),
}


def made_up_pool(
    output: Path,
    prompts: int = 12,
    size: int = 16,
    measures: Iterable[str] = tuple(MEASURES),
    refused: Mapping[str, Sequence[int]] | None = None,
    guided: bool = False,
    settings: Mapping[str, Any] | None = None,
    shift: float = 0.0,
) -> Path:
    """A pool's folder. refused: by measure, the prompts (their numbers) without scores. guided:
    whether log-probabilities without the text are known. settings: further ones of its identity.
    shift: is added to every z."""
    rng = np.random.default_rng(0)
    identity = {
        "script": "pool",
        "candidates": size,
        "duration": DURATION,
        "frames": FRAMES,
        "prompts": {"count": prompts, "sha256": SHA},
        "checkpoints": {"generator": {"name": "made up", "sha256": SHA}},
        "made up": [sorted(measures), dict(refused or {}), guided],
        **(settings or {}),
    }
    facts = {"title": f"made up: {prompts} prompts, m = {size}", "source": {}}
    with Run(output, "pool made up", identity, facts) as run:
        (run.folder / "tokens").mkdir(exist_ok=True)
        for number in range(prompts):
            prompt, z = f"p{number}", rng.normal(size=size) + shift
            np.save(run.folder / "tokens" / f"{prompt}.npy", np.zeros((size, 4, FRAMES), np.int16))
            log_probs = {key: values.tolist() for key, values in _beginnings(0.1 * z, rng).items()}
            without = {key: [-x for x in values] for key, values in log_probs.items()}
            spent = {"decode": size * 1.0, "conditions": 0.0}
            run.append(
                {**CANDIDATES, "prompt_id": prompt, "status": "ok", "prompt": prompt}
                | {"key": prompt, "log_probs": log_probs}
                | ({"unconditional_log_probs": without} if guided else {})
                | {"ledger": _ledger(FRAMES * size, 0, spent)}
            )
            for name, values in _scores(z, _level(number), rng).items():
                if name in measures:
                    lacks = number in (refused or {}).get(name, ())
                    run.append(_scored(name, prompt, {} if lacks else values))
    return run.folder


def _scores(z: Array, level: float, rng: np.random.Generator) -> dict[str, dict[str, Array]]:
    """By measure and key. Every call draws as much, whichever measures are kept."""
    other = rng.normal(size=z.size)
    return {
        "tags": _beginnings(z + level, rng),
        "noise": _beginnings(other, rng),
        "flat": {"whole": np.full(z.size, 0.5)},
        "copy": {"whole": 7 - 2 * z},
        "copy_wrong": {"whole": 7 - 2 * z},
        "turning": {"whole": z - 4 * np.maximum(z - TURNS_AT, 0)},
        "kin": {"whole": z + 0.2 * rng.normal(size=z.size)},
        "again": {"whole": 10 * (z + level)},
    }


def _beginnings(whole: Array, rng: np.random.Generator) -> dict[str, Array]:
    """Scores of beginnings that correlate with the whole's by t / duration."""
    spread = np.std(whole)
    found = {}
    for at in PREFIXES:
        part = at / DURATION
        noise = rng.normal(scale=spread, size=whole.size)
        found[f"{at:g}"] = part * whole + math.sqrt(1 - part**2) * noise
    return {**found, "whole": whole}


def _scored(name: str, prompt: str, values: dict[str, Array]) -> dict[str, Any]:
    return {
        **(MEASURES | MORE)[name].as_record(),
        **scores_key(name),
        "prompt_id": prompt,
        "status": "ok" if values else "failed",
        "checkpoint": {"name": name, "sha256": SHA},
        "values": {key: x.tolist() for key, x in values.items()},
        "seconds": dict.fromkeys(values, 0.5),
        "reason": "" if values else f"{name}: names no tag",
    }


SBS4 = SearchCell("sbs", 4, {"beam_width": 2}, 2.0)
SBS8 = SearchCell("sbs", 8, {"beam_width": 4}, 2.0)
LOOKAHEAD = SearchCell("lookahead", 4, {"beam_width": 2, "lookahead_k": 1}, 2.0)
BASELINE, BEST_OF_4 = SearchCell("baseline", 1), SearchCell("best_of_n", 4)
# -> (gain of tags and of copy in deviations of z, frames, seconds)
CELLS: dict[SearchCell, tuple[float, float, int, float]] = {
    SBS4: (1.5, 1.5, 1000, 4.0),
    SBS8: (2.0, 0.5, 2000, 9.0),
    LOOKAHEAD: (1.6, 1.6, 1900, 8.0),
}
SINGLES = {BASELINE: (0.0, 0.0, 250, 1.5), BEST_OF_4: (1.0, 1.0, 1000, 6.0)}


def made_up_sweep(
    output: Path,
    prompts: int = 12,
    seeds: Sequence[int] = (42, 43),
    unfinished: Sequence[SearchCell] = (),
    cells: Mapping[SearchCell, tuple[float, float, int, float]] = CELLS,
    noise: float = 0.05,
    seconds: float = DURATION,
    checkpoint: str = "",
    definition: str = "",
) -> Path:
    """A sweep's folder, to go with `made_up_pool`: gains are over the level that its tags have.

    unfinished: cells of which two prompts are lacking. checkpoint, definition: of its tags.
    """
    rng = np.random.default_rng(5)
    identity = {
        "script": "sweep",
        "made up": [prompts, *seeds, noise, seconds, checkpoint],
        "cells": [cell.name for cell in cells],
        "unfinished": [cell.name for cell in unfinished],
    }
    copy = replace(MEASURES["copy"], role="primary judge")
    weights = {"checkpoint": checkpoint, "definition": definition}
    tags = replace(MEASURES["tags"], role="selector", **weights)
    measures = [measure.as_record() for measure in (tags, copy, MEASURES["kin"])]
    facts = {"title": "made up sweep, selector tags", "measures": measures}
    with Run(output, "sweep made up tags", identity, facts) as run:
        for (cell, (own, judged, frames, spent)), seed in product(cells.items(), seeds):
            for number in range(prompts - 2 * (cell in unfinished)):
                shift = rng.normal(0, noise, size=2)
                value = _level(number) + own + shift[0]
                record = {
                    **search_key(cell.method, replace(cell, seed=seed)),
                    **{"prompt_id": f"p{number}", "status": "ok", "unjudged": {}},
                    "winner": {"score": {"value": value}, "seconds": seconds},
                    "judges": {"copy": 7 - 2 * (judged + shift[1]), "kin": own},
                }
                spans = {"decode": spent, "judge": 100.0}
                run.append(record | {"ledger": _ledger(frames, 3 * cell.candidates, spans)})
    return run.folder


def _level(number: int) -> float:
    """Of a prompt: how high its tags are beside z."""
    return 3 * math.sin(number)


def _ledger(frames: int, clips: int, seconds: dict[str, float]) -> dict[str, Any]:
    return {"frames": frames, "clips": clips, "uploaded_bytes": 0, "seconds": seconds}
