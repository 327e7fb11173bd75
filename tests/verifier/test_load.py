"""The real taggers under a short load: perf/server_load.py is the same for longer, with figures."""

from collections.abc import Iterator

import numpy as np
import pytest

from perf.load_clients import MODELS, TOLERANCE, Crowd, good_requests
from perf.server_load import probing, serial
from tests.verifier.server_process import REAL_MODELS, ServerProcess

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def taggers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("load") / "log"
    with ServerProcess(log, "--models", *MODELS, server=REAL_MODELS) as server:
        server.wait_until_ready()
        yield server
        assert "Traceback" not in server.log.read_text()


def test_everyone_gets_their_own_scores_and_health_answers_at_once(taggers: ServerProcess) -> None:
    asked = good_requests(10)
    crowd = Crowd(taggers.url, asked, serial(taggers.url, asked))
    with probing(taggers.url) as health:
        crowd.run(clients=8, seconds=4)
    assert crowd.wrong == []
    assert crowd.deviation <= TOLERANCE
    assert crowd.answers["good: 200"] >= 8
    assert len(health) > 20
    assert np.quantile(health, 0.99) < 0.25  # 50 ms where nothing else runs on the machine
    assert np.median(health) < 0.05
    assert taggers.metric("curator_requests_scoring") == 0
