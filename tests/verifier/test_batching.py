"""A worker's queue and batches, with an adapter that records its calls."""

import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from src.models.adapter import Adapter, finite_score
from src.protocol import Checkpoint, Score
from src.server.batching import (
    BatchSettings,
    ClipFailed,
    Job,
    Metrics,
    ModelFailed,
    QueueFull,
    Worker,
)


class Recorder(Adapter):
    """Scores a clip by its first sample, once `go` is set; fails on negative ones."""

    summary = licence = ""
    sample_rate = 16_000
    needs_text = False
    max_batch = 8

    def __init__(self) -> None:
        super().__init__("recorder")
        self.go = threading.Event()
        self.calls: list[list[float]] = []

    def load(self, device: str, dtype: str = "float32") -> Checkpoint:
        return Checkpoint(name="recorder", sha256="00")

    def score(self, clips: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Score]:
        assert self.go.wait(5)
        self.calls.append([float(clip[0]) for clip in clips])
        if any(clip[0] < 0 for clip in clips):
            raise RuntimeError("out of memory")
        return [finite_score(float(clip[0]), {}) for clip in clips]


@pytest.fixture
def adapter() -> Recorder:
    return Recorder()


@pytest.fixture
def worker(adapter: Recorder) -> Iterator[Worker]:
    worker = Worker(adapter, "cpu", BatchSettings(max_wait_ms=1, max_queue=20), Metrics())
    worker.start()
    while worker.state == "loading":
        time.sleep(0.001)
    yield worker
    adapter.go.set()
    assert worker.stop(5)


def submit(worker: Worker, *values: float) -> Job:
    return worker.submit([np.full(4, value, np.float32) for value in values], ["any"] * len(values))


def scores(job: Job) -> list[float]:
    return [score.value for score in job.result.result(5).scores]


def occupy(worker: Worker) -> Job:
    """A job that the model has begun, so that what comes after it queues."""
    job = submit(worker, 0.0)
    while job.started is None:
        time.sleep(0.001)
    return job


def test_waiting_jobs_share_batches_and_long_jobs_span_them(
    worker: Worker, adapter: Recorder
) -> None:
    first = occupy(worker)
    jobs = [submit(worker, 1, 2, 3), submit(worker, *range(10, 20)), submit(worker, 4)]
    adapter.go.set()
    assert scores(first) == [0]
    assert [scores(job) for job in jobs] == [[1, 2, 3], list(range(10, 20)), [4]]
    assert adapter.calls == [[0], [1, 2, 3, *range(10, 15)], [*range(15, 20), 4]]


def test_a_lone_job_waits_no_longer_than_it_is_told(adapter: Recorder) -> None:
    worker = Worker(adapter, "cpu", BatchSettings(max_wait_ms=100), Metrics())
    adapter.go.set()
    worker.start()
    begin = time.monotonic()
    assert scores(submit(worker, 1)) == [1]
    assert 0.1 <= time.monotonic() - begin < 1
    worker.stop(5)


def test_a_full_queue_refuses_and_takes_jobs_again_once_there_is_room(
    worker: Worker, adapter: Recorder
) -> None:
    occupy(worker)
    waiting = submit(worker, *range(18))
    with pytest.raises(QueueFull) as caught:
        submit(worker, 1, 2, 3)
    assert 1 <= caught.value.retry_after <= 60
    fits = submit(worker, 1, 2)
    waiting.result.cancel()
    after = submit(worker, 7, 8, 9)
    adapter.go.set()
    assert (scores(fits), scores(after)) == ([1, 2], [7, 8, 9])


def test_stopping_finishes_what_is_queued_and_takes_no_more(
    worker: Worker, adapter: Recorder
) -> None:
    occupy(worker)
    queued = submit(worker, 1, 2)
    stopping = threading.Thread(target=worker.stop, args=(5,))
    stopping.start()
    while not worker._stopping:
        time.sleep(0.001)
    with pytest.raises(ModelFailed, match="stopping"):
        submit(worker, 3)
    adapter.go.set()
    assert scores(queued) == [1, 2]
    stopping.join(5)


def test_jobs_that_wait_for_a_model_that_does_not_load_are_told(adapter: Recorder) -> None:
    loading = threading.Event()

    def load(device: str, dtype: str) -> Checkpoint:
        loading.wait(5)
        raise FileNotFoundError("weights.safetensors")

    adapter.load = load  # type: ignore[method-assign]
    worker = Worker(adapter, "cpu", BatchSettings(), Metrics())
    worker.start()
    job = submit(worker, 1)
    loading.set()
    with pytest.raises(ModelFailed, match=r"weights\.safetensors"):
        job.result.result(5)
    with pytest.raises(ModelFailed, match=r"weights\.safetensors"):
        submit(worker, 1)
    assert worker.info().state == "failed"


def test_queue_and_compute_seconds_are_a_jobs_own(worker: Worker, adapter: Recorder) -> None:
    occupy(worker)
    job = submit(worker, 1)
    time.sleep(0.2)
    adapter.go.set()
    result = job.result.result(5)
    assert result.queue_seconds >= 0.2
    assert result.compute_seconds < 0.1


def test_a_library_that_exits_fails_its_clip_and_not_the_thread(
    worker: Worker, adapter: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = adapter.score

    def exits(clips: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Score]:
        if clips[0][0] == 13:
            raise SystemExit(1)
        return score(clips, prompts)

    monkeypatch.setattr(adapter, "score", exits)
    adapter.go.set()
    with pytest.raises(ClipFailed):
        submit(worker, 13).result.result(5)
    assert scores(submit(worker, 1)) == [1]
