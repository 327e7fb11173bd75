"""The server against its own OpenAPI document: schemathesis asks what it allows, and what not."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.verifier.asking import BEARER, wait_until_ready
from tests.verifier.server_process import ROOT, ServerProcess

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
    scored = 'curator_request_seconds_count{path="/score",status="200"}'
    refused = 'curator_request_seconds_count{path="/score",status="400"}'
    before = server.metric(scored), server.metric(refused)
    output = schemathesis_run(server.url, tmp_path)
    assert "5 selected / 5 total" in output
    assert passed(output) > 100
    assert server.metric(scored) - before[0] > 10
    assert server.metric(refused) - before[1] > 10


def test_schemathesis_finds_nothing_where_a_token_is_asked_for(tmp_path: Path) -> None:
    options = ("--models", "fake", "fake48")
    with ServerProcess(tmp_path / "log", *options, token="hunter2") as server:
        wait_until_ready(server)
        assert passed(schemathesis_run(server.url, tmp_path, "-H", "Authorization: Bearer hunter2"))
        assert server.metric('curator_rejects_total{model="",reason="unauthorized"}', **BEARER)
