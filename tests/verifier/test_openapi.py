"""The server against its own OpenAPI document: schemathesis asks what it allows, and what not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.verifier.server_process import ROOT, ServerProcess

pytestmark = pytest.mark.slow

RUN = "from schemathesis.cli import schemathesis; schemathesis(prog_name='schemathesis')"


def schemathesis_run(server: ServerProcess, folder: Path, *options: str) -> int:
    """How many requests `schemathesis run` sends; every check that it has passes for all."""
    command = [sys.executable, "-c", RUN, "run", f"{server.url}/openapi.json", "--checks", "all"]
    command += ["--max-examples", "60", "--seed", "1", "--no-color", *options]
    hooks = {"PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.verifier.schemathesis_hooks"}
    done = subprocess.run(
        command, cwd=folder, env=os.environ | hooks, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 selected / 6 total" in done.stdout
    found = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert found, done.stdout
    assert found[1] == found[2], done.stdout
    return int(found[1])


def test_schemathesis_finds_nothing(server: ServerProcess, tmp_path: Path) -> None:
    counts = [
        f'curator_request_seconds_count{{path="{path}",status="{status}"}}'
        for path in ("/score", "/texts")
        for status in (200, 400)
    ]
    before = [server.metric(count) for count in counts]
    assert schemathesis_run(server, tmp_path) > 100
    for count, earlier in zip(counts, before, strict=True):
        assert server.metric(count) - earlier > 10, count


def test_schemathesis_finds_nothing_where_a_token_is_asked_for(tmp_path: Path) -> None:
    options = ("--models", "fake", "fake48")
    with ServerProcess(tmp_path / "log", *options, token="hunter2") as server:
        server.wait_until_ready()
        assert schemathesis_run(server, tmp_path, "-H", "Authorization: Bearer hunter2")
        assert server.metric('curator_rejects_total{model="",reason="unauthorized"}')
