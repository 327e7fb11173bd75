"""The client of a verifier server: what is sent, and what it meets on a server's bad days."""

import math
import time

import pytest
from pydantic import ValidationError

from src import connection
from src.budget import Ledger
from src.client import ServerClient
from src.connection import ServerError, ServerUnreachable
from src.protocol import Limits, NoScore, Score
from src.scoring import ScoreInput, VerifierError
from tests.generator.stub_server import (
    GENERATOR,
    TAGS,
    Answer,
    StubServer,
    answer_of,
    clip,
    found,
    inputs,
    problem,
    tags,
)

NAMES = ("clap", "muq", "tags")
BUSY = problem(503, "queue_full", {"Retry-After": "1"})
MUQ_REFUSES = problem(
    422, "prompt_refused", refused=[{"index": 1, "verifier": "muq", "reason": "no"}]
)


def scored(stub: StubServer, count: int = 2) -> list[float]:
    return found(tags(stub.client).score(inputs(count)))


def test_a_batch_is_one_upload_and_scores_come_in_order(stub: StubServer) -> None:
    assert scored(stub, 4) == [0, 1 / 8, 2 / 8, 3 / 8]
    (upload,) = stub.uploads
    assert upload["asked"] == {
        "verifiers": ["tags"],
        "prompts": [f"prompt {i}" for i in range(4)],
    }


@pytest.mark.parametrize(
    ("limits", "sizes"),
    [
        (Limits(max_files=3), [3, 3, 1]),
        (Limits(max_body_bytes=25_000, max_prompt_chars=100), [2, 2, 2, 1]),
        (Limits(max_total_seconds=2.5 * 2000 / 16_000), [2, 2, 2, 1]),
    ],
)
def test_a_batch_beyond_the_limits_is_split_and_joined_in_order(
    stub: StubServer, limits: Limits, sizes: list[int]
) -> None:
    stub.limits = limits
    items = [ScoreInput("a", clip(i / 8, samples=2000), 0.0) for i in range(7)]
    assert found(tags(stub.client).score(items)) == [i / 8 for i in range(7)]
    assert [len(upload["files"]) for upload in stub.uploads] == sizes
    assert max(upload["bytes"] for upload in stub.uploads) <= limits.max_body_bytes


def test_refused_positions_are_those_of_the_whole_batch(stub: StubServer) -> None:
    stub.limits = Limits(max_files=2)
    refusal = {"index": 1, "verifier": "tags", "reason": "names no tag"}
    scores = (200, answer_of({"tags": [0.0, 0.0]}), {})
    stub.answers = [scores, problem(422, "prompt_refused", refused=[refusal])]
    outcomes = tags(stub.client).score(inputs(4))
    assert outcomes[3] == NoScore(reason="names no tag")
    assert found(outcomes[:3]) == [0, 0, 2 / 8]


def test_the_others_of_a_batch_are_scored_without_what_is_refused(stub: StubServer) -> None:
    refused = [{"index": i, "verifier": "tags", "reason": "names no tag"} for i in (0, 2)]
    stub.answers = [
        problem(422, "prompt_refused", index=0, refused=refused),
        problem(422, "bad_audio", index=1),
    ]
    outcomes = tags(stub.client).score(inputs(4))
    reasons = ["names no tag", None, "names no tag", "why"]
    assert [getattr(outcome, "reason", None) for outcome in outcomes] == reasons
    assert found(outcomes[1:2]) == [1 / 8]


def test_a_refusal_of_nothing_that_was_asked_ends_the_run(stub: StubServer) -> None:
    stub.answers = [problem(422, "bad_audio", index=7)]
    with pytest.raises(VerifierError, match="bad_audio"):
        scored(stub, 2)
    assert len(stub.uploads) == 1


def test_usage_tells_bytes_and_seconds_and_starts_anew(stub: StubServer) -> None:
    scored(stub)
    usage = stub.client.take_usage()
    assert usage.uploaded_bytes == stub.uploads[0]["bytes"]
    assert (usage.seconds["queue"], usage.seconds["compute"]) == (0.01, 0.02)
    assert stub.client.take_usage() == Ledger()


def test_the_token_is_sent(stub: StubServer) -> None:
    ServerClient(stub.url, token="hunter2").score({"tags": TAGS}, ["a"], [clip()])
    assert stub.token == "Bearer hunter2"


def score_by(stub: StubServer, *names: str) -> dict[str, list[float | str]]:
    clips = [clip(0.25), clip(0.5)]
    answers = stub.client.score(dict.fromkeys(names, TAGS), ["a", "b"], clips)
    return {
        name: [s.value if isinstance(s, Score) else s.reason for s in answer.scores]
        for name, answer in answers.items()
    }


def test_one_upload_asks_all_verifiers(stub: StubServer) -> None:
    assert score_by(stub, *NAMES) == {n: [0.25, 0.5] for n in NAMES}
    assert [u["asked"]["verifiers"] for u in stub.uploads] == [list(NAMES)]


def test_what_one_verifier_refuses_the_others_still_score_together(stub: StubServer) -> None:
    stub.answers = [MUQ_REFUSES]
    assert score_by(stub, *NAMES) == {"clap": [0.25, 0.5], "muq": [0.25, "no"], "tags": [0.25, 0.5]}
    asked = [(u["asked"]["verifiers"], u["asked"]["prompts"]) for u in stub.uploads[1:]]
    assert asked == [(["clap", "tags"], ["a", "b"]), (["muq"], ["a"])]


def test_one_verifier_that_refuses_everything_is_asked_once(stub: StubServer) -> None:
    refused = [{"index": i, "verifier": "muq", "reason": "no"} for i in (0, 1)]
    stub.answers = [problem(422, "prompt_refused", refused=refused)]
    assert score_by(stub, "muq") == {"muq": ["no", "no"]}
    assert len(stub.uploads) == 1


def test_weights_are_held_to_those_that_are_expected(stub: StubServer) -> None:
    asked = (["a"], [clip()])
    stub.client.score({"tags": TAGS}, *asked)
    with pytest.raises(ServerError, match="now scores tags with other weights"):
        stub.client.score({"tags": GENERATOR}, *asked)


def test_weights_that_change_within_a_batch_are_an_error(stub: StubServer) -> None:
    stub.limits = Limits(max_files=1)
    stub.answers = [(200, answer_of({"tags": [1.0]}, GENERATOR), {})]
    with pytest.raises(ServerError, match="now scores tags with other weights"):
        stub.client.score({"tags": TAGS}, ["a", "b"], [clip(), clip()])


def test_a_busy_server_is_asked_again_after_the_time_it_names(stub: StubServer) -> None:
    stub.answers = [BUSY]
    begin = time.monotonic()
    assert scored(stub, 1) == [0]
    assert 1 <= time.monotonic() - begin < 3


def test_a_busy_server_may_name_less_than_a_second_and_clients_come_again_apart(
    stub: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(connection.time, "sleep", waits.append)
    for _ in range(5):
        stub.answers = [problem(503, "busy", {"Retry-After": "1"}, retry_after_seconds=0.4)]
        assert scored(stub, 1) == [0]
    assert all(0.4 <= wait <= 0.5 for wait in waits)
    assert len(set(waits)) == 5


def test_a_reset_connection_is_tried_again_and_its_bytes_count(stub: StubServer) -> None:
    stub.answers = [lambda: None, lambda: None]
    assert scored(stub) == [0, 1 / 8]
    assert stub.client.take_usage().uploaded_bytes == sum(u["bytes"] for u in stub.uploads)
    assert len(stub.uploads) == 3


def test_a_timeout_is_tried_again(stub: StubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "ATTEMPT_SECONDS", 0.3)
    stub.answers = [lambda: time.sleep(1)]
    assert scored(stub, 1) == [0]


def test_waiting_ends_at_the_total_time(stub: StubServer) -> None:
    stub.answers = [BUSY] * 20
    stub.client = ServerClient(stub.url, total_seconds=1.5)
    begin = time.monotonic()
    with pytest.raises(ServerUnreachable, match=r"within 1\.5 s.*queue_full"):
        scored(stub)
    assert time.monotonic() - begin < 3


def test_a_server_that_is_not_there_ends_at_once_with_the_command_that_starts_it(
    stub: StubServer,
) -> None:
    stub.stop()
    begin = time.monotonic()
    with pytest.raises(ServerUnreachable, match=r"make serve.*verifier_server\.py"):
        stub.client.checkpoints(["tags"])
    assert time.monotonic() - begin < 0.4


def test_a_server_that_stops_in_the_middle_is_waited_for_and_then_given_up(
    stub: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "UNREACHABLE_SECONDS", 0.5)
    scored(stub)
    stub.stop()
    stub.client._connection._session.close()
    begin = time.monotonic()
    with pytest.raises(ServerUnreachable, match="no verifier server answers"):
        scored(stub)
    assert 0.5 <= time.monotonic() - begin < 3


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((200, answer_of({"tags": [1.0]}), {}), "not 2 for each of tags"),
        ((200, answer_of({"other": [1.0, 2.0]}), {}), "not 2 for each of tags"),
        ((200, answer_of({"tags": [1.0, math.nan]}), {}), "not valid"),
        ((200, b"<html>", {}), "not valid"),
        ((404, b"<html>no such page", {}), "not as a verifier server"),
        (problem(404, "unknown_verifier"), "unknown_verifier"),
        (problem(500, "verifier_failed", index=0), "verifier_failed"),
        (problem(503, "not_ready"), "not_ready"),
        (problem(401, "unauthorized"), "CURATOR_TOKEN"),
        ((200, answer_of({"tags": [1.0, 2.0]}, GENERATOR), {}), "other weights"),
    ],
)
def test_an_answer_that_cannot_be_used_ends_the_run(
    stub: StubServer, answer: Answer, reason: str
) -> None:
    stub.answers = [answer]
    with pytest.raises(ServerError, match=reason):
        scored(stub)
    assert len(stub.uploads) == 1


def test_unread_tokens_beyond_the_limits_are_asked_for_in_parts_and_joined_in_order(
    stub: StubServer,
) -> None:
    stub.limits = Limits(max_files=2)
    prompts = ["one two three four five", "one", "ö two three four"]
    assert stub.client.unread(["tags", "clap"], prompts) == {"tags": [2, 0, 1], "clap": [2, 0, 1]}
    assert [u["asked"] for u in stub.uploads] == [
        {"verifiers": ["tags", "clap"], "prompts": some} for some in (prompts[:2], prompts[2:])
    ]


def test_without_names_or_prompts_nothing_is_asked(stub: StubServer) -> None:
    assert stub.client.unread([], ["a"]) == {}
    assert stub.client.unread(["tags"], []) == {"tags": []}
    assert not stub.uploads


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ({"tags": [1]}, "not 2 for each of tags"),
        ({"clap": [1, 2]}, "not 2 for each of tags"),
        ({"tags": [1, -2]}, "not valid"),
        ({"tags": [1, 0.5]}, "not valid"),
    ],
)
def test_counts_that_cannot_be_used_are_an_error(
    stub: StubServer, counts: dict, reason: str
) -> None:
    stub.answers = [(200, {"unread": counts}, {})]
    with pytest.raises(ServerError, match=reason):
        stub.client.unread(["tags"], ["a", "b"])


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "null"])
def test_a_score_and_its_components_are_finite_numbers(value: str) -> None:
    with pytest.raises(ValidationError):
        Score.model_validate_json(f'{{"value": {value}}}')
    with pytest.raises(ValidationError):
        Score.model_validate_json(f'{{"value": 0.5, "components": {{"piano": {value}}}}}')
