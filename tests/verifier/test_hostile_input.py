"""Mutated WAVs against the real server: a finite score or a 422 that names file and reason.

CURATOR_FUZZ sets how many are sent (perf/server_load.py --fuzz writes their counts by answer).
"""

import os
from itertools import count

import pytest

from tests.verifier.asking import values, wav
from tests.verifier.hostile_wavs import attack
from tests.verifier.server_process import ServerProcess

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
