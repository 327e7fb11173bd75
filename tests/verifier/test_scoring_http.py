"""POST /score and POST /texts: what is scored and counted, and how the rest is refused, over real
sockets.

Mutated WAVs too: a finite score or a 422 that names file and reason. CURATOR_FUZZ sets how many are
sent (perf/server_load.py --fuzz writes their counts by answer).
"""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.client import ServerClient
from src.connection import ServerError
from src.data.audio import Clip
from src.protocol import Limits, NoScore, Score
from src.scoring import ScoreInput
from src.verifier import SearchVerifier
from tests.verifier.hostile_wavs import attack
from tests.verifier.server_process import ServerProcess, refusal, values, wav


def test_scores_are_in_the_files_order(server: ServerProcess) -> None:
    levels = [0.1, 1.0, 0.01, 0.5, 0.05, 0.2]
    found = values(server.post([wav(level) for level in levels]))
    np.testing.assert_allclose(found, 20 * np.log10(levels), atol=1e-4)


def test_several_verifiers_score_one_upload_each_at_its_own_rate(server: ServerProcess) -> None:
    response = server.post([wav(0.1), wav(0.2)], verifiers=("fake", "fake48"))
    np.testing.assert_allclose(values(response, "fake"), [-20, -13.98], atol=0.01)
    np.testing.assert_allclose(values(response, "fake48"), [-20, -13.98], atol=0.1)


def test_an_answer_tells_checkpoint_and_seconds(server: ServerProcess) -> None:
    result = server.post([wav()], ["sleep 0.2"]).json()["results"]["fake"]
    assert result["checkpoint"] == {"name": "fake", "sha256": "00"}
    assert result["compute_seconds"] >= 0.2
    assert 0 <= result["queue_seconds"] < 5


def test_embeddings_are_those_of_verifiers_that_have_one_and_are_asked(
    server: ServerProcess,
) -> None:
    for names in (["fake"], ["tags"]):
        asked = {"verifiers": ["fake"], "prompts": ["any"], "embeddings": names}
        form = {"data": {"request": json.dumps(asked)}, "files": {"files": wav()}}
        response = server.post_to("/score", **form)
        assert refusal(response) == (400, "bad_request")
        assert f"{names[0]} has none" in response.json()["message"]
        assert "of those asked, these have one: none" in response.json()["message"]


@pytest.mark.parametrize(
    ("file", "reason"),  # tests/generator/test_audio.py has all of them
    [
        (wav()[:-500], "cut off"),
        (wav(float("nan")), "NaN"),
        (wav(seconds=1 / 192_000, rate=192_000), "too short"),
    ],
)
def test_a_bad_file_is_refused_by_position_and_reason(
    server: ServerProcess, file: bytes, reason: str
) -> None:
    response = server.post([wav(), file])
    assert refusal(response) == (422, "bad_audio")
    assert response.json()["index"] == 1
    assert reason in response.json()["message"]


FILE = {"files": wav()}
MILLION = "[" + "[]," * 1_000_000 + "0]"
JSON = {"Content-Type": "application/json"}
ONE = b'{"verifiers": ["fake"], "prompts": ["one"]}'


def texts(prompts: bytes) -> dict[str, Any]:
    """A request to count tokens of what may not be a list of prompts."""
    return {"data": b'{"verifiers": ["fake"], "prompts": ' + prompts + b"}", "headers": JSON}


MALFORMED: dict[str, tuple[str, dict[str, Any]]] = {
    "no form": ("/score", {"data": b"x"}),
    "no files": ("/score", {"data": {"request": "{}"}}),
    "broken JSON": ("/score", {"data": {"request": '{"ver'}, "files": FILE}),
    "a million bad prompts": (
        "/score",
        {"data": {"request": f'{{"verifiers": ["fake"], "prompts": {MILLION}}}'}, "files": FILE},
    ),
    "broken multipart": (
        "/score",
        {
            "data": b"--x\r\nnonsense",
            "headers": {"Content-Type": "multipart/form-data; boundary=x"},
        },
    ),
    "multipart without boundary": (
        "/score",
        {"data": b"--x\r\n", "headers": {"Content-Type": "multipart/form-data"}},
    ),
    "no JSON": ("/texts", {"data": b"verifiers=fake&prompts=one", "headers": JSON}),
    "an empty list": ("/texts", texts(b"[]")),
    "half a surrogate pair": ("/texts", texts(rb'["\ud83d"]')),
    "bytes that are not UTF-8": ("/texts", texts(b'["\xff\xfe"]')),
    "UTF-32": ("/texts", {"data": '{"prompts": 1}'.encode("utf-32"), "headers": JSON}),
    "100,000 brackets": ("/texts", texts(b"[" * 100_000)),
    "a number of 10,000 digits": ("/texts", texts(b"9" * 10_000)),
    "a million empty lists": ("/texts", texts(MILLION.encode())),
    "JSON as text": ("/texts", {"data": ONE, "headers": {"Content-Type": "text/plain"}}),
    "JSON as a form": (
        "/texts",
        {"data": ONE, "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
    ),
    "JSON as nothing": ("/texts", {"data": ONE, "headers": {"Content-Type": ""}}),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_request_is_told_in_short_what_is_wrong(
    server: ServerProcess, case: str
) -> None:
    path, request = MALFORMED[case]
    response = server.post_to(path, **request)
    assert refusal(response) == (400, "bad_request")
    assert len(response.content) < 1_000


def test_counts_that_differ_are_refused(server: ServerProcess) -> None:
    response = server.post([wav(), wav()], ["one"])
    assert response.status_code == 400
    assert "2 files and 1 prompts" in response.json()["message"]


def test_every_prompt_without_a_score_is_named_with_the_reason(server: ServerProcess) -> None:
    response = server.post([wav()] * 3, ["fine", "nothing", "nothing"])
    assert refusal(response) == (422, "prompt_refused")
    refused = response.json()["refused"]
    assert [r["index"] for r in refused] == [1, 2]
    assert refused[0]["reason"] == "nothing names no tag"
    assert (
        "prompt 1: nothing names no tag; name one of: piano, guitar" in response.json()["message"]
    )
    assert response.text.count("piano, guitar") == 1


def test_a_clip_without_a_finite_score_has_the_reason_in_its_place_and_a_failure_is_its_requests(
    server: ServerProcess,
) -> None:
    unscored = server.metric('curator_unscored_clips_total{model="fake"}')
    with ThreadPoolExecutor(4) as clients:
        blocked = clients.submit(server.post, [wav()], ["sleep 0.5"])
        time.sleep(0.2)
        bad = clients.submit(server.post, [wav(0.5), wav(0.1), wav(0.1)], ["fine", "nan", "fine"])
        good = clients.submit(server.post, [wav(0.1)], ["fine"])
        crash = clients.submit(server.post, [wav()], ["crash"])
        assert values(good.result()) == pytest.approx([-20])
        values(blocked.result())
    first, second, third = bad.result().json()["results"]["fake"]["scores"]
    assert second == {"reason": "the model gave no finite number for score"}
    assert third["value"] == pytest.approx(-20)
    assert first["value"] > third["value"]
    assert server.metric('curator_unscored_clips_total{model="fake"}') == unscored + 1
    log = server.log.read_text()
    assert "fake: no score: the model gave no finite number" in log
    assert "ScoreError" not in log  # no traceback
    assert refusal(crash.result()) == (500, "verifier_failed")
    assert "out of luck" in crash.result().json()["message"]


def test_a_search_goes_on_without_the_candidate_that_has_no_score(server: ServerProcess) -> None:
    client = ServerClient(server.url)
    verifier = SearchVerifier("fake", client.checkpoints(["fake"]), client)
    clips = [Clip(np.full((1, 16_000), level, np.float32), 16_000) for level in (0.1, 0.5, 1)]
    texts = ["fine", "nan", "nothing"]
    items = [ScoreInput(text, clip, -1.0) for text, clip in zip(texts, clips, strict=True)]
    scored, nan, refused = verifier.score(items)
    assert isinstance(scored, Score)
    assert nan == NoScore(reason="the model gave no finite number for score")
    assert refused == NoScore(reason="nothing names no tag")


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
    assert response.headers["Retry-After"] in ("1", "2")


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


def test_the_longest_prompts_pass_however_they_are_escaped_and_more_bytes_do_not(
    server: ServerProcess,
) -> None:
    assert server.post_texts(["\U0001f3b5" * 2_000] * 256).status_code == 200  # 12 bytes each
    most = Limits().max_json_bytes
    assert refusal(server.post_to("/texts", data=b" " * most, headers=JSON)) == (400, "bad_request")
    response = server.post_to("/texts", data=b" " * (most + 1), headers=JSON)
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


FILES = int(os.environ.get("CURATOR_FUZZ", "500"))


@pytest.mark.slow
def test_every_mutated_wav_is_answered_cleanly(server: ServerProcess) -> None:
    logged, sent = len(server.log.read_text()), count(1)

    def still_scores() -> None:
        if next(sent) % 20 == 0:
            assert values(server.post([wav(0.1)])) == pytest.approx([-20])

    answers = attack(server, FILES, still_scores)
    assert server.process.poll() is None
    assert "Traceback" not in server.log.read_text()[logged:], "an exception was logged"
    # The files are neither all refused for one reason nor all accepted.
    assert answers["200 scored"] > FILES // 50
    assert len(answers) >= 8, answers
