"""Scoring requests on their way in: how many, how large, and which of them gives way.

A client that is slow, or pretends to be, must not keep others out. So a place among the requests
that are worked on is taken when the body is complete, not when it begins; incomplete ones are
bounded in number and, with all decoded audio, in bytes; and when either runs out, the upload that
came in most slowly is ended to make room for the others.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from src.server.metrics import Metrics
from src.server.problems import Problem

# No rate can be told of an upload that has only begun.
GRACE_SECONDS = 1.0
UPLOADS_PER_PLACE = 4
CLOSE = {"Connection": "close"}  # else the connection would wait for the rest of the body


class Uploads:
    """All scoring requests of a server. For the event loop's thread only.

    places: complete requests that are worked on at once. max_bytes: of bodies and decoded audio
    held at once. seconds: that one body may take.
    """

    def __init__(self, places: int, max_bytes: int, seconds: float, metrics: Metrics) -> None:
        self.places, self.max_bytes, self.seconds = places, max_bytes, seconds
        self.held = 0
        self._metrics = metrics
        self._incomplete: set[Upload] = set()
        self._complete: set[Upload] = set()

    @contextmanager
    def begin(self) -> Iterator["Upload"]:
        """One request, from its headers to its answer. Raises Problem."""
        self.check_place()
        if len(self._incomplete) >= UPLOADS_PER_PLACE * self.places:
            self._drop_slowest(asking=None)
        upload = Upload(self)
        self._incomplete.add(upload)
        self._show()
        try:
            yield upload
        finally:
            self._forget(upload)
            self._complete.discard(upload)
            self._show()

    def check_place(self) -> None:
        if len(self._complete) >= self.places:
            raise Problem(503, "busy", f"{self.places} requests are in progress", retry_after=1)

    def completed(self, upload: "Upload") -> None:
        """Give a request whose body is complete its place. Raises Problem."""
        self.check_place()
        self._incomplete.discard(upload)
        self._complete.add(upload)
        self._show()

    def make_room(self, size: int, upload: "Upload") -> None:
        """Hold `size` bytes more. Raises Problem when slow uploads that could go are not enough."""
        while self.held + size > self.max_bytes:
            self._drop_slowest(asking=upload)
        self.held += size
        self._metrics.held_bytes.set(self.held)

    def _drop_slowest(self, asking: "Upload | None") -> None:
        now = time.monotonic()
        old = [u for u in self._incomplete if now - u.began >= GRACE_SECONDS]
        slowest = min(old, key=lambda u: u.bytes / (now - u.began), default=None)
        if slowest is None or slowest is asking:
            raise Problem(503, "busy", "no room for more uploads", retry_after=1, headers=CLOSE)
        self._forget(slowest)
        slowest.give_way()

    def _forget(self, upload: "Upload") -> None:
        self._incomplete.discard(upload)
        self.held -= upload.bytes
        upload.bytes = 0
        self._metrics.held_bytes.set(self.held)

    def _show(self) -> None:
        self._metrics.uploading.set(len(self._incomplete))
        self._metrics.scoring.set(len(self._complete))


class Upload:
    """One scoring request and the bytes that it holds: its body, then its decoded audio too."""

    def __init__(self, uploads: Uploads) -> None:
        self.began = time.monotonic()
        self.bytes = 0
        self.complete = False
        self._uploads = uploads
        self._gave_way = False
        self._timeout: asyncio.Timeout | None = None

    def hold(self, size: int) -> None:
        """Count `size` bytes more until the request is answered. Raises Problem."""
        self._check()
        self._uploads.make_room(size, self)
        self.bytes += size

    def take_place(self) -> None:
        """The body is complete. Raises Problem."""
        self._uploads.completed(self)
        self.complete = True

    def give_way(self) -> None:
        """End this upload, which may be waiting for more of its body just now."""
        self._gave_way = True
        if self._timeout is not None:
            self._timeout.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """Waits for more of the body, up to the limit. Raises Problem."""
        self._check()
        left = self.began + self._uploads.seconds - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, left)) as self._timeout:
                yield
        except TimeoutError:
            self._check()
            raise Problem(
                408,
                "too_slow",
                f"the upload took more than {self._uploads.seconds:g} s",
                headers=CLOSE,
            ) from None
        finally:
            self._timeout = None

    def _check(self) -> None:
        if self._gave_way:
            raise Problem(
                503,
                "busy",
                "this upload was slow and gave way to others",
                retry_after=1,
                headers=CLOSE,
            )
