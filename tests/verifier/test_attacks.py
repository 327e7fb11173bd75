"""A server of a real tagger under each attack for a few seconds: others hardly notice.

perf/server_load.py has the figures.
"""

from collections.abc import Iterator

import pytest

from perf.attacks import ATTACKS, goodput, under_attack
from tests.verifier.server_process import REAL_MODELS, ServerProcess

SOCKETS = {"tiny chunks": 4, "many lists": 10, "empty WAV chunks": 2}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("attacked") / "log"
    options = ("--models", "tags", "--max_connections", "500", "--batch.max_clips", "4")
    with ServerProcess(log, *options, server=REAL_MODELS) as server:
        server.wait_until_ready()
        yield server
        assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("name", ATTACKS)
def test_under_attack_health_answers_and_good_requests_are_scored(
    attacked: ServerProcess, name: str
) -> None:
    found = under_attack(attacked, name, SOCKETS.get(name, 1), seconds=3)
    assert found["health p50 ms"] < 250, found
    assert found["good requests"] >= 1, found
    assert found["good requests refused"] <= found["good requests"], found
    assert found["memory MB"] < 1_500, found
    assert found["log kB a second"] < 200, found
    attacked.wait_for("curator_requests_uploading", 0)
    attacked.wait_for("curator_held_bytes", 0)


def test_a_crowd_beyond_the_places_is_scored_nearly_as_fast_as_a_few_clients(
    attacked: ServerProcess,
) -> None:
    few, many = (goodput(attacked.url, clients, seconds=6) for clients in (8, 80))
    assert few > 0
    assert many > 0.5 * few  # 0.7 where nothing else runs on the machine
