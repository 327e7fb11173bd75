"""The token and the limits of a server, over real sockets."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.verifier.asking import BEARER, answer_to, connect, post, raw, raw_post, values, wav
from tests.verifier.server_process import ServerProcess

BEARER_LINE = f"Authorization: {BEARER['Authorization']}\r\n"


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
    head = raw("/score", "multipart/form-data; boundary=x", 9_999_999_999, BEARER_LINE)
    with connect(strict, head) as client:
        status, body, _ = answer_to(client)
    assert (status, body["error"]) == (413, "too_large")
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


@pytest.mark.parametrize(
    "beginning",
    [
        raw_post([wav()], BEARER_LINE)[:-500],
        raw("/texts", "application/json", 100, BEARER_LINE) + b'{"verifiers": ',
    ],
    ids=["score", "texts"],
)
def test_an_upload_that_never_ends_is_cut_off(strict: ServerProcess, beginning: bytes) -> None:
    with connect(strict, beginning) as client:
        assert answer_to(client)[0] == 408


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


def test_listening_on_all_interfaces_without_a_token_is_warned_of(tmp_path: Path) -> None:
    warning = "anyone who reaches this machine can use the server"
    options = ("--models", "fake", "--host", "0.0.0.0")
    with ServerProcess(tmp_path / "log", *options) as server:
        assert warning in server.log.read_text()
    with ServerProcess(tmp_path / "log", *options, "--token", "by-flag") as server:
        assert warning not in server.log.read_text()
        url = server.url.replace("0.0.0.0", "127.0.0.1") + "/verifiers"
        assert requests.get(url, timeout=5).status_code == 401
        bearer = {"Authorization": "Bearer by-flag"}
        assert requests.get(url, headers=bearer, timeout=5).status_code == 200
