"""Bounded queues and micro-batches: one thread per model turns many requests into few model calls.

A request's clips stand in the queue one by one, so that a batch may hold clips of several requests
and a long request may span several batches. A job whose client has gone is cancelled and its clips
are dropped before they cost anything. When a batch fails its clips are tried alone, so that only
the request with the bad clip fails.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field

import numpy as np

from src.models.adapter import Adapter, ScoreError
from src.protocol import Checkpoint, Score, State, VerifierInfo, VerifierResult
from src.server.metrics import Metrics
from src.weights.files import WeightsError, why_not_loaded

logger = logging.getLogger(__name__)

# Loading saves and restores what is one for the whole process (random states, names that a library
# looks up while it is imported): models load one after the other.
_loading = threading.Lock()


class QueueFull(RuntimeError):
    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds


class ModelFailed(RuntimeError):
    """The model did not load, or is stopping: no clip of any request can be scored."""


class ClipFailed(RuntimeError):
    """One clip of a job could not be scored."""

    def __init__(self, message: str, index: int, no_score: bool) -> None:
        super().__init__(message)
        self.index = index
        self.no_score = no_score  # the model worked and gave no finite number


@dataclass(frozen=True)
class BatchSettings:
    #: Clips in one model call at most; 1 for no batching.
    max_clips: int = 32
    #: Milliseconds that a clip may wait for others to share its call.
    max_wait_ms: float = 5.0
    #: Clips that may wait for one model; requests beyond it are answered with 503.
    max_queue: int = 1024


@dataclass(eq=False)
class Job:
    """One request's clips for one model: float32 [T] each, with a prompt each."""

    clips: Sequence[np.ndarray]
    prompts: Sequence[str]
    result: "Future[VerifierResult]" = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)
    started: float | None = None
    compute_seconds: float = 0.0
    scores: dict[int, Score] = field(default_factory=dict)


class Worker:
    """A model, its queue and the thread that serves it. The model loads in that thread too."""

    def __init__(
        self,
        adapter: Adapter,
        device: str,
        settings: BatchSettings,
        metrics: Metrics,
        dtype: str = "float32",
    ) -> None:
        self.adapter = adapter
        self.state: State = "loading"
        self.problem: str | None = None
        self.checkpoint: Checkpoint | None = None
        self._device = device
        self._dtype = dtype
        self._settings = settings
        self._metrics = metrics
        metrics.add_model(adapter.name)
        self._queue: deque[tuple[Job, int]] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._seconds_per_clip = 0.1
        self._thread = threading.Thread(target=self._run, name=f"model-{adapter.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, clips: Sequence[np.ndarray], prompts: Sequence[str]) -> Job:
        """Queue a job, or raise QueueFull or ModelFailed. Cancel `job.result` to drop it."""
        job = Job(clips, prompts)
        with self._changed:
            if self.state == "failed":
                raise ModelFailed(f"{self.adapter.name} did not load: {self.problem}")
            if self._stopping:
                raise ModelFailed("the server is stopping")
            self._drop_cancelled()
            waiting = len(self._queue)
            if waiting + len(clips) > self._settings.max_queue:
                seconds = math.ceil(waiting * self._seconds_per_clip)
                raise QueueFull(
                    f"{waiting} clips are waiting for {self.adapter.name}", min(max(seconds, 1), 60)
                )
            self._queue.extend((job, index) for index in range(len(clips)))
            self._show_depth()
            self._changed.notify()
        return job

    def stop(self, timeout: float) -> bool:
        """Finish what is queued and end the thread; False when that took longer than `timeout`."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def info(self) -> VerifierInfo:
        adapter = self.adapter
        return VerifierInfo(
            name=adapter.name,
            state=self.state,
            problem=self.problem,
            checkpoint=self.checkpoint,
            sample_rate=adapter.sample_rate,
            needs_text=adapter.needs_text,
            summary=adapter.summary,
            licence=adapter.licence,
            vocabulary=list(adapter.vocabulary()),
        )

    def _run(self) -> None:
        name = self.adapter.name
        try:
            with _loading:
                begin = time.monotonic()
                self.checkpoint = self.adapter.load(self._device, self._dtype)
            logger.info("%s: ready after %.1f s", name, time.monotonic() - begin)
        except BaseException as error:  # even SystemExit of a library: the other models go on
            trace = None if isinstance(error, WeightsError) else error
            logger.error("%s: did not load: %s", name, why_not_loaded(error), exc_info=trace)
            with self._changed:
                self.state, self.problem = "failed", why_not_loaded(error)
                failed, self._queue = self._queue, deque()
                self._show_depth()
            for job, _ in failed:
                _finish(job, ModelFailed(f"{name} did not load: {self.problem}"))
            return
        self.state = "ready"
        self._metrics.ready.labels(name).set(1)
        while batch := self._next_batch():
            self._score(batch)
            del batch  # its clips need not stay until the next one comes

    def _next_batch(self) -> list[tuple[Job, int]]:
        """Wait for clips and take up to `max_clips` of them; empty when the server stops."""
        limit = min(self._settings.max_clips, self.adapter.max_batch)
        with self._changed:
            while True:
                self._drop_cancelled()
                if self._queue:
                    oldest = self._queue[0][0].submitted
                    left = oldest + self._settings.max_wait_ms / 1000 - time.monotonic()
                    if len(self._queue) >= limit or left <= 0 or self._stopping:
                        break
                    self._changed.wait(left)
                elif self._stopping:
                    return []
                else:
                    self._changed.wait()
            batch = [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]
            self._show_depth()
            return batch

    def _drop_cancelled(self) -> None:
        kept = deque(item for item in self._queue if not item[0].result.done())
        if dropped := len(self._queue) - len(kept):
            self._metrics.dropped.labels(self.adapter.name).inc(dropped)
            self._queue = kept
            self._show_depth()

    def _show_depth(self) -> None:
        self._metrics.queue_depth.labels(self.adapter.name).set(len(self._queue))

    def _score(self, batch: list[tuple[Job, int]]) -> None:
        name = self.adapter.name
        begin = time.monotonic()
        for job, _ in batch:
            if job.started is None:
                job.started = begin
                self._metrics.queue_seconds.labels(name).observe(begin - job.submitted)
        scores = self._scores(batch)
        if scores is None:
            return
        seconds = (time.monotonic() - begin) / len(batch)
        self._seconds_per_clip += 0.2 * (seconds - self._seconds_per_clip)
        self._metrics.batch_clips.labels(name).observe(len(batch))
        self._metrics.compute_seconds.labels(name).observe(seconds * len(batch))
        self._metrics.clips.labels(name).inc(len(batch))
        for (job, index), score in zip(batch, scores, strict=True):
            job.scores[index] = score
            job.compute_seconds += seconds
            if len(job.scores) == len(job.clips):
                _finish(job, self._result(job))

    def _scores(self, batch: list[tuple[Job, int]]) -> list[Score] | None:
        """The batch's scores; None when it failed and its clips were tried one by one instead."""
        try:
            scores = self.adapter.score(
                [job.clips[index] for job, index in batch],
                [job.prompts[index] for job, index in batch],
            )
            if len(scores) != len(batch):
                raise RuntimeError(f"{len(scores)} scores for {len(batch)} clips")
            return scores
        except BaseException as error:  # even SystemExit, which would end this thread in silence
            failure = error
        if len(batch) > 1:
            for item in batch:
                if not item[0].result.done():
                    self._score([item])
            return None
        job, index = batch[0]
        no_score = isinstance(failure, ScoreError)
        logger.error("%s: no score: %s", self.adapter.name, failure, exc_info=failure)
        _finish(job, ClipFailed(f"{self.adapter.name}: {failure}", index, no_score))
        return None

    def _result(self, job: Job) -> VerifierResult:
        assert self.checkpoint is not None
        assert job.started is not None
        return VerifierResult(
            checkpoint=self.checkpoint,
            scores=[job.scores[index] for index in range(len(job.clips))],
            queue_seconds=job.started - job.submitted,
            compute_seconds=job.compute_seconds,
        )


def _finish(job: Job, outcome: VerifierResult | Exception) -> None:
    try:
        if isinstance(outcome, Exception):
            job.result.set_exception(outcome)
        else:
            job.result.set_result(outcome)
    except InvalidStateError:  # cancelled, or failed by an earlier clip of the same batch
        pass
