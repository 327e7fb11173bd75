"""One run and several servers, in processes of their own."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from src.client import ServerClient, ServerError
from src.data.audio import Clip
from tests.verifier.server_process import ServerProcess, wav

LEVELS = [0.1, 0.2, 0.4]
CLIPS = [Clip(np.full((1, 3200), level, np.float32), 16_000) for level in LEVELS]
DECIBELS = [20 * np.log10(level) for level in LEVELS]


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[ServerProcess]]:
    started = [
        ServerProcess(tmp_path / f"log{n}", "--models", "fake", "--max_requests", "2")
        for n in range(3)
    ]
    with ExitStack() as stack:
        for server in started:
            stack.enter_context(server)
            server.wait_until_ready()
        yield started


def scores(client: ServerClient, prompt: str = "any") -> list[float]:
    known = client.checkpoints(["fake"])
    found = client.score(known, [prompt] * len(CLIPS), CLIPS)["fake"].scores
    return [score.value for score in found]  # type: ignore[union-attr]


def test_a_server_that_is_killed_costs_a_run_nothing_and_the_others_share_its_work(
    three: list[ServerProcess],
) -> None:
    client = ServerClient([server.url for server in three])
    client.check_alike(["fake"])
    with ThreadPoolExecutor(2) as pool:
        own = [client.another(), client.another()]

        def search(client: ServerClient) -> list[list[float]]:
            return [scores(client, "sleep 0.02") for _ in range(20)]

        searches = [pool.submit(search, client) for client in own]
        time.sleep(0.5)
        three[0].process.kill()
        found = [found for search in searches for found in search.result()]
    assert len(found) == 40
    assert all(values == pytest.approx(DECIBELS) for values in found)
    clips = [server.metric('curator_clips_total{model="fake"}') for server in three[1:]]
    assert min(clips) > 20
    assert sum(clips) > 60


def test_a_server_that_others_fill_is_left_to_them(three: list[ServerProcess]) -> None:
    full = three[0]
    client = ServerClient([server.url for server in three])
    with ThreadPoolExecutor(2) as pool:
        held = [pool.submit(full.post, [wav()], ["sleep 4"]) for _ in range(2)]
        full.wait_for("curator_requests_scoring", 2)
        begin = time.monotonic()
        assert all(scores(client) == pytest.approx(DECIBELS) for _ in range(12))
        assert time.monotonic() - begin < 4
        assert full.metric('curator_rejects_total{model="",reason="busy"}') >= 1
        assert [answer.result().status_code for answer in held] == [200, 200]


def test_a_server_with_other_weights_ends_a_run_before_and_after_it_has_begun(
    three: list[ServerProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WEIGHTS", "ff")
    with ServerProcess(tmp_path / "log", "--models", "fake", "--max_requests", "2") as other:
        client = ServerClient([three[0].url, other.url])
        differ = rf"{three[0].url} and {other.url} differ in the checkpoint of fake: .*00.*ff"
        with pytest.raises(ServerError, match=differ):
            client.check_alike(["fake"])
        known = ServerClient(three[0].url).checkpoints(["fake"])
        with pytest.raises(ServerError, match=rf"{other.url} now scores fake with other weights"):
            _ = [client.score(known, ["any"] * len(CLIPS), CLIPS) for _ in range(2)]
