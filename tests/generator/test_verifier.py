"""The client side of scoring: expressions, sums, and a client that meets a server's bad days."""

import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from src.audio import Clip, decode_wav
from src.budget import Ledger
from src.calibration import Calibration, CalibrationError, Constant
from src.verifier import (
    ExpressionError,
    HttpVerifier,
    PerplexityVerifier,
    PromptRefused,
    ScoreInput,
    ServerClient,
    ServerError,
    ServerUnreachable,
    SumVerifier,
    build_verifier,
    components,
    score_or_refuse,
)
from src.wire import Checkpoint, Limits, Score, VerifierInfo, VerifierList

GENERATOR = Checkpoint(name="builtin", sha256="11" * 32)
TAGS = Checkpoint(name="MTT_musicnn", sha256="22" * 32)

Answer = tuple[int, Any, dict[str, str]]


class StubServer:
    """An HTTP server whose answers a test writes: `answers` are used up first, then it scores.

    The score of a clip is its first sample, so that order can be checked.
    """

    def __init__(self) -> None:
        self.answers: list[Answer | Callable[[], Answer | None]] = []
        self.uploads: list[dict[str, Any]] = []
        self.limits = Limits()
        self.token = ""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                info = VerifierInfo(
                    name="tags", state="ready", checkpoint=TAGS, sample_rate=16_000, needs_text=True
                )
                listing = VerifierList(verifiers=[info], limits=outer.limits)
                self.answer(200, listing.model_dump(), {})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.token = self.headers.get("Authorization", "")
                asked, files = outer.read(self.headers["Content-Type"], body)
                outer.uploads.append({"asked": asked, "files": files, "bytes": len(body)})
                answer = outer.answers.pop(0) if outer.answers else outer.scored(asked, files)
                if callable(answer):
                    answer = answer()
                if answer is None:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                else:
                    self.answer(*answer)

            def answer(self, status: int, body: Any, headers: dict[str, str]) -> None:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    @staticmethod
    def read(content_type: str, body: bytes) -> tuple[dict[str, Any], list[bytes]]:
        message = BytesParser().parsebytes(
            b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body
        )
        parts = [part.get_payload(decode=True) for part in message.get_payload()]  # type: ignore[union-attr]
        return json.loads(parts[0]), parts[1:]  # type: ignore[arg-type, return-value]

    @staticmethod
    def scored(asked: dict[str, Any], files: list[bytes]) -> Answer:
        firsts = [float(decode_wav(data).samples[0, 0]) for data in files]
        return 200, answer_of(dict.fromkeys(asked["verifiers"], firsts)), {}


def answer_of(values: dict[str, list[float]], checkpoint: Checkpoint = TAGS) -> dict[str, Any]:
    results = {
        name: {
            "checkpoint": checkpoint.model_dump(),
            "scores": [{"value": value} for value in scores],
            "queue_seconds": 0.01,
            "compute_seconds": 0.02,
        }
        for name, scores in values.items()
    }
    return {"request_id": "r", "results": results}


def problem(status: int, error: str, headers: dict[str, str] | None = None, **more: Any) -> Answer:
    return status, {"request_id": "r", "error": error, "message": "why", **more}, headers or {}


@pytest.fixture
def stub() -> Iterator[StubServer]:
    server = StubServer()
    yield server
    server.stop()


@pytest.fixture
def client(stub: StubServer) -> ServerClient:
    return ServerClient(stub.url, unreachable_seconds=0.5, total_seconds=5)


def clip(first: float = 0.5, samples: int = 100) -> Clip:
    return Clip(np.full((1, samples), first, np.float32), 16_000)


def inputs(count: int = 3) -> list[ScoreInput]:
    return [ScoreInput(f"prompt {i}", clip(i / 8), -1.0 - i) for i in range(count)]


def tags(client: ServerClient) -> HttpVerifier:
    return HttpVerifier(client, "tags", TAGS)


def found(scores: Sequence[Score]) -> list[float]:
    return [score.value for score in scores]


class TestExpressions:
    @pytest.mark.parametrize(
        ("text", "weights"),
        [
            ("tags", {"tags": 1.0}),
            ("tags+perplexity", {"tags": 1.0, "perplexity": 1.0}),
            (" 0.7 * tags + 0.3*perplexity ", {"tags": 0.7, "perplexity": 0.3}),
            ("tags_msd+2e-1*clap", {"tags_msd": 1.0, "clap": 0.2}),
        ],
    )
    def test_sums_are_read_with_their_weights(self, text: str, weights: dict[str, float]) -> None:
        assert components(text) == weights

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "write tags"),
            ("tags+", "write tags"),
            ("+tags", "write tags"),
            ("tags perplexity", "write tags"),
            ("tags-perplexity", "write tags"),
            ("tags*0.5", "write tags"),
            ("tags+tags", "names tags twice"),
            ("0*tags", "not a positive number"),
            ("nan*tags", "not a positive number"),
            ("inf*tags", "not a positive number"),
            ("x*tags", "not a positive number"),
            ("-1*tags", "not a positive number"),
        ],
    )
    def test_other_expressions_are_refused_with_the_way_to_write_one(
        self, text: str, reason: str
    ) -> None:
        with pytest.raises(ExpressionError, match=reason):
            components(text)


class TestPerplexity:
    def test_is_the_exponential_of_the_mean_log_probability_and_hears_nothing(self) -> None:
        verifier = PerplexityVerifier(GENERATOR)
        scores = verifier.score([ScoreInput("a", None, math.log(0.25))])
        assert found(scores) == pytest.approx([0.25])
        assert not verifier.needs_audio
        assert verifier.checkpoints == {"perplexity": GENERATOR}

    def test_is_refused_where_the_log_probability_is_not_finite(self) -> None:
        items = [ScoreInput("a", None, -1.0), ScoreInput("b", None, math.nan)]
        outcomes = score_or_refuse(PerplexityVerifier(GENERATOR), items)
        assert isinstance(outcomes[0], Score)
        assert isinstance(outcomes[1], PromptRefused)


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

    def test_a_batch_beyond_the_limits_is_split_and_joined_in_order(
        self, stub: StubServer, client: ServerClient
    ) -> None:
        stub.limits = Limits(max_files=3)
        assert found(tags(client).score(inputs(7))) == [i / 8 for i in range(7)]
        assert [len(upload["files"]) for upload in stub.uploads] == [3, 3, 1]

    def test_a_batch_beyond_the_body_limit_is_split(
        self, stub: StubServer, client: ServerClient
    ) -> None:
        stub.limits = Limits(max_body_bytes=25_000, max_prompt_chars=100)
        items = [ScoreInput("a", clip(i / 8, 2000), 0.0) for i in range(5)]
        assert found(tags(client).score(items)) == [i / 8 for i in range(5)]
        assert max(upload["bytes"] for upload in stub.uploads) <= 25_000
        assert len(stub.uploads) == 3

    def test_a_batch_beyond_the_total_length_is_split(
        self, stub: StubServer, client: ServerClient
    ) -> None:
        items = [ScoreInput("a", clip(i / 8, 2000), 0.0) for i in range(5)]
        stub.limits = Limits(max_total_seconds=2.5 * items[0].clip.seconds)
        assert found(tags(client).score(items)) == [i / 8 for i in range(5)]
        assert [len(upload["files"]) for upload in stub.uploads] == [2, 2, 1]

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
        client._session.close()
        begin = time.monotonic()
        with pytest.raises(ServerUnreachable, match="no verifier server answers"):
            verifier.score(inputs(1))
        assert 0.5 <= time.monotonic() - begin < 3

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            ((200, answer_of({"tags": [1.0]}), {}), "1 scores for 2 clips"),
            ((200, answer_of({"other": [1.0, 2.0]}), {}), "answered for"),
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


class TestSums:
    def calibration(self, **deviations: float) -> Calibration:
        return Calibration(
            generator=GENERATOR,
            constants={
                name: Constant(
                    checkpoint=TAGS if name == "tags" else GENERATOR,
                    deviation=deviation,
                    mean=0.0,
                    prompts="builtin",
                    prompts_sha256="00",
                    num_prompts=2,
                    candidates=4,
                    duration=5.0,
                    seed=1,
                    temperature=1.0,
                    top_k=250,
                    guidance=3.0,
                    dtype="float32",
                    commit="abc",
                    date="2025-01-01",
                )
                for name, deviation in deviations.items()
            },
        )

    def test_parts_are_weighted_in_units_of_their_deviation(self, client: ServerClient) -> None:
        known = self.calibration(tags=0.5, perplexity=0.1)
        verifier = build_verifier("0.7*tags+0.3*perplexity", GENERATOR, client, known)
        assert isinstance(verifier, SumVerifier)
        score = verifier.score(inputs(2))[1]
        assert score.value == pytest.approx(0.7 * 0.125 / 0.5 + 0.3 * math.exp(-2) / 0.1)
        assert score.components == pytest.approx({"tags": 0.125, "perplexity": math.exp(-2)})
        assert verifier.checkpoints == {"tags": TAGS, "perplexity": GENERATOR}

    def test_a_single_name_needs_no_constants(self, client: ServerClient) -> None:
        assert isinstance(build_verifier("tags", GENERATOR, client, None), HttpVerifier)
        assert isinstance(build_verifier("perplexity", GENERATOR, None, None), PerplexityVerifier)

    def test_absent_constants_name_the_command_that_makes_them(self, client: ServerClient) -> None:
        with pytest.raises(
            CalibrationError,
            match=r"python -m src\.calibration --profile builtin --verifiers tags perplexity",
        ):
            build_verifier("tags+perplexity", GENERATOR, client, self.calibration(perplexity=0.1))

    def test_constants_of_other_weights_do_not_count(self, client: ServerClient) -> None:
        known = self.calibration(tags=0.5, perplexity=0.1)
        other = Checkpoint(name="facebook/musicgen-small", sha256="33" * 32)
        with pytest.raises(CalibrationError, match="--model facebook/musicgen-small"):
            build_verifier("tags+perplexity", other, client, known)
        known.constants["tags"] = known.constants["perplexity"]
        with pytest.raises(CalibrationError, match="the spread of tags"):
            build_verifier("tags+perplexity", GENERATOR, client, known)

    def test_a_verifier_that_is_not_hosted_is_named_with_what_is(
        self, client: ServerClient
    ) -> None:
        with pytest.raises(ServerError, match=r"does not host clap; it hosts tags"):
            build_verifier("clap", GENERATOR, client, None)
