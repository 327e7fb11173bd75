"""Mutated WAVs against the real server: a finite score or a 422 that names file and reason.

CURATOR_FUZZ sets how many are sent (perf/server_load.py --fuzz writes their counts by answer).
"""

import os
from collections import Counter

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings

from tests.verifier.asking import post, values, wav
from tests.verifier.hostile_wavs import clean_answer, hostile_wavs, send
from tests.verifier.server_process import ServerProcess

FILES = int(os.environ.get("CURATOR_FUZZ", "500"))


@pytest.mark.slow
def test_every_mutated_wav_is_answered_cleanly(server: ServerProcess) -> None:
    answers: Counter[str] = Counter()
    logged = len(server.log.read_text())
    with requests.Session() as session:

        @settings(
            max_examples=FILES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(hostile_wavs())
        def attack(data: bytes) -> None:
            answers[clean_answer(send(session, server.url, data))] += 1
            if answers.total() % 20 == 0:
                assert values(post(server, [wav(0.1)])) == pytest.approx([-20])

        attack()
    assert server.process.poll() is None
    assert values(post(server, [wav(1.0)])) == pytest.approx([0], abs=1e-4)
    assert "Traceback" not in server.log.read_text()[logged:], "an exception was logged"
    # The files are neither all refused for one reason nor all accepted.
    assert answers["200 scored"] > FILES // 50
    assert len(answers) >= 8, answers
