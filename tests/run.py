"""Run every test in the environment that it belongs to; `make test` calls this.

    envs/generator/.venv/bin/python tests/run.py [pytest's options]

As many suites run side by side as the machine has cores, each with its share of them; JOBS=1 in the
environment runs one after the other, with pytest's output as it comes. All suites run, whatever
fails; the exit code is 1 if anything did. The last line sums them up. With FAST=1 in the
environment, tests that are marked slow are left out.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUITES = {  # the longest first, so that the last to end is a short one
    "tests/end_to_end": "generator",
    "tests/generator": "generator",
    "tests/verifier": "verifier",
    "tests/cluster": "generator",  # skipped without Ray
    "tests/downloader": "downloader",
    "tests/browser": "generator",
}
NOTHING_COLLECTED = 5
CORES = os.cpu_count() or 1
JOBS = min(len(SUITES), int(os.environ.get("JOBS") or CORES))


def run_suite(
    folder: str, environment: str, options: list[str]
) -> tuple[int, Counter[str], list[str]]:
    """pytest's exit code, how many tests ended how, and what failed, with the reason."""
    python = ROOT / "envs" / environment / ".venv" / "bin" / "python"
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [str(python), "-m", "pytest", folder, f"--junitxml={report}", *options]
        # Threads of two suites that wait for each other's cores cost more than they gain.
        share = {"OMP_NUM_THREADS": str(max(1, CORES // JOBS))} if JOBS > 1 else {}
        # Tests are written for a CPU: float32, exact, on every machine.
        environ = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", **share}
        # Dozens of servers are started: with bytecode at hand each takes half the time.
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        code = follow(command, environ, Path(folder).name)
        if not report.exists():
            return code, Counter(), []
        return code, count(report), failures(report)


def follow(command: list[str], environ: dict[str, str], name: str) -> int:
    """Run `command`; its lines come as they are written, after its name when others run beside."""
    output = subprocess.PIPE if JOBS > 1 else None
    with subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=output, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            print(f"{name:10} | {line}", end="", flush=True)
    return process.returncode


def count(report: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        number = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
        counts["failed"] += number["failures"]
        counts["errors"] += number["errors"]
        counts["skipped"] += number["skipped"]
        counts["passed"] += number["tests"] - sum(number[k] for k in number if k != "tests")
    return counts


def failures(report: Path) -> list[str]:
    """Of each test that failed, its name and the first line of why."""
    found = []
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        for problem in (*case.iter("failure"), *case.iter("error")):
            reason = (problem.get("message") or "").partition("\n")[0]
            found.append(f"{case.get('classname')}.{case.get('name')}: {reason}")
    return found


def main() -> int:
    # In the background (nohup make test &) SIGINT is ignored, by whatever is started from here too;
    # tests interrupt processes. With a handler, children begin with the system's default.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    fast = os.environ.get("FAST", "") not in ("", "0")
    options = [*(("-m", "not slow") if fast else ()), *sys.argv[1:]]
    started, counts, broken, failed = time.monotonic(), Counter[str](), [], []
    with ThreadPoolExecutor(JOBS) as pool:
        runs = {name: pool.submit(run_suite, name, env, options) for name, env in SUITES.items()}
        for folder, run in runs.items():
            code, ended, reasons = run.result()
            counts += ended
            failed += reasons
            if code not in (0, NOTHING_COLLECTED):
                broken.append(folder)
    order = [name for name in ("failed", "passed", "skipped", "errors") if counts[name]]
    summary = ", ".join(f"{counts[name]} {name}" for name in order) or "no tests ran"
    if broken:
        print(f"\nnot green: {', '.join(broken)}", *failed, sep="\n  ")
    print(f"\n==== {summary} in {time.monotonic() - started:.2f}s ====")
    return 1 if broken or not counts["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
