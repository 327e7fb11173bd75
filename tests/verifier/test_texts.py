"""POST /texts: what is counted, and how what cannot be counted is refused, over real sockets."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from src.client import ServerClient, ServerError
from tests.verifier.server_process import ServerProcess, refusal

JSON = {"Content-Type": "application/json"}


def test_unread_tokens_are_counted_by_verifier_in_the_prompts_order(server: ServerProcess) -> None:
    prompts = ["one two three four five", "one", "", "♫ two three four", "one"]
    response = server.post_texts(prompts, ("fake48", "fake"))
    assert response.status_code == 200
    assert response.json() == {"unread": {"fake48": [0] * 5, "fake": [2, 0, 0, 1, 0]}}
    assert response.headers["X-Request-ID"]


@pytest.mark.parametrize(
    ("model", "refused", "reason"),
    [
        ("broken", (503, "not_ready"), "the weights are torn"),
        ("clap", (404, "unknown_verifier"), "fake48"),
    ],
)
def test_a_verifier_that_cannot_count_is_named(
    server: ServerProcess, model: str, refused: tuple[int, str], reason: str
) -> None:
    response = server.post_texts(["one"], ("fake", model))
    assert refusal(response) == refused
    assert reason in response.json()["message"]
    assert response.json()["verifier"] == model
    assert "Retry-After" not in response.headers
    with pytest.raises(ServerError, match=reason):
        ServerClient(server.url).unread([model], ["one"])


def test_a_model_that_loads_is_asked_again_later(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "log", "--models", "never_loaded") as server:
        response = server.post_texts(["one"], ("never_loaded",))
    assert refusal(response) == (503, "not_ready")
    assert response.headers["Retry-After"] == "1"


def test_limits_are_those_of_scoring(server: ServerProcess) -> None:
    longest, most = ["x" * 2_000], ["♫"] * 256
    assert server.post_texts(longest).status_code == server.post_texts(most).status_code == 200
    for prompts, verifiers, reason in [
        (["fine", "x" * 2_001], ("fake",), "prompt 1 has 2001 characters; at most 2000"),
        ([""] * 257, ("fake",), "at most 256 prompts"),
        (["x"], ("fake",) * 9, "at most 8 verifiers"),
    ]:
        response = server.post_texts(prompts, verifiers)
        assert refusal(response) == (413, "too_large")
        assert reason in response.json()["message"]


HOSTILE: dict[str, bytes] = {
    "no JSON": b"verifiers=fake&prompts=one",
    "an empty list": b'{"verifiers": ["fake"], "prompts": []}',
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
    response = server.post_to("/texts", data=HOSTILE[case], headers=JSON)
    assert refusal(response) == (400, "bad_request")
    assert len(response.content) < 1_000


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", ""])
def test_another_content_type_is_not_taken_for_json(server: ServerProcess, kind: str) -> None:
    asked = json.dumps({"verifiers": ["fake"], "prompts": ["one"]})
    response = server.post_to("/texts", data=asked, headers={"Content-Type": kind})
    assert refusal(response) == (400, "bad_request")


def test_a_body_of_more_than_four_megabytes_is_refused(server: ServerProcess) -> None:
    response = server.post_to("/texts", data=b" " * (2**22 + 1), headers=JSON)
    assert refusal(response) == (413, "too_large")


def test_a_tokenizer_that_fails_is_the_servers_error(server: ServerProcess) -> None:
    assert refusal(server.post_texts(["fine", "crash"])) == (500, "internal")
    assert "RuntimeError: out of luck" in server.log.read_text()
    assert server.post_texts(["fine"]).status_code == 200


def test_long_work_neither_holds_up_others_nor_goes_on_when_its_client_has_gone(
    server: ServerProcess,
) -> None:
    gone = 'curator_request_seconds_count{path="/texts",status="499"}'
    before = server.metric(gone)
    slow = {"verifiers": ["fake"], "prompts": [f"sleep 0.1 {i}" for i in range(250)]}
    body = json.dumps(slow).encode()
    with ThreadPoolExecutor(2) as clients:
        whole = server.raw("/texts", "application/json", len(body)) + body
        connections = [server.connect(whole) for _ in range(4)]
        time.sleep(0.3)
        begin = time.monotonic()
        answers = list(clients.map(lambda _: server.post_texts(["one"]), range(2)))
        assert {answer.status_code for answer in answers} == {200}
        assert time.monotonic() - begin < 2
        for connection in connections:
            connection.close()
    server.wait_for(gone, before + 4)
