"""Scripts as people start them: processes that are interrupted, killed and resumed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Hashable, Mapping
from pathlib import Path
from signal import Signals
from typing import Any

import pytest

from src.runs.records import RECORDS, read_records

ROOT = Path(__file__).parents[2]
Process = subprocess.Popen[str]


def start(
    script: str, output: Path, *args: str, environment: Mapping[str, str] = os.environ
) -> Process:
    return subprocess.Popen(
        [sys.executable, script, *args, "--output", str(output)],
        cwd=ROOT,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(
    script: str, output: Path, *args: str, environment: Mapping[str, str] = os.environ
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    process = start(script, output, *args, environment=environment)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def end(process: Process, signal: Signals | None = None) -> str:
    """Send a signal, if any, and wait. Returns stderr."""
    if signal is not None:
        process.send_signal(signal)
    return process.communicate(timeout=100)[1]


def until_written(process: Process, output: Path, records: int, kind: str = "benchmark") -> None:
    """Wait for that many records of a run, while the process runs."""
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline and process.poll() is None:
        files = list(output.glob(f"{kind}-*/{RECORDS}"))
        if files and files[0].read_bytes().count(b"\n") >= records:
            return
        time.sleep(0.02)
    process.kill()
    pytest.fail(f"no {records} records came: {process.communicate()[1][-2000:]}")


def folder_of(output: Path, kind: str = "benchmark") -> Path:
    """The only run of this kind."""
    (folder,) = output.glob(f"{kind}-*")
    return folder


def lines(folder: Path) -> list[dict[str, Any]]:
    """Every whole line of a run's records, those that later ones replace too."""
    text = (folder / RECORDS).read_text()
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def winners(folder: Path) -> dict[Hashable, str]:
    """The winner's tokens, as a hash, of each search."""
    return {k: record["winner"]["tokens_sha256"] for k, record in read_records(folder).items()}
