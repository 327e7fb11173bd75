"""The token and the limits of a server, over real sockets."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.verifier.asking import (
    answer_to,
    connect,
    post,
    post_texts,
    post_to,
    raw,
    raw_post,
    refusal,
    values,
    wav,
)
from tests.verifier.server_process import ServerProcess


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer wrong", "Basic hunter2", "hunter2"])
def test_without_the_token_nothing_is_scored_counted_or_shown(
    strict: ServerProcess, header: str | None
) -> None:
    headers = {"Authorization": header}
    assert refusal(post(strict, [wav()], headers=headers)) == (401, "unauthorized")
    assert refusal(post_texts(strict, ["one"], headers=headers)) == (401, "unauthorized")
    for path in ("/verifiers", "/metrics"):
        assert refusal(strict.get(path, headers=headers)) == (401, "unauthorized")
    assert strict.get("/health", headers=headers).status_code == 200


def test_with_the_token_all_is_answered_and_it_is_not_in_the_log(strict: ServerProcess) -> None:
    assert values(post(strict, [wav(1.0)])) == pytest.approx([0], abs=1e-4)
    assert post_texts(strict, ["one"]).status_code == 200
    assert "hunter2" not in strict.log.read_text()


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(strict: ServerProcess) -> None:
    begin = time.monotonic()
    head = raw(strict, "/score", "multipart/form-data; boundary=x", 9_999_999_999)
    with connect(strict, head) as client:
        status, body, _ = answer_to(client)
    assert (status, body["error"]) == (413, "too_large")
    assert time.monotonic() - begin < 1


def test_a_body_that_hides_its_length_is_limited_too(strict: ServerProcess) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="0.wav"\r\n\r\n'
    body = iter([head, *[b"\0" * 10_000] * 11])
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert refusal(post_to(strict, "/score", data=body, headers=headers)) == (413, "too_large")


def test_too_many_files_are_refused(strict: ServerProcess) -> None:
    response = post(strict, [wav(seconds=0.01)] * 5)
    assert response.status_code == 400
    assert "Too many files" in response.json()["message"]


@pytest.mark.parametrize("path", ["/score", "/texts"])
def test_an_upload_that_never_ends_is_cut_off(strict: ServerProcess, path: str) -> None:
    beginning = {
        "/score": raw_post(strict, [wav()])[:-500],
        "/texts": raw(strict, "/texts", "application/json", 100) + b'{"verifiers": ',
    }[path]
    with connect(strict, beginning) as client:
        assert answer_to(client)[0] == 408


def test_a_full_queue_says_when_to_come_back(strict: ServerProcess) -> None:
    with ThreadPoolExecutor(2) as clients:
        slow = clients.submit(post, strict, [wav()] * 4, ["sleep 0.5"] + ["sleep 0.1"] * 3)
        time.sleep(0.3)
        response = post(strict, [wav()] * 2)
        assert refusal(response) == (503, "queue_full")
        assert int(response.headers["Retry-After"]) >= 1
        values(slow.result())
    values(post(strict, [wav()] * 2))


def test_more_requests_than_places_are_told_to_wait(strict: ServerProcess) -> None:
    with ThreadPoolExecutor(2) as clients:
        slow = [clients.submit(post, strict, [wav()], ["sleep 0.5"]) for _ in range(2)]
        time.sleep(0.3)
        response = post(strict, [wav()])
        assert refusal(response) == (503, "busy")
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
        server.url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert server.get("/verifiers").status_code == 401
        bearer = {"Authorization": "Bearer by-flag"}
        assert server.get("/verifiers", headers=bearer).status_code == 200
