"""One run and several servers, in processes of their own."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from src.client import ServerClient, check_alike
from src.connection import ServerError
from src.data.audio import Clip
from tests.verifier.server_process import ServerProcess, wav

LEVELS = [0.1, 0.2, 0.4]
CLIPS = [Clip(np.full((1, 3200), level, np.float32), 16_000) for level in LEVELS]
DECIBELS = [20 * np.log10(level) for level in LEVELS]


@pytest.fixture
def other(tmp_path: Path, server: ServerProcess) -> Iterator[ServerProcess]:
    """One more, with room for two requests."""
    options = ("--models", "fake", "--max_requests", "2")
    with ServerProcess(tmp_path / "log", *options) as other:
        other.wait_until_ready()
        yield other


def scores(client: ServerClient, prompt: str = "any") -> list[float]:
    known = client.checkpoints(["fake"])
    found = client.score(known, [prompt] * len(CLIPS), CLIPS)["fake"].scores
    return [score.value for score in found]  # type: ignore[union-attr]


def test_a_server_that_is_killed_costs_a_run_nothing(
    server: ServerProcess, other: ServerProcess
) -> None:
    client = ServerClient([server.url, other.url])
    with ThreadPoolExecutor(2) as pool:

        def search(client: ServerClient) -> list[list[float]]:
            return [scores(client, "sleep 0.02") for _ in range(20)]

        searches = [pool.submit(search, client.another()) for _ in range(2)]
        other.wait_for('curator_clips_total{model="fake"}', 6)
        other.process.kill()
        found = [found for search in searches for found in search.result()]
    assert len(found) == 40
    assert all(values == pytest.approx(DECIBELS) for values in found)


def test_a_server_that_others_fill_is_left_to_them(
    server: ServerProcess, other: ServerProcess
) -> None:
    client = ServerClient([server.url, other.url])
    with ThreadPoolExecutor(2) as pool:
        held = [pool.submit(other.post, [wav()], ["sleep 4"]) for _ in range(2)]
        other.wait_for("curator_requests_scoring", 2)
        assert all(scores(client) == pytest.approx(DECIBELS) for _ in range(6))
        assert other.metric("curator_requests_scoring") == 2
        assert [answer.result().status_code for answer in held] == [200, 200]
    assert other.metric('curator_clips_total{model="fake"}') == 2


def test_a_server_with_other_weights_ends_a_run_before_and_after_it_has_begun(
    server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WEIGHTS", "ff")
    with ServerProcess(tmp_path / "log", "--models", "fake") as other:
        differ = rf"{server.url} and {other.url} differ in checkpoint of fake: .*00.*ff"
        with pytest.raises(ServerError, match=differ):
            check_alike([server.url, other.url], None, ["fake"])
        known = ServerClient(server.url).checkpoints(["fake"])
        client = ServerClient([server.url, other.url])
        with pytest.raises(ServerError, match=rf"{other.url} now scores fake with other weights"):
            _ = [client.score(known, ["any"] * len(CLIPS), CLIPS) for _ in range(2)]
