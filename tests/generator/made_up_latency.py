"""A latency run's folder with made-up seconds, for what reads records."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from src.budget import STAGES
from src.cells import SearchCell, grid
from src.runs.records import RECORDS, Record, search_key
from src.runs.run import Run

VALUES = {"beam_width": [4], "lookahead_k": [1]}
CELLS = tuple(grid(("baseline", "best_of_n", "sbs", "lookahead"), (4, 8, 16), VALUES))
DURATION, STEP, RATE = 4.0, 1.0, 50.0
HERE = {
    **{"torch_threads": 2, "cpu_count": 2, "cpu": "made up", "gpus": []},
    **{"load_average": [0.0, 0.0, 0.0], "commit": "abc", "dirty": False},
}


def per_frame(cell: SearchCell, repetition: int, prompt: int) -> float:
    """Half a second, and a hundredth for each frame."""
    return 0.5 + 0.01 * cell.plan(DURATION, STEP, RATE).expected().frames


def noisy(cell: SearchCell, repetition: int, prompt: int) -> float:
    """As `per_frame`, with 1% of noise; a repetition's drift of up to 50% for all cells alike."""
    drawn = random.Random(f"{cell.name} {repetition} {prompt}").gauss(1, 0.01)
    return per_frame(cell, repetition, prompt) * drawn * (1 + repetition / 10)


def record(cell: SearchCell, repetition: int, prompt: str, seconds: float) -> Record:
    """Nine tenths of the time are decoding, 5% rendering."""
    cost = cell.plan(DURATION, STEP, RATE).expected()
    stages = dict.fromkeys(STAGES, 0.0) | {"decode": 0.9 * seconds, "render": 0.05 * seconds}
    return {
        **search_key(cell.method, cell, repetition),
        **{"prompt_id": prompt, "status": "ok", "group": 1, "wall_seconds": seconds, "start": 0},
        "ledger": {
            **{"frames": cost.frames, "clips": cost.clips, "uploaded_bytes": 1000 * cost.clips},
            "seconds": stages,
        },
        "memory": {"gpu": None, "resident": 2_000_000, "server": None},
        "load": 1.0,
        "winner": {"tokens_sha256": f"{cell.name} {prompt}"},
    }


def made_up_latency(
    output: Path,
    seconds: Callable[[SearchCell, int, int], float] = per_frame,
    cells: Sequence[SearchCell] = CELLS,
    repetitions: int = 5,
    prompts: int = 3,
    change: Callable[[Record], Record | None] = lambda record: record,
    skipped: Sequence[SearchCell] = (),
    here: dict[str, Any] | None = None,
) -> Path:
    """seconds: of (cell, repetition, prompt). change: each record before it is written, None to
    leave it out."""
    settings = {"duration": DURATION, "step_size": STEP, "batch": 1, "server": "none"}
    facts = {
        "title": "made up",
        "cells": [cell.as_record() for cell in cells],
        "skipped": [cell.as_record() for cell in skipped],
        "frame_rate": RATE,
    }
    identity = {"script": "latency", "settings": settings}
    with Run(output, "latency", identity, facts, HERE | (here or {})) as run:
        folder = run.folder
    made = [
        change(record(cell, repetition, f"p{prompt}", seconds(cell, repetition, prompt)))
        for repetition in range(1, repetitions + 1)
        for cell in cells
        for prompt in range(prompts)
    ]
    lines = [json.dumps(one) + "\n" for one in made if one is not None]
    (folder / RECORDS).write_text("".join(lines))  # at once: hundreds of records, no fsync each
    return folder
