"""What is scored, and how what cannot be scored is refused, over real sockets.

Mutated WAVs too: a finite score or a 422 that names file and reason. CURATOR_FUZZ sets how many are
sent (perf/server_load.py --fuzz writes their counts by answer).
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import numpy as np
import pytest

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
MILLION = '{"verifiers": ["fake"], "prompts": [' + "[]," * 1_000_000 + "0]}"
MALFORMED: dict[str, dict[str, Any]] = {
    "no form": {"data": b"x"},
    "no files": {"data": {"request": "{}"}},
    "broken JSON": {"data": {"request": '{"ver'}, "files": FILE},
    "a million bad prompts": {"data": {"request": MILLION}, "files": FILE},
    "broken multipart": {
        "data": b"--x\r\nnonsense",
        "headers": {"Content-Type": "multipart/form-data; boundary=x"},
    },
    "multipart without boundary": {
        "data": b"--x\r\n",
        "headers": {"Content-Type": "multipart/form-data"},
    },
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_request_is_told_what_is_wrong(server: ServerProcess, case: str) -> None:
    response = server.post_to("/score", **MALFORMED[case])
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
    assert refused[0]["reason"] == "names no tag"


def test_a_score_that_is_not_finite_is_an_error_of_its_request_alone(
    server: ServerProcess,
) -> None:
    with ThreadPoolExecutor(4) as clients:
        blocked = clients.submit(server.post, [wav()], ["sleep 0.5"])
        time.sleep(0.2)
        bad = clients.submit(server.post, [wav(), wav()], ["fine", "nan"])
        good = clients.submit(server.post, [wav(0.1)], ["fine"])
        crash = clients.submit(server.post, [wav()], ["crash"])
        assert values(good.result()) == pytest.approx([-20])
        values(blocked.result())
    assert refusal(bad.result()) == (422, "no_score")
    assert bad.result().json()["index"] == 1
    assert refusal(crash.result()) == (500, "verifier_failed")
    assert "out of luck" in crash.result().json()["message"]


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
