"""The verifier server under load and attack, on loopback, with the built-in taggers.

    envs/verifier/.venv/bin/python perf/server_load.py
    envs/verifier/.venv/bin/python perf/server_load.py --output results/builtin --fuzz 10000

Many clients at once, for several models: most ask what is right, some send broken files or forms,
some are slow, some are cut off in the middle or hang up. Checked, and 1 is the exit code when not:

  scores   every good request gets its own scores, those of a serial run beforehand
  answers  every bad one gets its 4xx; none a 5xx but "503, come back later"
  memory   resident memory of the last third is at most 1.05 times that of the first third
  health   99 % of GET /health take under 50 ms meanwhile
  after    the same requests are right afterwards, nothing is left in queues or held, SIGTERM: 0
  attacks  under each of perf/attacks.py half of GET /health take under 250 ms, and good requests
           are scored; 200 clients, who wait as told, get at least 70 % of the clips of 8
  fuzz     with --fuzz N: N mutated WAVs get nothing but clean answers

Requests are new sounds, but for those whose scores are compared: taggers remember what they heard.
Throughput with batching against without (--batch.max_clips 1) is measured on two servers in turns.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shlex
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from statistics import mean, median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import requests
from tqdm import tqdm

from perf.attacks import MEASURED, goodput, under_attack
from perf.load_clients import (
    KINDS_WITH_NEW,
    MODELS,
    TOLERANCE,
    Crowd,
    Scores,
    deviation,
    good_requests,
    new_clip,
    prepare,
    scores,
    send,
)
from perf.watching import probing, watching
from src.data.audio import encode_wav
from src.data.files import write_whole
from src.runs.provenance import commit, machine, versions
from tests.verifier.server_process import REAL_MODELS, ServerProcess

PACKAGES = ("torch", "numpy", "fastapi", "uvicorn", "soundfile", "soxr", "hypothesis")
MAX_GROWTH, MAX_HEALTH_SECONDS = 1.05, 0.05


def serial(url: str, asked: list[Any]) -> list[Scores]:
    """What each request scores when it is alone."""
    with requests.Session() as session:
        return [scores(send(session, url, one)) for one in tqdm(asked, "serial", leave=False)]


def fill_memories(url: str) -> None:
    """Let the taggers hear as much as they remember, 8 minutes: then their memory is full."""
    rng = random.Random(1)
    with requests.Session() as session:
        for _ in tqdm(range(6), "memories", leave=False):
            wavs = [encode_wav(new_clip(rng, seconds=22)) for _ in range(4)]
            send(
                session, url, prepare(wavs, ["metal"] * 4, ("tags", "tags_msd"))
            ).raise_for_status()


def load(server: ServerProcess, clients: int, seconds: float) -> dict[str, Any]:
    """The mixed load: what came back, how memory and /health fared."""
    asked = good_requests(24)
    expected = serial(server.url, asked)
    fill_memories(server.url)
    # Threads start and caches grow once.
    Crowd(server.url, asked, expected).run(clients, seconds / 4, KINDS_WITH_NEW)
    crowd = Crowd(server.url, asked, expected)
    with probing(server.url) as health, watching(server.process.pid, seconds) as memory:
        begin = time.monotonic()
        crowd.run(clients, seconds, KINDS_WITH_NEW)
        elapsed = time.monotonic() - begin  # what is under way at the end is waited for
    third = max(1, len(memory) // 3)
    first, last = mean(memory[:third]), mean(memory[-third:])
    again = serial(server.url, asked)
    far = max(deviation(a, b) for a, b in zip(again, expected, strict=True))
    left = {
        name: server.metric(f"curator_{name}")
        for name in ("requests_uploading", "requests_scoring", "held_bytes")
    }
    for model in MODELS:
        left[model] = server.metric(f'curator_queue_depth{{model="{model}"}}')
    health_p99 = float(np.quantile(health, 0.99))
    return {
        "clients": clients,
        "seconds": seconds,
        "answers": dict(crowd.answers.most_common()),
        "new clips scored a second": round(len(crowd.seconds) / elapsed, 1),
        "new request median s": round(median(crowd.seconds), 3),
        "greatest deviation of a score": crowd.deviation,
        "health p50 ms": round(1000 * median(health), 2),
        "health p99 ms": round(1000 * health_p99, 2),
        "health requests": len(health),
        "memory first third MB": round(first, 1),
        "memory last third MB": round(last, 1),
        "memory growth": round(last / first, 4),
        "wrong": crowd.wrong[:20],
        "checks": {
            "scores": crowd.deviation <= TOLERANCE and bool(crowd.seconds),
            "answers": not crowd.wrong,
            "memory": last <= MAX_GROWTH * first,
            "health": health_p99 < MAX_HEALTH_SECONDS,
            "after": far <= TOLERANCE and not any(left.values()),
        },
    }


def throughput(servers: dict[str, ServerProcess], clients: int, seconds: float) -> dict[str, Any]:
    """New clips a second of each server, one clip a request and one model, in turns."""
    asked = good_requests(1, models=("tags",))
    found: dict[str, list[float]] = {name: [] for name in servers}
    sizes = {}
    turns = 4
    for turn in tqdm(range(turns), "throughput", unit="turn", leave=False):
        for name in servers if turn % 2 else reversed(servers):
            crowd = Crowd(servers[name].url, asked, expected=[])
            begin = time.monotonic()
            crowd.run(clients, seconds / turns / len(servers), kinds=("new",))
            found[name].append(len(crowd.seconds) / (time.monotonic() - begin))
    for name, server in servers.items():
        count = server.metric('curator_batch_clips_count{model="tags"}')
        sizes[name] = round(server.metric('curator_batch_clips_sum{model="tags"}') / count, 2)
    ratios = [a / b for a, b in zip(*found.values(), strict=True)]
    return {
        "clients": clients,
        "clips a second": {name: [round(x, 1) for x in values] for name, values in found.items()},
        "mean batch": sizes,
        "ratio": round(median(ratios), 3),
    }


def attacks(server: ServerProcess, seconds: float) -> dict[str, Any]:
    """What others notice of each attack, and what a crowd gets; so many seconds each."""
    rows = {}
    for name, sockets in tqdm(MEASURED, "attacks", leave=False):
        rows[f"{name}, {sockets} sockets"] = under_attack(server, name, sockets, seconds)
    crowd = {str(count): goodput(server.url, count, 4 * seconds) for count in (8, 200)}
    is_well = all(row["health p50 ms"] < 250 and row["good requests"] for row in rows.values())
    share = crowd["200"] / crowd["8"]
    return {
        "rows": rows,
        "clips a second by clients": {count: round(rate, 1) for count, rate in crowd.items()},
        "share": round(share, 2),
        "checks": {"attacks": is_well and share >= 0.7},
    }


def fuzz(number: int, scratch: Path) -> dict[str, Any]:
    """Mutated WAVs by answer, to a server whose model is a fake (what is refused is the same)."""
    from tests.verifier.hostile_wavs import attack

    answers: Counter[str] = Counter()
    with (
        ServerProcess(
            scratch / "fuzz.log", "--models", "fake", "--batch.max_wait_ms", "0"
        ) as server,
        tqdm(total=number, desc="fuzz", unit="file", leave=False) as bar,
    ):
        server.wait_until_ready()
        try:
            answers = attack(server, number, bar.update)
        except (AssertionError, requests.RequestException, ValueError) as error:
            answers[f"not clean: {error}"[:300]] += 1
        alive = server.process.poll() is None and "Traceback" not in server.log.read_text()
    clean = not any(answer.startswith("not clean") for answer in answers)
    return {
        "files": answers.total(),
        "answers": dict(answers.most_common()),
        "clean": clean and alive,
    }


def report(result: dict[str, Any]) -> list[tuple[str, str]]:
    """The rows of the table."""
    rows = [
        (key, str(value))
        for key, value in result["load"].items()
        if key not in ("answers", "checks", "wrong")
    ]
    rows += [(f"answers, {name}", str(count)) for name, count in result["load"]["answers"].items()]
    for name, values in result["throughput"]["clips a second"].items():
        batch = result["throughput"]["mean batch"][name]
        rows.append((f"clips a second, {name}", f"{median(values):.1f} (mean batch {batch})"))
    rows.append(("batching / none, median of turns", str(result["throughput"]["ratio"])))
    for name, row in result.get("attacks", {}).get("rows", {}).items():
        rows += [(f"{name}, {measure}", str(value)) for measure, value in row.items()]
    if "attacks" in result:
        rate = result["attacks"]["clips a second by clients"]
        rows.append(("200 clients / 8 clients", f"{result['attacks']['share']} ({rate})"))
    for name, count in result.get("fuzz", {}).get("answers", {}).items():
        rows.append((f"fuzz, {name}", str(count)))
    rows += [
        (f"check {name}", "passed" if ok else "FAILED") for name, ok in result["checks"].items()
    ]
    return rows


def main() -> int:
    """Run, print the table, write it where asked; 1 when a check fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=100, help="of load and throughput together"
    )
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--attacks", type=float, default=8, help="seconds of each; 0: none")
    parser.add_argument("--fuzz", type=int, default=0, metavar="N", help="mutated WAVs to send")
    parser.add_argument("--output", type=Path, help="folder for server_load.json and .csv")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "command": shlex.join(["python", "perf/server_load.py", *sys.argv[1:]]),
        "commit": commit(),
        "versions": versions(PACKAGES),
        "machine": machine(),
    }
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        scratch = Path(folder)

        def start(name: str, *flags: str) -> ServerProcess:
            server = ServerProcess(scratch / name, *flags, server=REAL_MODELS)
            stack.enter_context(server)
            server.wait_until_ready()
            return server

        main_server = start("load.log", "--models", *MODELS)
        result["load"] = load(main_server, options.clients, 0.5 * options.seconds)
        main_server.terminate()
        stopped = main_server.process.wait(60) == 0
        checks = {**result["load"]["checks"], "exit": stopped}
        servers = {
            "batches of 32": start("32.log", "--models", "tags"),
            "batches of 1": start("1.log", "--models", "tags", "--batch.max_clips", "1"),
        }
        result["throughput"] = throughput(servers, 8, 0.3 * options.seconds)
        if options.attacks:
            result["attacks"] = attacks(start("attacks.log", "--models", "tags"), options.attacks)
            checks |= result["attacks"]["checks"]
        if options.fuzz:
            result["fuzz"] = fuzz(options.fuzz, scratch)
            checks["fuzz"] = result["fuzz"]["clean"]
    result["checks"] = checks
    rows = report(result)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{width}}  {value}")
    for line in result["load"]["wrong"]:
        print(f"wrong: {line}", file=sys.stderr)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        write_whole(options.output / "server_load.json", json.dumps(result, indent=1) + "\n")
        with (options.output / "server_load.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("measure", "value"), *rows])
    return int(not all(checks.values()))


if __name__ == "__main__":
    sys.exit(main())
