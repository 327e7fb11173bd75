"""The token, the limits and slow uploads, over real sockets: they cost the others nothing."""

import asyncio
import contextlib
import io
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from fastapi import Request, UploadFile

from src.data.audio import Clip
from src.protocol import Limits
from src.server import requests as scoring
from src.server.outcomes import ApiError
from tests.verifier.server_process import ServerProcess, answer_to, refusal, values, wav


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer wrong", "Basic hunter2", "hunter2"])
def test_without_the_token_nothing_is_scored_counted_or_shown(
    strict: ServerProcess, header: str | None
) -> None:
    headers = {"Authorization": header}
    assert refusal(strict.post([wav()], headers=headers)) == (401, "unauthorized")
    assert refusal(strict.post_texts(["one"], headers=headers)) == (401, "unauthorized")
    for path in ("/verifiers", "/metrics"):
        assert refusal(strict.get(path, headers=headers)) == (401, "unauthorized")
    assert strict.get("/health", headers=headers).status_code == 200


def test_with_the_token_all_is_answered_and_it_is_not_in_the_log(strict: ServerProcess) -> None:
    assert values(strict.post([wav(1.0)])) == pytest.approx([0], abs=1e-4)
    assert strict.post_texts(["one"]).status_code == 200
    assert "hunter2" not in strict.log.read_text()


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(strict: ServerProcess) -> None:
    begin = time.monotonic()
    head = strict.raw("/score", "multipart/form-data; boundary=x", 9_999_999_999)
    with strict.connect(head) as client:
        status, body, _ = answer_to(client)
    assert (status, body["error"]) == (413, "too_large")
    assert time.monotonic() - begin < 1


def test_a_body_that_hides_its_length_is_limited_too(strict: ServerProcess) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="0.wav"\r\n\r\n'
    body = iter([head, *[b"\0" * 10_000] * 11])
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert refusal(strict.post_to("/score", data=body, headers=headers)) == (413, "too_large")


def test_too_many_files_are_refused(strict: ServerProcess) -> None:
    response = strict.post([wav(seconds=0.01)] * 5)
    assert response.status_code == 400
    assert "Too many files" in response.json()["message"]


@pytest.mark.parametrize("path", ["/score", "/texts"])
def test_an_upload_that_never_ends_is_cut_off(strict: ServerProcess, path: str) -> None:
    beginning = {
        "/score": strict.raw_post([wav()])[:-500],
        "/texts": strict.raw("/texts", "application/json", 100) + b'{"verifiers": ',
    }[path]
    with strict.connect(beginning) as client:
        assert answer_to(client)[0] == 408


def test_more_requests_than_places_are_told_to_wait(strict: ServerProcess) -> None:
    with ThreadPoolExecutor(2) as clients:
        slow = [clients.submit(strict.post, [wav()], ["sleep 0.5"]) for _ in range(2)]
        time.sleep(0.3)
        response = strict.post([wav()])
        assert refusal(response) == (503, "busy")
        assert response.headers["Retry-After"] in ("1", "2")
        for request in slow:
            values(request.result())


def test_listening_on_all_interfaces_without_a_token_is_warned_of(tmp_path: Path) -> None:
    warning = "anyone who reaches this machine can use the server"
    options = ("--models", "fake", "--host", "0.0.0.0")
    with ServerProcess(tmp_path / "log", *options) as server:
        assert warning in server.log.read_text()
    with ServerProcess(tmp_path / "log", *options, "--token", "by-flag") as server:
        assert warning not in server.log.read_text()
        server.url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert server.get("/verifiers").status_code == 401
        bearer = {"Authorization": "Bearer by-flag"}
        assert server.get("/verifiers", headers=bearer).status_code == 200


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with one place, 16 uploads beside it, and memory for a few seconds of audio."""
    log = tmp_path_factory.mktemp("narrow") / "log"
    options = ["--models", "fake", "--max_requests", "1", "--max_held_bytes", "500000"]
    options += ["--limits.max_total_seconds", "5", "--upload_seconds", "30"]
    with ServerProcess(log, *options) as server:
        yield server
        assert "Traceback" not in server.log.read_text()


@contextlib.contextmanager
def slow_uploads(server: ServerProcess, number: int, size: int) -> Iterator[list[socket.socket]]:
    """Connections that each have sent `size` bytes of a body and send no more."""
    with contextlib.ExitStack() as stack:
        beginning = server.raw_post([wav(seconds=3)])[: size + 200]
        connections = [stack.enter_context(server.connect(beginning)) for _ in range(number)]
        server.wait_for("curator_requests_uploading", number)
        yield connections
    server.wait_for("curator_requests_uploading", 0)


def test_slow_uploads_take_no_places(narrow: ServerProcess) -> None:
    with slow_uploads(narrow, number=3, size=1_000):
        for _ in range(3):
            assert values(narrow.post([wav(1.0)])) == pytest.approx([0], abs=1e-4)


def test_the_slowest_upload_gives_way_when_there_are_too_many(narrow: ServerProcess) -> None:
    with slow_uploads(narrow, number=16, size=1_000) as connections:
        for connection in [*connections[:2], *connections[3:]]:
            connection.sendall(b"\0" * 2_000)
        time.sleep(1.1)
        with narrow.connect(narrow.raw_post([wav(seconds=3)])[:1_000]):
            status, body, headers = answer_to(connections[2])
        assert (status, headers["Retry-After"]) in [(503, "1"), (503, "2")]
        assert "gave way to others" in body["message"]


def test_uploads_that_only_began_are_not_ended_for_new_ones(narrow: ServerProcess) -> None:
    with slow_uploads(narrow, number=16, size=1_000):
        response = narrow.post([wav(1.0, seconds=3)])
        assert refusal(response) == (503, "busy")
        assert response.headers["Retry-After"] in ("1", "2")


def test_slow_uploads_give_way_when_memory_runs_out(narrow: ServerProcess) -> None:
    with slow_uploads(narrow, number=3, size=130_000) as connections:
        time.sleep(1.1)
        assert narrow.metric("curator_held_bytes") > 380_000
        assert values(narrow.post([wav(1.0, seconds=2)])) == pytest.approx([0], abs=1e-4)
        assert answer_to(connections[0])[0] == 503


def test_audio_beyond_the_memory_is_told_to_wait_and_what_it_held_is_freed(
    narrow: ServerProcess,
) -> None:
    for _ in range(3):  # 288,000 bytes of body, as many decoded
        response = narrow.post([wav(seconds=1.5)] * 3)
        assert refusal(response) == (503, "busy")
        narrow.wait_for("curator_held_bytes", 0)
    assert values(narrow.post([wav(1.0)])) == pytest.approx([0], abs=1e-4)


def test_the_seconds_of_all_files_together_are_limited(narrow: ServerProcess) -> None:
    response = narrow.post([wav(seconds=2, rate=8_000)] * 3)
    assert refusal(response) == (413, "too_large")
    assert "file 2 (2.wav): up to here 6.0 s" in response.json()["message"]


def test_a_bad_file_at_the_end_costs_no_compute(narrow: ServerProcess) -> None:
    scored = narrow.metric('curator_clips_total{model="fake"}')
    response = narrow.post([wav()] * 9 + [wav()[:-1]])
    assert (response.status_code, response.json()["index"]) == (422, 9)
    assert narrow.metric('curator_clips_total{model="fake"}') == scored


def test_a_request_decodes_few_files_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, waiting = ThreadPoolExecutor(1), []

    def decode(data: bytes, *_: object) -> Clip:
        waiting.append(pool._work_queue.qsize())
        return Clip(np.ones((1, 100), np.float32), 16_000)

    monkeypatch.setattr(scoring, "decode_wav", decode)
    files = [UploadFile(io.BytesIO(b"")) for _ in range(8)]
    clips = asyncio.run(scoring.Scorer({}, Limits(), pool)._decode(files, {16_000}))
    assert len(clips[16_000]) == 8
    assert max(waiting) < scoring.FILES_AT_ONCE


def test_a_request_whose_client_has_gone_ends_when_nothing_reads_its_files_any_more() -> None:
    reading: list[str] = []

    def read() -> None:
        reading.append("began")
        time.sleep(0.2)
        reading.append("ended")

    class Gone:
        async def receive(self) -> dict[str, str]:
            while not reading:
                await asyncio.sleep(0.01)
            return {"type": "http.disconnect"}

    async def request() -> None:
        scorer = scoring.Scorer({}, Limits(), ThreadPoolExecutor(1))
        await scoring.unless_gone(cast(Request, Gone()), scorer._in_pool(read))

    with pytest.raises(ApiError, match="hung up"):
        asyncio.run(request())
    assert reading == ["began", "ended"]
