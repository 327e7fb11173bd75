"""The client of a verifier server: what is sent, and what it meets on a server's bad days."""

import logging
import math
import time

import pytest

from src.budget import Ledger
from src.client import PromptRefused, ServerClient, ServerError, ServerUnreachable
from src.protocol import Limits, Score, VerifierResult
from src.scoring import ScoreInput, score_or_refuse
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


class TestScoringOverHttp:
    def test_a_batch_is_one_upload_and_scores_come_in_order(
        self, stub: StubServer, client: ServerClient
    ) -> None:
        assert found(tags(client).score(inputs(4))) == [0, 1 / 8, 2 / 8, 3 / 8]
        assert len(stub.uploads) == 1
        assert stub.uploads[0]["asked"] == {
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
        self, stub: StubServer, client: ServerClient, limits: Limits, sizes: list[int]
    ) -> None:
        stub.limits = limits
        items = [ScoreInput("a", clip(i / 8, samples=2000), 0.0) for i in range(7)]
        assert found(tags(client).score(items)) == [i / 8 for i in range(7)]
        assert [len(upload["files"]) for upload in stub.uploads] == sizes
        assert max(upload["bytes"] for upload in stub.uploads) <= limits.max_body_bytes

    def test_refused_positions_are_those_of_the_whole_batch(
        self, stub: StubServer, client: ServerClient
    ) -> None:
        stub.limits = Limits(max_files=2)
        refusal = {"index": 1, "verifier": "tags", "reason": "names no tag"}
        stub.answers = [stub_scores, problem(422, "prompt_refused", refused=[refusal])]
        with pytest.raises(PromptRefused) as caught:
            tags(client).score(inputs(4))
        assert caught.value.refused == {3: "tags: names no tag"}

    def test_the_others_of_a_batch_are_scored_without_the_refused_ones(
        self, stub: StubServer, client: ServerClient
    ) -> None:
        refused = [{"index": i, "verifier": "tags", "reason": "names no tag"} for i in (0, 2)]
        stub.answers = [
            problem(422, "prompt_refused", index=0, refused=refused),
            problem(422, "no_score", index=1),
        ]
        outcomes = score_or_refuse(tags(client), inputs(4))
        reasons = {i: o.reason for i, o in enumerate(outcomes) if isinstance(o, PromptRefused)}
        assert reasons == {0: "tags: names no tag", 2: "tags: names no tag", 3: "why"}
        assert found([o for o in outcomes if isinstance(o, Score)]) == [1 / 8]

    def test_a_refused_input_knows_its_own_position(
        self, stub: StubServer, client: ServerClient
    ) -> None:
        stub.answers = [problem(422, "bad_audio", index=2)]
        outcome = score_or_refuse(tags(client), inputs(3))[2]
        assert isinstance(outcome, PromptRefused)
        assert (outcome.index, outcome.reason) == (2, "why")

    def test_usage_tells_bytes_and_seconds_and_starts_anew(
        self, stub: StubServer, client: ServerClient
    ) -> None:
        verifier = tags(client)
        verifier.score(inputs(2))
        usage = verifier.take_usage()
        assert usage.uploaded_bytes == stub.uploads[0]["bytes"]
        assert (usage.seconds["queue"], usage.seconds["compute"]) == (0.01, 0.02)
        assert verifier.take_usage() == Ledger()

    def test_the_token_is_sent(self, stub: StubServer) -> None:
        ServerClient(stub.url, token="hunter2").score(["tags"], ["a"], [clip()])
        assert stub.token == "Bearer hunter2"

    def test_a_candidate_without_audio_is_an_error(self, client: ServerClient) -> None:
        with pytest.raises(Exception, match="without its audio"):
            tags(client).score([ScoreInput("a", None, 0.0)])


def stub_scores() -> Answer:
    return 200, answer_of({"tags": [0.0, 0.0]}), {}


class TestScoringByEachVerifier:
    NAMES = ("clap", "muq", "tags")
    REFUSED = problem(
        422, "prompt_refused", refused=[{"index": 1, "verifier": "muq", "reason": "no"}]
    )

    def score_each(
        self, client: ServerClient, *names: str
    ) -> dict[str, list[float] | dict[int, str]]:
        answers = client.score_each(names, ["a", "b"], [clip(0.25), clip(0.5)])
        return {
            name: found(answer.scores) if isinstance(answer, VerifierResult) else answer.refused
            for name, answer in answers.items()
        }

    def test_one_upload_asks_them_all(self, stub: StubServer, client: ServerClient) -> None:
        assert self.score_each(client, *self.NAMES) == {n: [0.25, 0.5] for n in self.NAMES}
        assert [u["asked"]["verifiers"] for u in stub.uploads] == [list(self.NAMES)]

    def test_what_one_refuses_the_others_still_score(
        self, stub: StubServer, client: ServerClient
    ) -> None:
        stub.answers = [self.REFUSED, (200, answer_of({"clap": [1.0, 2.0]}), {}), self.REFUSED]
        answers = self.score_each(client, *self.NAMES)
        assert answers == {"clap": [1.0, 2.0], "muq": {1: "muq: no"}, "tags": [0.25, 0.5]}
        asked = [u["asked"]["verifiers"] for u in stub.uploads]
        assert asked == [list(self.NAMES), ["clap"], ["muq"], ["tags"]]

    def test_one_that_refuses_is_asked_once(self, stub: StubServer, client: ServerClient) -> None:
        stub.answers = [self.REFUSED]
        assert self.score_each(client, "muq") == {"muq": {1: "muq: no"}}
        assert len(stub.uploads) == 1

    def test_a_server_that_fails_ends_it(self, stub: StubServer, client: ServerClient) -> None:
        stub.answers = [self.REFUSED, problem(500, "verifier_failed")]
        with pytest.raises(ServerError, match="verifier_failed"):
            self.score_each(client, *self.NAMES)

    def test_weights_are_held_to_those_that_are_expected(self, client: ServerClient) -> None:
        asked = (["tags"], ["a"], [clip()])
        for score in (client.score, client.score_each):
            score(*asked, checkpoints={"tags": TAGS, "clap": GENERATOR})
            with pytest.raises(ServerError, match="now scores tags with other weights"):
                score(*asked, checkpoints={"tags": GENERATOR})


class TestBadDays:
    def test_a_busy_server_is_asked_again_after_the_time_it_names(
        self, stub: StubServer, client: ServerClient
    ) -> None:
        stub.answers = [problem(503, "queue_full", {"Retry-After": "1"})]
        begin = time.monotonic()
        assert found(tags(client).score(inputs(1))) == [0]
        assert 1 <= time.monotonic() - begin < 3

    def test_a_reset_connection_is_tried_again_and_its_bytes_count(
        self, stub: StubServer, client: ServerClient
    ) -> None:
        stub.answers = [lambda: None, lambda: None]
        verifier = tags(client)
        assert found(verifier.score(inputs(2))) == [0, 1 / 8]
        assert verifier.take_usage().uploaded_bytes == sum(u["bytes"] for u in stub.uploads)
        assert len(stub.uploads) == 3

    def test_a_timeout_is_tried_again(self, stub: StubServer) -> None:
        stub.answers = [lambda: time.sleep(1)]
        client = ServerClient(stub.url, attempt_seconds=0.3, total_seconds=5)
        assert found(tags(client).score(inputs(1))) == [0]

    def test_waiting_ends_at_the_total_time(self, stub: StubServer) -> None:
        stub.answers = [problem(503, "queue_full", {"Retry-After": "1"})] * 20
        client = ServerClient(stub.url, total_seconds=1.5)
        begin = time.monotonic()
        with pytest.raises(ServerUnreachable, match=r"within 1\.5 s.*queue_full"):
            tags(client).score(inputs(1))
        assert time.monotonic() - begin < 3

    def test_a_server_that_is_not_there_is_said_at_once_with_the_command_that_starts_it(
        self, stub: StubServer, client: ServerClient
    ) -> None:
        stub.stop()
        begin = time.monotonic()
        with pytest.raises(ServerUnreachable, match=r"make serve.*verifier_server\.py"):
            client.infos(["tags"])
        assert time.monotonic() - begin < 0.4

    def test_a_server_that_stops_in_the_middle_is_waited_for_and_then_given_up(
        self, stub: StubServer, client: ServerClient
    ) -> None:
        verifier = tags(client)
        verifier.score(inputs(1))
        stub.stop()
        client.close()
        begin = time.monotonic()
        with pytest.raises(ServerUnreachable, match="no verifier server answers"):
            verifier.score(inputs(1))
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
        self, stub: StubServer, client: ServerClient, answer: Answer, reason: str
    ) -> None:
        stub.answers = [answer]
        with pytest.raises(ServerError, match=reason):
            tags(client).score(inputs(2))
        assert len(stub.uploads) == 1


class TestUnreadTokens:
    def test_they_are_counted_by_verifier_in_the_prompts_order(
        self, stub: StubServer, client: ServerClient
    ) -> None:
        prompts = ["one two three four five", "one", "ö two three four"]
        assert client.unread(["tags", "clap"], prompts) == {"tags": [2, 0, 1], "clap": [2, 0, 1]}
        assert stub.uploads[0]["asked"] == {"verifiers": ["tags", "clap"], "prompts": prompts}

    def test_what_is_beyond_the_limits_is_split_and_joined_in_order(
        self, stub: StubServer, client: ServerClient
    ) -> None:
        stub.limits = Limits(max_files=2, max_verifiers=2)
        prompts = ["word " * length for length in range(1, 6)]
        assert client.unread(["a", "b", "c"], prompts) == {name: [0, 0, 0, 1, 2] for name in "abc"}
        asked = [(len(u["asked"]["verifiers"]), len(u["asked"]["prompts"])) for u in stub.uploads]
        assert asked == [(2, 2), (2, 2), (2, 1), (1, 2), (1, 2), (1, 1)]

    def test_without_names_or_prompts_nothing_is_asked(
        self, stub: StubServer, client: ServerClient
    ) -> None:
        assert client.unread([], ["a"]) == {}
        assert client.unread(["tags"], []) == {"tags": []}
        assert not stub.uploads

    def test_an_older_server_is_warned_of_and_counts_nothing(
        self, stub: StubServer, client: ServerClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        stub.answers = [problem(404, "not_found")]
        with caplog.at_level(logging.WARNING):
            assert client.unread(["tags"], ["a"]) == {}
        assert f"{stub.url} is older than this client" in caplog.text

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            ((200, {"unread": {"tags": [1]}}, {}), "not 2 for each of tags"),
            ((200, {"unread": {"clap": [1, 2]}}, {}), "not 2 for each of tags"),
            ((200, {"unread": {"tags": [1, -2]}}, {}), "not valid"),
            ((200, {"unread": {"tags": [1, 0.5]}}, {}), "not valid"),
        ],
    )
    def test_an_answer_that_cannot_be_used_is_an_error(
        self, stub: StubServer, client: ServerClient, answer: Answer, reason: str
    ) -> None:
        stub.answers = [answer]
        with pytest.raises(ServerError, match=reason):
            client.unread(["tags"], ["a", "b"])
        assert len(stub.uploads) == 1

    def test_a_model_that_still_loads_is_waited_for(
        self, stub: StubServer, client: ServerClient
    ) -> None:
        stub.answers = [problem(503, "not_ready", {"Retry-After": "1"})]
        assert client.unread(["tags"], ["one two three four"]) == {"tags": [1]}
        assert len(stub.uploads) == 2
