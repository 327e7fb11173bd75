"""Bounded queues and micro-batches: one thread per model turns many requests into few model calls.

Clips stand in the queue one by one, each with a future for its score, so that a batch may hold
clips of several requests and a long request may span several batches. A clip whose future is
cancelled, because its client has gone, is dropped before it costs anything. When a batch fails its
clips are tried alone, so that a clip without a score costs no other its own.
"""

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from src.models.adapter import Adapter, ScoreError
from src.protocol import Checkpoint, NoScore, Score, State, VerifierInfo
from src.server.outcomes import ApiError, Metrics
from src.server.settings import ServerSettings
from src.weights.files import WeightsError, why_not_loaded

logger = logging.getLogger(__name__)

# Loading saves and restores what is one for the whole process (random states, names that a library
# looks up while it is imported): models load one after the other.
_loading = threading.Lock()


def forget_unused_memory() -> None:
    """Give back what torch keeps of a GPU's memory, where a GPU is used."""
    if (torch := sys.modules.get("torch")) and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@dataclass(eq=False)
class Queued:
    """A clip, float32 [T] at the model's rate, its place in its request, and its score to come.

    Once it is scored: its seconds in the queue, and its share of its model call.
    """

    samples: np.ndarray
    prompt: str
    index: int
    score: "Future[Score | NoScore]" = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0


class Worker(threading.Thread):
    """A model, its queue and the thread that serves it. The model loads in that thread too."""

    def __init__(self, adapter: Adapter, settings: ServerSettings, metrics: Metrics) -> None:
        super().__init__(name=f"model-{adapter.name}", daemon=True)
        self.adapter = adapter
        self.state: State = "loading"
        self.problem: str | None = None
        self.checkpoint: Checkpoint | None = None  # once it is loaded
        self._settings = settings
        self._metrics = metrics
        self._queue: deque[Queued] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._seconds_per_clip = 0.1
        metrics.ready.labels(adapter.name).set(0)
        metrics.queue_depth.labels(adapter.name).set_function(lambda: len(self._queue))

    def check_ready(self) -> None:
        """Raise ApiError when the model, and with it its tokenizer, is not loaded."""
        if self.state == "failed":
            text = f"{self.adapter.name} did not load: {self.problem}"
            raise self._error(503, "not_ready", text)
        if self.state == "loading":
            text = f"{self.adapter.name} is still loading"
            raise self._error(503, "not_ready", text, retry_after=1)

    def submit(self, clips: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Queued]:
        """Queue a request's clips, float32 [T] each. Cancel a score to drop its clip.

        Raises ApiError when the queue is full or the server stops. So does a score that cannot be
        had, as when the model did not load.
        """
        queued = [Queued(*one) for one in zip(clips, prompts, range(len(clips)), strict=True)]
        with self._changed:
            if self._stopping:
                raise self._error(503, "not_ready", "the server is stopping")
            waiting = sum(not clip.score.cancelled() for clip in self._queue)
            if waiting + len(clips) > self._settings.batch.max_queue:
                text = f"{waiting} clips are waiting for {self.adapter.name}"
                seconds = waiting * self._seconds_per_clip
                raise self._error(503, "queue_full", text, retry_after=seconds)
            self._queue.extend(queued)
            self._changed.notify()
        return queued

    def stop(self, timeout: float) -> bool:
        """Finish what is queued and end the thread; False when that took longer than `timeout`."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self.join(timeout)
        return not self.is_alive()

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
            vocabulary=list(adapter.vocabulary),
        )

    def run(self) -> None:
        name = self.adapter.name
        try:
            with _loading:
                begin = time.monotonic()
                self.checkpoint = self.adapter.load(self._settings.device, self._settings.dtype)
            logger.info("%s: ready after %.1f s", name, time.monotonic() - begin)
        except BaseException as error:  # even SystemExit of a library: the other models go on
            trace = None if isinstance(error, WeightsError) else error
            logger.error("%s: did not load: %s", name, why_not_loaded(error), exc_info=trace)
            self.problem, self.state = why_not_loaded(error), "failed"
        else:
            self.state = "ready"
            self._metrics.ready.labels(name).set(1)
        while batch := self._next_batch():
            self._score(batch)
            del batch  # its clips need not stay until the next one comes

    def _error(self, status: int, error: str, message: str, **more: Any) -> ApiError:
        return ApiError(status, error, message, verifier=self.adapter.name, **more)

    def _fail(self, error: BaseException, clip: Queued) -> None:
        """Set what the client is told of a clip that was tried alone: it has no score, or why the
        whole request fails."""
        name = self.adapter.name
        if isinstance(error, ScoreError):
            logger.info("%s: no score: %s", name, error)
            self._metrics.unscored.labels(name).inc()
            clip.score.set_result(NoScore(reason=str(error)))
        elif isinstance(error, ApiError):
            clip.score.set_exception(error)
        else:
            logger.error("%s: failed: %s", name, error, exc_info=error)
            text = f"{name}: {error}"
            clip.score.set_exception(self._error(500, "verifier_failed", text, index=clip.index))

    def _next_batch(self) -> list[Queued]:
        """Wait for clips and take up to `max_clips` of them; empty when the server stops."""
        limit = min(self._settings.batch.max_clips, self.adapter.max_batch)
        batch: list[Queued] = []
        with self._changed:
            while not batch:
                self._changed.wait_for(lambda: self._queue or self._stopping)
                if not self._queue:
                    break
                left = self._queue[0].submitted + self._settings.batch.max_wait_ms / 1000
                left -= time.monotonic()
                self._changed.wait_for(lambda: len(self._queue) >= limit or self._stopping, left)
                while self._queue and len(batch) < limit:
                    clip = self._queue.popleft()
                    if clip.score.set_running_or_notify_cancel():
                        batch.append(clip)
                    else:
                        self._metrics.dropped.labels(self.adapter.name).inc()
        return batch

    def _score(self, batch: list[Queued]) -> None:
        """Set the scores of a batch that was taken from the queue."""
        name = self.adapter.name
        begin = time.monotonic()
        try:
            self.check_ready()
            scores = self.adapter.score([c.samples for c in batch], [c.prompt for c in batch])
            if len(scores) != len(batch):
                raise RuntimeError(f"{len(scores)} scores for {len(batch)} clips")
        except BaseException as error:  # even SystemExit, which would end this thread in silence
            if len(batch) == 1:
                self._fail(error, batch[0])
                return
            scores = None
        if scores is None:
            # After the handler, when nothing holds on to what the error's traceback held: a batch
            # that was too large for the GPU's memory must be gone before its clips are tried.
            forget_unused_memory()
            for clip in batch:
                self._score([clip])
            return
        seconds = (time.monotonic() - begin) / len(batch)
        self._seconds_per_clip += 0.2 * (seconds - self._seconds_per_clip)
        self._metrics.batch_clips.labels(name).observe(len(batch))
        self._metrics.compute_seconds.labels(name).observe(seconds * len(batch))
        self._metrics.clips.labels(name).inc(len(batch))
        for clip, score in zip(batch, scores, strict=True):
            clip.queue_seconds, clip.compute_seconds = begin - clip.submitted, seconds
            self._metrics.queue_seconds.labels(name).observe(clip.queue_seconds)
            clip.score.set_result(score)
