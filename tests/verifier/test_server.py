"""The real server in a process of its own, over real sockets; only the model in it is a fake."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.verifier.server_process import ServerProcess, refusal, values, wav


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


def test_request_ids_are_kept_or_given(server: ServerProcess) -> None:
    given = server.get("/health", headers={"X-Request-ID": "mine-1"})
    assert given.headers["X-Request-ID"] == "mine-1"
    bad = server.get("/health", headers={"X-Request-ID": "a b;c"})
    assert bad.headers["X-Request-ID"].isalnum()
    server.post([wav()], headers={"X-Request-ID": "find-me"})
    assert "find-me" in server.log.read_text()


@pytest.mark.parametrize(
    ("reason", "model", "file", "prompt"),
    [("bad_audio", "", b"junk", "any"), ("no_score", "fake48", wav(), "nan")],
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


def test_the_docs_page_needs_no_network(server: ServerProcess) -> None:
    page = server.get("/docs").text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert links
    for link in links:
        assert link.startswith("/")
        assert server.get(link).status_code == 200
