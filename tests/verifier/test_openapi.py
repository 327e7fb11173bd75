"""The server against its own OpenAPI document: schemathesis asks what it allows, and what not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.verifier.asking import wait_until_ready
from tests.verifier.server_process import ROOT, ServerProcess

pytestmark = pytest.mark.slow

RUN = "from schemathesis.cli import schemathesis; schemathesis(prog_name='schemathesis')"


def schemathesis_run(url: str, folder: Path, *options: str) -> str:
    """What `schemathesis run` says, with every check that it has; fails when one fails."""
    command = [sys.executable, "-c", RUN, "run", f"{url}/openapi.json", "--checks", "all"]
    command += ["--max-examples", "60", "--seed", "1", "--no-color", *options]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SCHEMATHESIS_HOOKS": "tests.verifier.schemathesis_hooks",
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def passed(output: str) -> int:
    found = re.search(r"(\d+) generated, (\d+) passed", output)
    assert found, output
    assert found[1] == found[2], output
    return int(found[1])


def test_schemathesis_finds_nothing(server: ServerProcess, tmp_path: Path) -> None:
    counts = [
        f'curator_request_seconds_count{{path="{path}",status="{status}"}}'
        for path in ("/score", "/texts")
        for status in (200, 400)
    ]
    before = [server.metric(count) for count in counts]
    output = schemathesis_run(server.url, tmp_path)
    assert "6 selected / 6 total" in output
    assert passed(output) > 100
    for count, earlier in zip(counts, before, strict=True):
        assert server.metric(count) - earlier > 10, count


def test_schemathesis_finds_nothing_where_a_token_is_asked_for(tmp_path: Path) -> None:
    options = ("--models", "fake", "fake48")
    with ServerProcess(tmp_path / "log", *options, token="hunter2") as server:
        wait_until_ready(server)
        assert passed(schemathesis_run(server.url, tmp_path, "-H", "Authorization: Bearer hunter2"))
        assert server.metric('curator_rejects_total{model="",reason="unauthorized"}')
