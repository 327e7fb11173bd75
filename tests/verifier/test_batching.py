"""A worker's queue and batches, with an adapter that records its calls."""

import threading
import time
import weakref
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from src.models.adapter import Adapter, finite_score
from src.protocol import Checkpoint, Score
from src.server.batching import Queued, Worker
from src.server.outcomes import ApiError, Metrics
from src.server.settings import BatchSettings, ServerSettings


class Recorder(Adapter):
    """Scores a clip by its first sample, once `go` is set; 13 ends the interpreter."""

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
        if clips[0][0] == 13:
            raise SystemExit(1)
        return [finite_score(float(clip[0]), {}) for clip in clips]


class Recorded(Worker):
    """A worker of a Recorder, running."""

    def __init__(self, **settings: float) -> None:
        self.recorder = Recorder()
        batch = BatchSettings(**settings)  # type: ignore[arg-type]
        super().__init__(self.recorder, ServerSettings(device="cpu", batch=batch), Metrics())
        self.start()


@pytest.fixture
def worker() -> Iterator[Recorded]:
    worker = Recorded(max_wait_ms=1, max_queue=20)
    while worker.state == "loading":
        time.sleep(0.001)
    yield worker
    worker.recorder.go.set()
    assert worker.stop(5)


def submit(worker: Worker, *values: float) -> list[Queued]:
    return worker.submit([np.full(4, value, np.float32) for value in values], ["any"] * len(values))


def scores(clips: list[Queued]) -> list[float]:
    return [clip.score.result(5).value for clip in clips]


def occupy(worker: Worker) -> list[Queued]:
    """A clip that the model has begun, so that what comes after it queues."""
    clips = submit(worker, 0.0)
    while not clips[0].score.running():
        time.sleep(0.001)
    return clips


def test_waiting_requests_share_batches_and_long_ones_span_them(worker: Recorded) -> None:
    first = occupy(worker)
    requests = [submit(worker, 1, 2, 3), submit(worker, *range(10, 20)), submit(worker, 4)]
    worker.recorder.go.set()
    assert scores(first) == [0]
    assert [scores(clips) for clips in requests] == [[1, 2, 3], list(range(10, 20)), [4]]
    assert worker.recorder.calls == [[0], [1, 2, 3, *range(10, 15)], [*range(15, 20), 4]]


def test_a_lone_clip_waits_no_longer_than_the_setting() -> None:
    worker = Recorded(max_wait_ms=100)
    worker.recorder.go.set()
    begin = time.monotonic()
    assert scores(submit(worker, 1)) == [1]
    assert 0.1 <= time.monotonic() - begin < 1
    worker.stop(5)


def test_a_full_queue_refuses_and_takes_clips_again_once_there_is_room(worker: Recorded) -> None:
    occupy(worker)
    waiting = submit(worker, *range(18))
    with pytest.raises(ApiError) as caught:
        submit(worker, 1, 2, 3)
    assert caught.value.body.error == "queue_full"
    assert 1 <= int((caught.value.headers or {})["Retry-After"]) <= 60
    fits = submit(worker, 1, 2)
    for clip in waiting:
        clip.score.cancel()
    after = submit(worker, 7, 8, 9)
    worker.recorder.go.set()
    assert (scores(fits), scores(after)) == ([1, 2], [7, 8, 9])


def test_stopping_finishes_what_is_queued_and_takes_no_more(worker: Recorded) -> None:
    occupy(worker)
    queued = submit(worker, 1, 2)
    assert not worker.stop(0.01)
    with pytest.raises(ApiError, match="stopping"):
        submit(worker, 3)
    worker.recorder.go.set()
    assert scores(queued) == [1, 2]


def test_clips_that_wait_for_a_model_that_does_not_load_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loading = threading.Event()

    def load(*_: object) -> Checkpoint:
        loading.wait(5)
        raise FileNotFoundError("weights.safetensors")

    monkeypatch.setattr(Recorder, "load", load)
    worker = Recorded()
    waiting = submit(worker, 1)
    loading.set()
    for clips in (waiting, None):
        with pytest.raises(ApiError, match=r"weights\.safetensors"):
            scores(clips or submit(worker, 1))
    assert worker.info().state == "failed"


def test_queue_and_compute_seconds_are_a_clips_own(worker: Recorded) -> None:
    occupy(worker)
    (clip,) = submit(worker, 1)
    time.sleep(0.2)
    worker.recorder.go.set()
    assert scores([clip]) == [1]
    assert clip.queue_seconds >= 0.2
    assert 0 < clip.compute_seconds < 0.1


def test_what_a_failed_batch_held_is_gone_before_its_clips_are_tried_alone(
    worker: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch too large for a GPU's memory would leave too little for each of its clips too."""
    held: list[weakref.ref[np.ndarray]] = []
    left: list[bool] = []

    def score(clips: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Score]:
        left.append(any(array() is not None for array in held))
        activations = np.zeros(1000)
        held.append(weakref.ref(activations))
        if len(clips) > 1:
            raise MemoryError("CUDA out of memory")
        return [finite_score(float(clip[0]), {}) for clip in clips]

    occupied = occupy(worker)
    monkeypatch.setattr(worker.recorder, "score", score)
    clips = submit(worker, 1, 2, 3)
    worker.recorder.go.set()
    assert scores(occupied) == [0]
    assert scores(clips) == [1, 2, 3]
    assert left == [False] * 4


def test_a_library_that_exits_fails_its_clip_and_not_the_thread(worker: Recorded) -> None:
    worker.recorder.go.set()
    with pytest.raises(ApiError) as caught:
        scores(submit(worker, 13))
    assert caught.value.body.error == "verifier_failed"
    assert scores(submit(worker, 1)) == [1]
