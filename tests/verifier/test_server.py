"""The real server in a process of its own, over real sockets; the models in it are fakes.

Then the real taggers under a short load (perf/server_load.py is the same for longer, with figures),
and the server against its own OpenAPI document: schemathesis asks what it allows, and what not.
"""

import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests

from perf.load_clients import MODELS, TOLERANCE, Crowd, good_requests
from perf.server_load import serial
from perf.watching import probing
from tests.verifier.server_process import REAL_MODELS, ROOT, ServerProcess, refusal, values, wav


def test_a_model_that_failed_is_shown_and_the_others_work(server: ServerProcess) -> None:
    ready = server.get("/ready").json()
    assert ready["models"]["broken"] == "failed"
    assert ready["models"]["fake"] == "ready"
    assert "the weights are torn" in ready["problems"]["broken"]
    response = server.post([wav()], verifiers=("fake", "broken"))
    assert refusal(response) == (503, "not_ready")
    assert "Retry-After" not in response.headers


def test_health_answers_at_once_while_models_compute(server: ServerProcess) -> None:
    with ThreadPoolExecutor(2) as clients:
        busy = clients.submit(server.post, [wav()] * 4, ["sleep 0.2"] * 4)
        slowest = 0.0
        while not busy.done():
            begin = time.monotonic()
            assert server.get("/health").json() == {"status": "ok"}
            slowest = max(slowest, time.monotonic() - begin)
    values(busy.result())
    assert slowest < 0.5  # an event loop blocked by the model would take 0.8 s


def test_models_work_side_by_side(server: ServerProcess) -> None:
    with ThreadPoolExecutor(1) as clients:
        slow = clients.submit(server.post, [wav()], ["sleep 1"], verifiers=("fake",))
        time.sleep(0.2)
        values(server.post([wav()], verifiers=("fake48",)), "fake48")
        assert not slow.done()
        values(slow.result())


def test_head_answers_as_get_does_without_a_body(server: ServerProcess) -> None:
    for path in ("/health", "/ready"):
        answer = requests.head(server.url + path, timeout=5)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["Content-Length"] == server.get(path).headers["Content-Length"]


def test_request_ids_are_kept_or_given(server: ServerProcess) -> None:
    given = server.get("/health", headers={"X-Request-ID": "mine-1"})
    assert given.headers["X-Request-ID"] == "mine-1"
    bad = server.get("/health", headers={"X-Request-ID": "a b;c"})
    assert bad.headers["X-Request-ID"].isalnum()
    server.post([wav()], headers={"X-Request-ID": "find-me"})
    server.wait_for_log("find-me")  # a request's line is written after its answer


@pytest.mark.parametrize(
    ("reason", "model", "file", "prompt"),
    [("bad_audio", "", b"junk", "any"), ("prompt_refused", "fake48", wav(), "nothing")],
)
def test_rejects_are_counted_by_reason_and_model(
    server: ServerProcess, reason: str, model: str, file: bytes, prompt: str
) -> None:
    line = f'curator_rejects_total{{model="{model}",reason="{reason}"}}'
    before = server.metric(line)
    server.post([file], [prompt], verifiers=("fake48",))
    assert server.metric(line) == before + 1


def test_a_name_that_a_client_made_up_is_no_metric(server: ServerProcess) -> None:
    server.post([wav()], verifiers=("made_up_by_a_client",))
    assert "made_up" not in server.get("/metrics").text


def test_metrics_show_every_model_from_the_start(server: ServerProcess) -> None:
    values(server.post([wav()], verifiers=("fake",)))
    text = server.get("/metrics").text
    for name in ("fake", "fake48", "broken", "slow_to_load"):
        assert f'curator_queue_depth{{model="{name}"}} 0.0' in text
        ready = 0.0 if name == "broken" else 1.0
        assert f'curator_model_ready{{model="{name}"}} {ready}' in text
    for histogram in ("batch_clips", "queue_seconds", "compute_seconds"):
        assert f'curator_{histogram}_bucket{{le="1.0",model="fake"}}' in text
    assert 'curator_request_seconds_bucket{le="0.05",path="/score",status="200"}' in text


def test_a_files_name_cannot_write_lines_into_the_log(server: ServerProcess) -> None:
    name = "x\x1b[31m\u2028INFO fake line" + "y" * 1000
    asked = {"request": json.dumps({"verifiers": ["fake"], "prompts": ["any"]})}
    response = server.post_to("/score", data=asked, files={"files": (name, b"junk")})
    message = response.json()["message"]
    assert response.status_code == 422
    assert message.startswith("file 0 (x?[31m?INFO fake lineyyy")
    assert len(message) < 200
    assert "\x1b" not in server.log.read_text()


def test_a_client_fills_the_log_neither_with_a_method_nor_with_a_prompt(
    server: ServerProcess,
) -> None:
    logged = len(server.log.read_text())
    requests.request("A" * 5000, f"{server.url}/{'b' * 5000}", timeout=5)
    assert server.post([wav()], ["nothing " + "c" * 1900]).status_code == 422
    server.wait_for_log("nothing ccc")
    lines = server.log.read_text()[logged:].splitlines()
    assert max(map(len, lines)) < 300


def test_the_docs_page_needs_no_network(server: ServerProcess) -> None:
    page = server.get("/docs").text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert links
    for link in links:
        assert link.startswith("/")
        assert server.get(link).status_code == 200


@pytest.mark.slow
def test_everyone_gets_their_own_scores_and_health_answers_at_once(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "log", "--models", *MODELS, server=REAL_MODELS) as server:
        server.wait_until_ready()
        asked = good_requests(10)
        crowd = Crowd(server.url, asked, serial(server.url, asked))
        with probing(server.url) as health:
            crowd.run(clients=8, seconds=4)
        assert crowd.wrong == []
        assert crowd.deviation <= TOLERANCE
        assert crowd.answers["good: 200"] >= 8
        assert len(health) > 20
        assert np.quantile(health, 0.99) < 0.25  # 50 ms where nothing else runs on the machine
        assert np.median(health) < 0.05
        server.wait_for("curator_requests_scoring", 0)  # of clients that have hung up, too
    assert "Traceback" not in server.log.read_text()


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_schemathesis_finds_nothing_where_a_token_is_asked_for(tmp_path: Path) -> None:
    options = ("--models", "fake", "fake48")
    with ServerProcess(tmp_path / "log", *options, token="hunter2") as server:
        server.wait_until_ready()
        assert schemathesis_run(server, tmp_path, "-H", "Authorization: Bearer hunter2")
        assert server.metric('curator_rejects_total{model="",reason="unauthorized"}')
