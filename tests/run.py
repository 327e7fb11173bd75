"""Run every test in the environment that it belongs to; `make test` calls this.

    envs/generator/.venv/bin/python tests/run.py [pytest's options]

All suites run, whatever fails; the exit code is 1 if anything did. The last line sums them up.
With FAST=1 in the environment, tests that are marked slow are left out.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUITES = {
    "tests/generator": "generator",
    "tests/verifier": "verifier",
    "tests/downloader": "downloader",
    "tests/end_to_end": "generator",
    "tests/browser": "generator",
}
NOTHING_COLLECTED = 5


def run_suite(folder: str, environment: str, options: list[str]) -> tuple[int, Counter[str]]:
    """pytest's exit code, and how many tests ended how."""
    python = ROOT / "envs" / environment / ".venv" / "bin" / "python"
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [str(python), "-m", "pytest", folder, f"--junitxml={report}", *options]
        environ = {**os.environ, "HF_HUB_OFFLINE": "1"}
        # Dozens of servers are started: with bytecode at hand each takes half the time.
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        code = subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode
        return code, count(report) if report.exists() else Counter()


def count(report: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        number = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
        counts["failed"] += number["failures"]
        counts["errors"] += number["errors"]
        counts["skipped"] += number["skipped"]
        counts["passed"] += number["tests"] - sum(number[k] for k in number if k != "tests")
    return counts


def main() -> int:
    # In the background (nohup make test &) SIGINT is ignored, by whatever is started from here too;
    # tests interrupt processes. With a handler, children begin with the system's default.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    fast = os.environ.get("FAST", "") not in ("", "0")
    options = [*(("-m", "not slow") if fast else ()), *sys.argv[1:]]
    started, counts, broken = time.monotonic(), Counter[str](), []
    for folder, environment in SUITES.items():
        print(f"\n{folder}, in the {environment} environment", flush=True)
        code, ended = run_suite(folder, environment, options)
        counts += ended
        if code not in (0, NOTHING_COLLECTED):
            broken.append(folder)
    order = [name for name in ("failed", "passed", "skipped", "errors") if counts[name]]
    summary = ", ".join(f"{counts[name]} {name}" for name in order) or "no tests ran"
    if broken:
        print(f"\nnot green: {', '.join(broken)}")
    print(f"\n==== {summary} in {time.monotonic() - started:.2f}s ====")
    return 1 if broken or not counts["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
