"""A latency run's folder with made-up seconds, for what reads records."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from src.budget import STAGES
from src.experiments.latency import record_key
from src.experiments.latency_settings import Cell
from src.runs.records import RECORDS, Run

CELLS = (
    Cell("baseline", 1),
    *(Cell("best_of_n", n) for n in (4, 8, 16)),
    *(Cell("sbs", n, 4) for n in (4, 8, 16)),
    *(Cell("lookahead", n, 4, 1) for n in (4, 8, 16)),
)
DURATION, STEP, RATE = 4.0, 1.0, 50.0
HERE = {
    **{"torch_threads": 2, "cpu_count": 2, "cpu": "made up", "gpus": []},
    **{"load_average": [0.0, 0.0, 0.0], "commit": "abc", "dirty": False},
}


def per_frame(cell: Cell, repetition: int, prompt: int) -> float:
    """Half a second, and a hundredth for each frame."""
    return 0.5 + 0.01 * cell.plan(DURATION, STEP, RATE).expected().frames


def noisy(cell: Cell, repetition: int, prompt: int) -> float:
    """As `per_frame`, with 1% of noise; a repetition's drift of up to 50% for all cells alike."""
    drawn = random.Random(f"{cell.name} {repetition} {prompt}").gauss(1, 0.01)
    return per_frame(cell, repetition, prompt) * drawn * (1 + repetition / 10)


def record(cell: Cell, repetition: int, prompt: str, seconds: float) -> dict[str, Any]:
    """Nine tenths of the time are decoding, 5% rendering."""
    cost = cell.plan(DURATION, STEP, RATE).expected()
    stages = dict.fromkeys(STAGES, 0.0) | {"decode": 0.9 * seconds, "render": 0.05 * seconds}
    return {
        "method": record_key(cell, repetition),
        "prompt_id": prompt,
        "status": "ok",
        "cell": asdict(cell),
        "repetition": repetition,
        "group": 1,
        "wall_seconds": seconds,
        "ledger": {
            **{"frames": cost.frames, "clips": cost.clips, "uploaded_bytes": 1000 * cost.clips},
            "seconds": stages,
        },
        "memory": {"gpu": None, "resident": 2_000_000, "server": None, "resident_is_peak": True},
        "load": 1.0,
        "winner": {"tokens_sha256": f"{cell.name} {prompt}"},
    }


def made_up_latency(
    output: Path,
    seconds: Callable[[Cell, int, int], float] = per_frame,
    cells: Sequence[Cell] = CELLS,
    repetitions: int = 5,
    prompts: int = 3,
    change: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda record: record,
    skipped: Sequence[Cell] = (),
    here: dict[str, Any] | None = None,
) -> Path:
    """seconds: of (cell, repetition, prompt). change: each record before it is written, None to
    leave it out."""
    settings = {"duration": DURATION, "step_size": STEP, "batch": 1, "server": "none"}
    facts = {
        "title": "made up",
        "cells": [asdict(cell) for cell in cells],
        "skipped": [asdict(cell) for cell in skipped],
        "frame_rate": RATE,
    }
    with Run(output, "latency", {"settings": settings}, facts, HERE | (here or {})) as run:
        folder = run.folder
    made = [
        change(record(cell, repetition, f"p{prompt}", seconds(cell, repetition, prompt)))
        for repetition in range(1, repetitions + 1)
        for cell in cells
        for prompt in range(prompts)
    ]
    lines = [json.dumps(one | {"start": 0}) + "\n" for one in made if one is not None]
    (folder / RECORDS).write_text("".join(lines))  # at once: hundreds of records, no fsync each
    return folder
