"""The token and the limits of a server, over real sockets."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.verifier.asking import answer_to, refusal, values, wav
from tests.verifier.server_process import ServerProcess


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
