"""How long it takes to join the shards of a large run, and how much memory: made-up records.

    envs/generator/.venv/bin/python perf/merge.py --prompts 5521 --candidates 64 --shards 8

A pool has log-probabilities and the scores of four measures at five beginnings each and tokens of
one frame; a benchmark a tree for each of five searches. Joins into an empty run, and again.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from src.data.prompts import Prompt
from src.runs.merge import merge
from src.runs.records import CANDIDATES, scores_key, search_key
from src.runs.run import Run
from src.runs.shards import Shard

KEYS = ("1", "2", "4", "8", "whole")
MEASURES = ("tags", "clap", "quality", "muq")
METHODS = ("best_of_n", "sbs", "lookahead", "dvts", "halving")
STEPS = 5


def record_of(key: dict, prompt: Prompt, candidates: int, rng: np.random.Generator) -> dict:
    """In the form and size of a real one."""
    record = {**key, "prompt_id": prompt.id, "status": "ok", "prompt": prompt.text}
    numbers = {at: rng.normal(size=candidates).astype(np.float32).tolist() for at in KEYS}
    if key["kind"] == "scores":
        return record | {"values": numbers, "seconds": dict.fromkeys(KEYS, rng.random())}
    record["ledger"] = {"frames": 500 * candidates, "seconds": {"decode": rng.random()}}
    if key == CANDIDATES:
        return record | {"log_probs": numbers, "unconditional_log_probs": numbers}
    tree = [
        {"id": f"{step}.{slot}", "step": step, "slot": slot, "log_prob": x, "score": {"value": x}}
        | {"parent": slot, "kept": False, "frames": 100}
        for step in range(STEPS)
        for slot, x in enumerate(numbers[KEYS[step]])
    ]
    return record | {"tree": tree, "winner": {"slot": 3, "score": {"value": 0.5}}}


def make(folder: Path, kind: str, prompts: int, candidates: int, shards: int) -> Path:
    """The shards of a run. Returns its folder."""
    every = [Prompt(f"p{n:05d}", "a text of a usual length " * 4, f"k{n}") for n in range(prompts)]
    keys = [CANDIDATES, *map(scores_key, MEASURES)] if kind == "pool" else []
    keys = [dict(key) for key in keys] or [search_key(name) for name in METHODS]
    rng = np.random.default_rng(0)
    for index in range(1, shards + 1):
        part = Shard(index, shards)
        here = {"asked": keys}
        with Run(folder, kind, {"script": kind}, {}, here, shard=part, prompts=every) as run:
            (run.folder / "tokens").mkdir()
            with (run.folder / "records.jsonl").open("w") as file:  # at once: not each to the disk
                for prompt in part.of_groups(every, 1):
                    np.save(run.folder / "tokens" / f"{prompt.id}.npy", np.zeros((1, 4, 1), "<i2"))
                    for key in keys:
                        record = record_of(key, prompt, candidates, rng)
                        record |= {"start": 0, "time": "2026-01-01T00:00:00+00:00"}
                        file.write(json.dumps(record, sort_keys=True, separators=(",", ":")) + "\n")
    return run.folder.parent.parent


def joined(run: str) -> None:
    """In a process of its own: prints seconds and peak memory."""
    begin = time.perf_counter()
    text, complete = merge([Path(run)])
    seconds, own = time.perf_counter() - begin, time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    what = text.splitlines()[0].split(": ")[1]
    print(f"{what}, complete: {complete}, {seconds:.1f} s ({own:.1f} s of a core), {peak:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--prompts", type=int, default=5521)
    parser.add_argument("--candidates", type=int, default=64)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--join", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.join:
        return joined(asked.join)
    for kind in ("pool", "benchmark"):
        with tempfile.TemporaryDirectory() as folder:
            run = make(Path(folder), kind, asked.prompts, asked.candidates, asked.shards)
            size = sum(path.stat().st_size for path in run.rglob("records.jsonl"))
            print(f"{kind}: {size / 1e6:.0f} MB of records", flush=True)
            for what in ("joined", "again"):
                print(what, end=": ", flush=True)
                command = [sys.executable, __file__, "--join", str(run)]
                subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return None


if __name__ == "__main__":
    main()
