"""What Ray costs and gains on one machine: prompts a minute of real searches on the built-in stack.

    python perf/cluster_measured.py --output results/performance/cluster-measured.json
    python perf/cluster.py --check results/performance/cluster-measured.json

Measures, each with one thread a process: searches without Ray; with one generator actor, which is
what Ray costs; with two; and, by a verifier that hears audio, one and two groups in flight beside
one verifier actor, which is what overlap gains. One prompt is a group, so that nothing is idle but
for want of work. Everything is started anew for each repetition, and its first searches are not
timed; repetitions go in turn, so that what slows the machine meets all of them.

Writes a list in the form that perf/cluster.py --check reads: medians, with all repetitions.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: what every process here and of Ray has
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.cluster.driver import open_models
from src.data.prompts import Selection, load_prompts
from src.experiments.benchmark import parts_of
from src.experiments.searching import Searching
from src.experiments.settings import BenchmarkSettings
from src.runs.provenance import commit, machine
from src.runs.settings import parse
from src.scoring import components, remote_parts

# verifier, generators (0: without Ray), groups in flight
CASES = [
    ("pmi", 0, 1),
    ("pmi", 1, 1),
    ("pmi", 2, 1),
    ("tags", 0, 1),
    ("tags", 1, 1),
    ("tags", 1, 2),
]


def measure(
    options: argparse.Namespace, method: str, verifier: str, generators: int, groups: int
) -> float:
    """Prompts a minute."""
    asked = f"--profile builtin --judges none --server auto --method {method} --verifier {verifier}"
    asked += f" --candidates {options.candidates} --max_rows {options.candidates}"
    asked += f" --duration {options.duration:g} --log_level warning"
    if generators:
        asked += f" --ray local --generator_actors {generators} --in_flight {groups}"
        asked += " --cpus_per_generator 1 --cpus_per_verifier 1"
    settings = parse(BenchmarkSettings, asked.split(), "perf/cluster_measured.py")
    prompts = load_prompts("builtin", Selection(limit=options.prompts), Path())
    warming = prompts[: max(1, generators) * groups]
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        names = remote_parts(components(verifier))
        models = open_models(settings, names, [p.text for p in prompts], stack)
        parts = parts_of(settings, models)
        workers = models.workers(partial(parts_of, settings), parts)
        (plan,) = settings.plans(parts.generator.frame_rate)

        def search(some: list, seed: int) -> None:
            ids = frozenset(prompt.id for prompt in some)
            rest = ({}, plan, seed, ids, "none", Path(folder))
            done = [*workers(Searching([prompt], *rest) for prompt in some)]
            assert all(one.record and one.record["status"] == "ok" for one in done)

        search(warming, 1)
        began = time.perf_counter()
        search(prompts, 2)
        return 60 * len(prompts) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--method", nargs="+", default=["best_of_n", "sbs"])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--duration", type=float, default=5.0)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--latency", help="folder of the latency run that --check is to stand on")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    cases = [(method, *case) for method in options.method for case in CASES]
    rates: dict[tuple, list[float]] = {case: [] for case in cases}
    for _ in range(options.repetitions):
        for case in cases:
            rates[case].append(measure(options, *case))
            print(*case, f"{rates[case][-1]:.1f} prompts a minute", file=sys.stderr)
    here = {name: value for name, value in machine().items() if name != "command"} | commit()
    points = []
    for (method, verifier, generators, groups), found in rates.items():
        what = f"{generators} by Ray" if generators else "without Ray"
        points.append(
            {"costs": "measured", "method": method, "verifier": verifier, "in_flight": groups}
            | {"generators": max(1, generators), "verifiers": int(verifier == "tags"), "cores": 2}
            | {"candidates": options.candidates, "max_rows": options.candidates}
            | {"duration": options.duration, "prompts_per_minute": statistics.median(found)}
            | ({"latency": options.latency} if options.latency else {})
            | {"note": what, "measured": {"repetitions": found} | here}
        )
        print(f"{method:10} {verifier:5} {what:12} {groups} in flight", end="  ")
        print(f"{statistics.median(found):6.1f}  {min(found):6.1f} to {max(found):.1f}")
    if options.output:
        options.output.write_text(json.dumps(points, indent=1) + "\n")


if __name__ == "__main__":
    main()
