"""The real server in a process of its own, over real sockets; only the model in it is a fake."""

import contextlib
import io
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from src.audio import Clip, encode_wav
from tests.verifier.server_process import ServerProcess

MODELS = ("--models", "fake", "fake48", "broken", "slow_to_load")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("server") / "log"
    with ServerProcess(log, *MODELS, "--batch.max_clips", "4", "--max_requests", "64") as server:
        wait_until_ready(server)
        yield server
        assert server.process.poll() is None, f"the server died: {server.log.read_text()}"


def wait_until_ready(server: ServerProcess) -> None:
    while not requests.get(server.url + "/ready", timeout=5).json()["ready"]:
        time.sleep(0.05)


def wav(level: float = 0.1, seconds: float = 0.2, rate: int = 16_000) -> bytes:
    samples = np.full((1, round(seconds * rate)), level, np.float32)
    return encode_wav(Clip(samples, rate))


def post(
    server: ServerProcess,
    wavs: list[bytes],
    prompts: list[str] | None = None,
    verifiers: tuple[str, ...] = ("fake",),
    **how: Any,
) -> requests.Response:
    asked = {
        "verifiers": list(verifiers),
        "prompts": ["any"] * len(wavs) if prompts is None else prompts,
    }
    files = [("files", (f"{i}.wav", data, "audio/wav")) for i, data in enumerate(wavs)]
    return requests.post(
        server.url + "/score",
        data={"request": json.dumps(asked)},
        files=files,
        timeout=20,
        **how,
    )


def values(response: requests.Response, verifier: str = "fake") -> list[float]:
    assert response.status_code == 200, response.text
    return [score["value"] for score in response.json()["results"][verifier]["scores"]]


def test_scores_are_in_the_files_order(server: ServerProcess) -> None:
    levels = [0.1, 1.0, 0.01, 0.5, 0.05, 0.2]
    found = values(post(server, [wav(level) for level in levels]))
    np.testing.assert_allclose(found, 20 * np.log10(levels), atol=1e-4)


def test_scores_of_a_batch_equal_scores_one_by_one(server: ServerProcess) -> None:
    wavs = [wav(level, seconds) for level, seconds in [(0.1, 0.3), (0.9, 0.1), (0.3, 0.2)]]
    assert values(post(server, wavs)) == [values(post(server, [data]))[0] for data in wavs]


def test_several_verifiers_score_one_upload_each_at_its_own_rate(server: ServerProcess) -> None:
    response = post(server, [wav(0.1), wav(0.2)], verifiers=("fake", "fake48"))
    np.testing.assert_allclose(values(response, "fake"), [-20, -13.98], atol=0.01)
    np.testing.assert_allclose(values(response, "fake48"), [-20, -13.98], atol=0.1)


def test_an_answer_tells_checkpoint_and_seconds(server: ServerProcess) -> None:
    result = post(server, [wav()], ["sleep 0.2"]).json()["results"]["fake"]
    assert result["checkpoint"] == {"name": "fake", "sha256": "00"}
    assert result["compute_seconds"] >= 0.2
    assert 0 <= result["queue_seconds"] < 5


def test_requests_of_many_clients_share_batches_and_get_their_own_scores(
    server: ServerProcess,
) -> None:
    calls = 'curator_batch_clips_count{model="fake"}'
    before = server.metric(calls)
    levels = [0.01 * (i + 1) for i in range(24)]
    with ThreadPoolExecutor(24) as clients:
        blocked = clients.submit(post, server, [wav()], ["sleep 0.5"])
        time.sleep(0.2)
        found = [
            values(response)[0]
            for response in clients.map(lambda x: post(server, [wav(x)]), levels)
        ]
        values(blocked.result())
    np.testing.assert_allclose(found, 20 * np.log10(levels), atol=1e-4)
    assert server.metric(calls) - before < 20


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no RIFF/WAVE"),
    "not a WAV": (b"\x00" * 1000, "no RIFF/WAVE"),
    "truncated": (wav()[:-500], "cut off"),
    "header claims more": (
        wav().replace(b"data" + struct.pack("<I", 12_800), b"data" + struct.pack("<I", 2**31), 1),
        "claims 2147483648 bytes",
    ),
    "zero length": (wav(seconds=0), "no samples"),
    "NaN": (wav(float("nan")), "NaN"),
    "0 Hz": (wav()[:24] + b"\x00\x00\x00\x00" + wav()[28:], "file 1"),
    "64 channels": (encode_wav(Clip(np.zeros((64, 100), np.float32), 16_000)), "64 channels"),
    "too long": (wav(seconds=61, rate=8_000), "at most 60 s"),
    "400 kHz": (wav(rate=400_000, seconds=0.01), "400000 Hz"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_bad_file_is_refused_by_position_and_reason(server: ServerProcess, case: str) -> None:
    data, reason = HOSTILE[case]
    response = post(server, [wav(), data])
    assert response.status_code == 422
    body = response.json()
    assert (body["error"], body["index"]) == ("bad_audio", 1)
    assert reason in body["message"]


MALFORMED: dict[str, tuple[int, str, dict[str, Any]]] = {
    "no form": (400, "bad_request", {"data": b"x"}),
    "no files": (400, "bad_request", {"data": {"request": "{}"}}),
    "no request": (400, "bad_request", {"files": {"files": wav()}}),
    "broken JSON": (400, "bad_request", {"data": {"request": '{"ver'}, "files": {"files": wav()}}),
    "JSON of another kind": (
        400,
        "bad_request",
        {"data": {"request": '["tags"]'}, "files": {"files": wav()}},
    ),
    "broken multipart": (
        400,
        "bad_request",
        {
            "data": b"--x\r\nnonsense",
            "headers": {"Content-Type": "multipart/form-data; boundary=x"},
        },
    ),
    "multipart without boundary": (
        400,
        "bad_request",
        {"data": b"--x\r\n", "headers": {"Content-Type": "multipart/form-data"}},
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_request_is_told_what_is_wrong(server: ServerProcess, case: str) -> None:
    status, error, request = MALFORMED[case]
    response = requests.post(server.url + "/score", timeout=20, **request)
    assert (response.status_code, response.json()["error"]) == (status, error)
    assert response.json()["request_id"] == response.headers["X-Request-ID"]


def test_counts_that_differ_are_refused(server: ServerProcess) -> None:
    response = post(server, [wav(), wav()], ["one"])
    assert response.status_code == 400
    assert "2 files and 1 prompts" in response.json()["message"]


def test_an_unknown_verifier_is_told_what_is_hosted(server: ServerProcess) -> None:
    response = post(server, [wav()], verifiers=("clap",))
    assert (response.status_code, response.json()["error"]) == (404, "unknown_verifier")
    assert "fake48" in response.json()["message"]


def test_a_prompt_without_a_score_is_named_with_the_vocabulary(server: ServerProcess) -> None:
    response = post(server, [wav()] * 3, ["fine", "nothing", "nothing"])
    assert (response.status_code, response.json()["error"]) == (422, "prompt_refused")
    refused = response.json()["refused"]
    assert [r["index"] for r in refused] == [1, 2]
    assert refused[0]["vocabulary"] == ["piano", "guitar"]


def test_a_long_prompt_and_too_many_verifiers_are_refused(server: ServerProcess) -> None:
    assert post(server, [wav()], ["x" * 2001]).status_code == 413
    assert post(server, [wav()], verifiers=("fake",) * 9).status_code == 413


def test_a_score_that_is_not_finite_is_an_error_of_its_request_alone(
    server: ServerProcess,
) -> None:
    with ThreadPoolExecutor(4) as clients:
        blocked = clients.submit(post, server, [wav()], ["sleep 0.5"])
        time.sleep(0.2)
        bad = clients.submit(post, server, [wav(), wav()], ["fine", "nan"])
        good = clients.submit(post, server, [wav(0.1)], ["fine"])
        crash = clients.submit(post, server, [wav()], ["crash"])
        assert values(good.result()) == pytest.approx([-20])
        values(blocked.result())
    body = bad.result().json()
    assert (bad.result().status_code, body["error"], body["index"]) == (422, "no_score", 1)
    body = crash.result().json()
    assert (crash.result().status_code, body["error"]) == (500, "verifier_failed")
    assert "out of luck" in body["message"]


def test_a_model_that_failed_is_shown_and_the_others_work(server: ServerProcess) -> None:
    ready = requests.get(server.url + "/ready", timeout=5).json()
    assert ready["models"]["broken"] == "failed"
    assert ready["models"]["fake"] == "ready"
    assert "the weights are torn" in ready["problems"]["broken"]
    response = post(server, [wav()], verifiers=("fake", "broken"))
    assert (response.status_code, response.json()["error"]) == (503, "not_ready")
    assert "Retry-After" not in response.headers


def test_the_listing_tells_what_a_client_needs(server: ServerProcess) -> None:
    listing = requests.get(server.url + "/verifiers", timeout=5).json()
    fake = listing["verifiers"][0]
    assert (fake["name"], fake["state"], fake["sample_rate"]) == ("fake", "ready", 16_000)
    assert listing["limits"]["max_files"] == 256


def test_health_answers_at_once_while_models_compute(server: ServerProcess) -> None:
    with ThreadPoolExecutor(2) as clients:
        busy = clients.submit(post, server, [wav()] * 4, ["sleep 0.2"] * 4)
        slowest = 0.0
        while not busy.done():
            begin = time.monotonic()
            assert requests.get(server.url + "/health", timeout=5).json() == {"status": "ok"}
            slowest = max(slowest, time.monotonic() - begin)
    values(busy.result())
    assert slowest < 0.5  # an event loop blocked by the model would take 0.8 s


def test_a_client_that_hangs_up_costs_no_compute(server: ServerProcess) -> None:
    dropped, scored = (
        'curator_dropped_clips_total{model="fake"}',
        'curator_clips_total{model="fake"}',
    )
    before = server.metric(dropped), server.metric(scored)
    with ThreadPoolExecutor(2) as clients:
        blocked = clients.submit(post, server, [wav()], ["sleep 1"])
        time.sleep(0.3)
        with socket.create_connection(address(server)) as gone:
            gone.sendall(raw_post([wav()] * 3))
            time.sleep(0.3)
        values(blocked.result())
    assert values(post(server, [wav()]))
    assert server.metric(dropped) - before[0] == 3
    assert server.metric(scored) - before[1] == 2


def test_an_upload_that_is_cut_off_leaves_the_server_working(server: ServerProcess) -> None:
    with socket.create_connection(address(server)) as gone:
        gone.sendall(raw_post([wav()] * 3)[:-2000])
    assert values(post(server, [wav(1.0)])) == pytest.approx([0], abs=1e-4)


def test_request_ids_are_kept_or_given(server: ServerProcess) -> None:
    given = requests.get(server.url + "/health", headers={"X-Request-ID": "mine-1"}, timeout=5)
    assert given.headers["X-Request-ID"] == "mine-1"
    bad = requests.get(server.url + "/health", headers={"X-Request-ID": "a b;c"}, timeout=5)
    assert bad.headers["X-Request-ID"].isalnum()
    post(server, [wav()], headers={"X-Request-ID": "find-me"})
    assert "find-me" in server.log.read_text()


def test_rejects_are_counted_by_reason(server: ServerProcess) -> None:
    line = 'curator_rejects_total{model="",reason="bad_audio"}'
    before = server.metric(line)
    post(server, [b"junk"])
    assert server.metric(line) == before + 1


def test_the_openapi_page_describes_the_request(server: ServerProcess) -> None:
    document = requests.get(server.url + "/openapi.json", timeout=5).json()
    score = document["paths"]["/score"]["post"]
    assert {"200", "400", "401", "404", "413", "422", "500", "503"} <= set(score["responses"])
    assert "ScoreRequest" in json.dumps(document["components"]["schemas"])


def test_the_docs_page_needs_no_network(server: ServerProcess) -> None:
    page = requests.get(server.url + "/docs", timeout=5).text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert links
    for link in links:
        assert link.startswith("/")
        assert requests.get(server.url + link, timeout=5).status_code == 200


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with a token and small limits."""
    log = tmp_path_factory.mktemp("strict") / "log"
    options = ["--models", "fake", "slow_to_load", "--max_requests", "2", "--upload_seconds", "1"]
    options += ["--batch.max_clips", "1", "--batch.max_queue", "4"]
    options += ["--limits.max_files", "4", "--limits.max_body_bytes", "100000"]
    with ServerProcess(log, *options, token="hunter2") as server:
        yield server


BEARER = {"Authorization": "Bearer hunter2"}


def test_a_request_to_a_loading_model_is_answered_once_it_is_loaded(strict: ServerProcess) -> None:
    response = post(strict, [wav(1.0)], verifiers=("slow_to_load",), headers=BEARER)
    assert values(response, "slow_to_load") == pytest.approx([0], abs=1e-4)


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer wrong", "Basic hunter2", "hunter2"])
def test_without_the_token_nothing_is_scored_or_told(strict: ServerProcess, header: str) -> None:
    headers = {"Authorization": header} if header else {}
    response = post(strict, [wav()], headers=headers)
    assert (response.status_code, response.json()["error"]) == (401, "unauthorized")
    for path in ("/verifiers", "/metrics"):
        assert requests.get(strict.url + path, headers=headers, timeout=5).status_code == 401
    assert requests.get(strict.url + "/health", timeout=5).status_code == 200


def test_with_the_token_clips_are_scored(strict: ServerProcess) -> None:
    assert values(post(strict, [wav(1.0)], headers=BEARER)) == pytest.approx([0], abs=1e-4)


def test_the_token_is_not_in_the_log(strict: ServerProcess) -> None:
    assert "hunter2" not in strict.log.read_text()


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(strict: ServerProcess) -> None:
    begin = time.monotonic()
    with socket.create_connection(address(strict)) as client:
        client.sendall(
            b"POST /score HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer hunter2\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 9999999999\r\n\r\n"
        )
        answer = client.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"too_large" in answer
    assert time.monotonic() - begin < 1


def test_a_body_that_hides_its_length_is_limited_too(strict: ServerProcess) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="0.wav"\r\n\r\n'
    response = requests.post(
        strict.url + "/score",
        data=iter([head, *[b"\0" * 10_000] * 11]),
        headers={**BEARER, "Content-Type": "multipart/form-data; boundary=x"},
        timeout=20,
    )
    assert (response.status_code, response.json()["error"]) == (413, "too_large")


def test_too_many_files_are_refused(strict: ServerProcess) -> None:
    response = post(strict, [wav(seconds=0.01)] * 5, headers=BEARER)
    assert response.status_code == 400
    assert "Too many files" in response.json()["message"]


def test_an_upload_that_never_ends_is_cut_off(strict: ServerProcess) -> None:
    with socket.create_connection(address(strict)) as client:
        client.sendall(raw_post([wav()], "Authorization: Bearer hunter2\r\n")[:-500])
        client.settimeout(5)
        assert client.recv(65536).startswith(b"HTTP/1.1 408")


def test_a_full_queue_says_when_to_come_back(strict: ServerProcess) -> None:
    with ThreadPoolExecutor(2) as clients:
        slow = clients.submit(
            post, strict, [wav()] * 4, ["sleep 0.5"] + ["sleep 0.1"] * 3, headers=BEARER
        )
        time.sleep(0.3)
        response = post(strict, [wav()] * 2, headers=BEARER)
        assert (response.status_code, response.json()["error"]) == (503, "queue_full")
        assert int(response.headers["Retry-After"]) >= 1
        values(slow.result())
    values(post(strict, [wav()] * 2, headers=BEARER))


def test_more_requests_than_places_are_told_to_wait(strict: ServerProcess) -> None:
    with ThreadPoolExecutor(2) as clients:
        slow = [
            clients.submit(post, strict, [wav()], ["sleep 0.5"], headers=BEARER) for _ in range(2)
        ]
        time.sleep(0.3)
        response = post(strict, [wav()], headers=BEARER)
        assert (response.status_code, response.json()["error"]) == (503, "busy")
        assert response.headers["Retry-After"] == "1"
        for request in slow:
            values(request.result())


def test_sigterm_finishes_what_is_queued_accepts_no_more_and_exits_0(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "log", "--models", "fake", "--batch.max_clips", "1") as server:
        with ThreadPoolExecutor(1) as clients:
            queued = clients.submit(post, server, [wav(1.0)] * 3, ["sleep 0.3"] * 3)
            time.sleep(0.4)
            server.terminate()
            time.sleep(0.2)
            with pytest.raises(requests.ConnectionError):
                requests.get(server.url + "/health", timeout=5)
            assert values(queued.result()) == pytest.approx([0, 0, 0], abs=1e-4)
        assert server.process.wait(timeout=60) == 0
    assert "Traceback" not in server.log.read_text()


def test_sigterm_exits_0_within_its_limit_when_work_is_not_done(tmp_path: Path) -> None:
    options = ("--models", "fake", "--stop_seconds", "1")
    with ServerProcess(tmp_path / "log", *options) as server:
        thread = threading.Thread(target=lambda: _ignore(post, server, [wav()], ["sleep 30"]))
        thread.start()
        time.sleep(0.4)
        server.terminate()
        assert server.process.wait(timeout=25) == 0  # and not after the 30 s of work
        thread.join(5)


def test_wrong_flags_end_with_a_clear_line(tmp_path: Path) -> None:
    for models, reason in [("clap", "no adapter hosts it yet"), ("nope", "no such verifier")]:
        server = ServerProcess(tmp_path / "log", "--models", models)
        assert server.process.wait(timeout=120) == 2
        assert reason in server.log.read_text()
        assert "Traceback" not in server.log.read_text()


def address(server: ServerProcess) -> tuple[str, int]:
    host, port = server.url.removeprefix("http://").split(":")
    return host, int(port)


def raw_post(wavs: list[bytes], headers: str = "") -> bytes:
    """The bytes of a whole POST /score."""
    asked = json.dumps({"verifiers": ["fake"], "prompts": ["any"] * len(wavs)})
    body = io.BytesIO()
    body.write(f'--x\r\nContent-Disposition: form-data; name="request"\r\n\r\n{asked}\r\n'.encode())
    for data in wavs:
        body.write(
            b'--x\r\nContent-Disposition: form-data; name="files"; filename="x.wav"\r\n\r\n'
            + data
            + b"\r\n"
        )
    body.write(b"--x--\r\n")
    head = (
        f"POST /score HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {body.tell()}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    )
    return head.encode() + body.getvalue()


def _ignore(call: Any, *args: Any) -> None:
    with contextlib.suppress(requests.RequestException):
        call(*args)
