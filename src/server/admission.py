"""How many uploads there may be, how large, which one is evicted, and who has to come again when.

For the event loop's thread only.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Message, Receive

from src.server.outcomes import ApiError, Metrics
from src.server.settings import ServerSettings


class Admission:
    """Which uploads the server takes.

    A client that is slow, or pretends to be, must not keep others out. So a place among the
    requests that are worked on is taken when the body is complete, not when it begins. Incomplete
    ones count from their first byte on; they are bounded in number and, with all decoded audio, in
    bytes; and when either runs out, the upload that came in most slowly is evicted to make room.
    """

    UPLOADS_PER_PLACE = 16
    GRACE_SECONDS = 1.0  # the rate of an upload that has only begun says nothing

    def __init__(self, settings: ServerSettings, metrics: Metrics) -> None:
        self.places, self.max_bytes = settings.max_requests, settings.max_held_bytes
        self.seconds = settings.upload_seconds
        self._uploads: set[Upload] = set()
        self._service_seconds = 0.0  # from a complete body to its answer, of late
        metrics.uploading.set_function(lambda: len(self._incomplete()))
        metrics.scoring.set_function(lambda: len(self._complete()))
        metrics.held_bytes.set_function(self._held)

    @asynccontextmanager
    async def admit(self, receive: Receive, max_body_bytes: int) -> AsyncIterator["Upload"]:
        """One request, from its headers to its answer. Raises ApiError."""
        self.check_place()
        upload = Upload(self, receive, max_body_bytes)
        try:
            async with upload.timeout:
                yield upload
        except TimeoutError:
            if not upload.timeout.expired():
                raise
            if upload.evicted:
                text = "this upload was slow and gave way to others"
                raise ApiError(503, "busy", text, retry_after=1) from None
            text = f"the upload took more than {self.seconds:g} s"
            raise ApiError(408, "too_slow", text) from None
        finally:
            self._uploads.discard(upload)
            if upload.completed is not None:
                taken = time.monotonic() - upload.completed
                self._service_seconds += 0.1 * (taken - self._service_seconds)

    def check_place(self) -> None:
        """Raise ApiError when every place is taken."""
        complete = self._complete()
        if len(complete) >= self.places:
            # By then as many places have become free as there are, by Little's law.
            oldest = time.monotonic() - min(complete)
            seconds = max(self._service_seconds, oldest)
            text = f"{self.places} requests are in progress"
            raise ApiError(503, "busy", text, retry_after=seconds)

    def begin(self, upload: "Upload") -> None:
        """Count an upload of which a part has come. Raises ApiError."""
        is_new = upload not in self._uploads and upload.completed is None
        if is_new and len(self._incomplete()) >= self.UPLOADS_PER_PLACE * self.places:
            self._evict_slowest(asking=None)
        self._uploads.add(upload)

    def make_room(self, size: int, asking: "Upload") -> None:
        """Room for `size` bytes more. Raises ApiError when evicting slow uploads is not enough."""
        while self._held() + size > self.max_bytes:
            self._evict_slowest(asking)

    def _evict_slowest(self, asking: "Upload | None") -> None:
        now = time.monotonic()
        old = [u for u in self._incomplete() if now - u.began >= self.GRACE_SECONDS]
        slowest = min(old, key=lambda u: u.bytes / (now - u.began), default=None)
        if slowest is None or slowest is asking:
            raise ApiError(503, "busy", "no room for more uploads", retry_after=1)
        self._uploads.remove(slowest)
        slowest.evicted = True
        slowest.timeout.reschedule(0)

    def _incomplete(self) -> list["Upload"]:
        return [upload for upload in self._uploads if upload.completed is None]

    def _complete(self) -> list[float]:
        """When each upload that is complete was."""
        return [u.completed for u in self._uploads if u.completed is not None]

    def _held(self) -> int:
        return sum(upload.bytes for upload in self._uploads)


class Upload:
    """One scoring request and the bytes that it holds: its body, then its decoded audio too.

    timeout: ends the request; none once its body is complete. began, completed: when its body did
    and was, by the monotonic clock; completed is None until then.
    """

    def __init__(self, admission: Admission, receive: Receive, max_body_bytes: int) -> None:
        self.began = time.monotonic()
        self.completed: float | None = None
        self.bytes = 0
        self.evicted = False
        self.timeout = asyncio.timeout(admission.seconds)
        self._admission = admission
        self._receive = receive
        self._max_body_bytes = max_body_bytes

    async def receive(self) -> Message:
        """The next part of the body, within the limits. Raises ApiError."""
        message = await self._receive()
        if self.completed is not None:  # it has been read; this is the client going
            return message
        if message["type"] != "http.request":
            raise ApiError(499, "client_gone", "the client hung up before its upload was complete")
        if not self.bytes:
            self.began = time.monotonic()
        is_last = not message.get("more_body", False)
        if is_last:
            self._admission.check_place()
        self.hold(len(message.get("body", b"")))
        if self.bytes > self._max_body_bytes:  # one that did not say its length
            raise too_large(self._max_body_bytes)
        if is_last:
            self.completed = time.monotonic()
            self.timeout.reschedule(None)
        self._admission.begin(self)
        return message

    def hold(self, size: int) -> None:
        """Count `size` bytes more until the request is answered. Raises ApiError."""
        self._admission.make_room(size, asking=self)
        self.bytes += size


def too_large(limit: int) -> ApiError:
    return ApiError(413, "too_large", f"a body has at most {limit} bytes")
