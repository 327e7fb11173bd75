"""Starting late, hanging up and stopping: nothing is lost, and nothing is computed for nobody."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.verifier.asking import answer_to, values, wav
from tests.verifier.server_process import ServerProcess


def test_a_request_to_a_loading_model_is_answered_once_it_is_loaded(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "log", "--models", "slow_to_load") as server:
        assert server.get("/ready").status_code == 503
        response = server.post([wav(1.0)], verifiers=("slow_to_load",))
        assert values(response, "slow_to_load") == pytest.approx([0], abs=1e-4)
        assert server.get("/ready").status_code == 200
        assert server.metric('curator_model_ready{model="slow_to_load"}') == 1


def test_a_server_is_stopped_while_its_model_loads(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "log", "--models", "slow_to_load") as server:
        server.terminate()
        assert server.process.wait(timeout=25) == 0


def test_a_client_that_hangs_up_costs_no_compute(server: ServerProcess) -> None:
    metrics = ('curator_dropped_clips_total{model="fake"}', 'curator_clips_total{model="fake"}')
    before = [server.metric(name) for name in metrics]
    with ThreadPoolExecutor(2) as clients:
        blocked = clients.submit(server.post, [wav()], ["sleep 1"])
        time.sleep(0.3)
        with server.connect(server.raw_post([wav()] * 3)):
            time.sleep(0.3)
        values(blocked.result())
    assert values(server.post([wav()]))
    assert [server.metric(name) - a for name, a in zip(metrics, before, strict=True)] == [3, 2]


def test_an_upload_that_is_cut_off_leaves_the_server_working(server: ServerProcess) -> None:
    gone = 'curator_rejects_total{model="",reason="client_gone"}'
    before = server.metric(gone)
    server.connect(server.raw_post([wav()] * 3)[:-2000]).close()
    assert values(server.post([wav(1.0)])) == pytest.approx([0], abs=1e-4)
    assert server.metric(gone) == before + 1
    assert server.metric("curator_requests_uploading") == 0
    assert server.metric("curator_held_bytes") == 0


def test_sigterm_finishes_what_is_queued_accepts_no_more_and_exits_0(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "log", "--models", "fake", "--batch.max_clips", "1") as server:
        with ThreadPoolExecutor(1) as clients:
            queued = clients.submit(server.post, [wav(1.0)] * 3, ["sleep 0.3"] * 3)
            time.sleep(0.4)
            server.terminate()
            time.sleep(0.2)
            with pytest.raises(requests.ConnectionError):
                server.get("/health")
            assert values(queued.result()) == pytest.approx([0, 0, 0], abs=1e-4)
        assert server.process.wait(timeout=60) == 0
    assert "Traceback" not in server.log.read_text()


def test_sigterm_exits_0_within_its_limit_when_work_is_not_done(tmp_path: Path) -> None:
    options = ("--models", "fake", "--stop_seconds", "1")
    with ServerProcess(tmp_path / "log", *options) as server, ThreadPoolExecutor(1) as clients:
        unfinished = clients.submit(server.post, [wav()], ["sleep 30"])
        with server.connect(server.raw_post([wav()])[:-100]) as incomplete:
            time.sleep(0.4)
            server.terminate()
            for body in (answer_to(incomplete)[1], unfinished.result().json()):
                assert body["error"] == "stopping"
        assert server.process.wait(timeout=25) == 0  # and not after the 30 s of work
    assert "Traceback" not in server.log.read_text()
