"""POST /texts: what is counted, and how what cannot be counted is refused, over real sockets."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from src.client import ServerClient, ServerError
from src.protocol import TextsResponse
from tests.verifier.asking import BEARER, connect, post_texts, raw
from tests.verifier.server_process import ServerProcess

JSON = {"Content-Type": "application/json"}


def test_unread_tokens_are_counted_by_verifier_in_the_prompts_order(server: ServerProcess) -> None:
    prompts = ["one two three four five", "one", "", "♫ two three four", "one"]
    response = post_texts(server, prompts, ("fake48", "fake"))
    assert response.status_code == 200
    assert response.json() == {"unread": {"fake48": [0] * 5, "fake": [2, 0, 0, 1, 0]}}
    assert response.headers["X-Request-ID"]


def test_the_client_counts_more_prompts_than_a_request_may_hold(strict: ServerProcess) -> None:
    prompts = ["word " * length for length in range(11)]
    client = ServerClient(strict.url, token="hunter2")
    assert client.unread(["fake"], prompts) == {"fake": [0] * 4 + list(range(1, 8))}


@pytest.mark.parametrize("model", ["broken", "clap"])
def test_a_verifier_that_cannot_count_is_named(server: ServerProcess, model: str) -> None:
    response = post_texts(server, ["one"], ("fake", model))
    status, error, reason = {
        "broken": (503, "not_ready", "the weights are torn"),
        "clap": (404, "unknown_verifier", "fake48"),
    }[model]
    assert (response.status_code, response.json()["error"]) == (status, error)
    assert reason in response.json()["message"]
    assert response.json()["verifier"] == model
    assert "Retry-After" not in response.headers
    with pytest.raises(ServerError, match=reason):
        ServerClient(server.url).unread([model], ["one"])


def test_a_model_that_loads_is_asked_again_later(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "log", "--models", "never_loaded") as server:
        response = post_texts(server, ["one"], ("never_loaded",))
    assert (response.status_code, response.json()["error"]) == (503, "not_ready")
    assert response.headers["Retry-After"] == "1"


def test_limits_are_those_of_scoring(server: ServerProcess) -> None:
    longest, most = ["x" * 2_000], ["♫"] * 256
    assert post_texts(server, longest).status_code == post_texts(server, most).status_code == 200
    for prompts, verifiers, reason in [
        (["fine", "x" * 2_001], ("fake",), "prompt 1 has 2001 characters; at most 2000"),
        ([""] * 257, ("fake",), "at most 256 prompts"),
        (["x"], ("fake",) * 9, "at most 8 verifiers"),
    ]:
        response = post_texts(server, prompts, verifiers)
        assert (response.status_code, response.json()["error"]) == (413, "too_large")
        assert reason in response.json()["message"]


def test_without_the_token_nothing_is_counted(strict: ServerProcess) -> None:
    response = post_texts(strict, ["one"])
    assert (response.status_code, response.json()["error"]) == (401, "unauthorized")
    assert post_texts(strict, ["one"], headers=BEARER).status_code == 200


HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"verifiers=fake&prompts=one",
    "an array": b'["fake"]',
    "an empty list": b'{"verifiers": ["fake"], "prompts": []}',
    "no verifiers": b'{"verifiers": [], "prompts": ["x"]}',
    "half a surrogate pair": rb'{"verifiers": ["fake"], "prompts": ["\ud83d"]}',
    "bytes that are not UTF-8": b'{"verifiers": ["fake"], "prompts": ["\xff\xfe"]}',
    "UTF-32": '{"verifiers": ["fake"], "prompts": 1}'.encode("utf-32"),
    "100,000 brackets": b'{"verifiers": ["fake"], "prompts": ' + b"[" * 100_000,
    "a number of 10,000 digits": b'{"verifiers": ["fake"], "prompts": ' + b"9" * 10_000 + b"}",
    "a million empty lists": b'{"verifiers": ["fake"], "prompts": [' + b"[]," * 1_000_000 + b"0]}",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_body_that_cannot_be_understood_is_told_why_in_short(
    server: ServerProcess, case: str
) -> None:
    response = requests.post(server.url + "/texts", data=HOSTILE[case], headers=JSON, timeout=20)
    assert (response.status_code, response.json()["error"]) == (400, "bad_request")
    assert response.json()["request_id"] == response.headers["X-Request-ID"]
    assert len(response.content) < 1_000


def test_another_content_type_is_not_taken_for_json(server: ServerProcess) -> None:
    asked = json.dumps({"verifiers": ["fake"], "prompts": ["one"]})
    for kind in ("text/plain", "multipart/form-data; boundary=x", ""):
        response = requests.post(
            server.url + "/texts", data=asked, headers={"Content-Type": kind}, timeout=5
        )
        assert (response.status_code, response.json()["error"]) == (400, "bad_request")


def test_a_body_of_more_than_four_megabytes_is_refused_however_it_comes(
    server: ServerProcess,
) -> None:
    body = b" " * (2**22 + 1)

    def in_chunks() -> Iterator[bytes]:
        yield from (body[at : at + 2**16] for at in range(0, len(body), 2**16))

    for data in (body, in_chunks()):
        response = requests.post(server.url + "/texts", data=data, headers=JSON, timeout=20)
        assert (response.status_code, response.json()["error"]) == (413, "too_large")


def test_a_tokenizer_that_fails_is_the_servers_error(server: ServerProcess) -> None:
    response = post_texts(server, ["fine", "crash"])
    assert (response.status_code, response.json()["error"]) == (500, "internal")
    assert "RuntimeError: out of luck" in server.log.read_text()
    assert post_texts(server, ["fine"]).status_code == 200


def test_long_work_neither_holds_up_others_nor_goes_on_when_its_client_has_gone(
    server: ServerProcess,
) -> None:
    gone = 'curator_request_seconds_count{path="/texts",status="499"}'
    before = server.metric(gone)
    slow = {"verifiers": ["fake"], "prompts": [f"sleep 0.1 {i}" for i in range(250)]}
    body = json.dumps(slow).encode()
    with ThreadPoolExecutor(2) as clients:
        whole = raw("/texts", "application/json", len(body)) + body
        connections = [connect(server, whole) for _ in range(4)]
        time.sleep(0.3)
        begin = time.monotonic()
        answers = list(clients.map(lambda _: post_texts(server, ["one"]), range(2)))
        assert {answer.status_code for answer in answers} == {200}
        assert time.monotonic() - begin < 2
        for connection in connections:
            connection.close()
    deadline = time.monotonic() + 5
    while server.metric(gone) - before < 4:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_answer_holds_no_negative_numbers() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        TextsResponse(unread={"fake": [-1]})
