"""What a request passes before its body is read, and what it is answered when it is refused.

    IntakeMiddleware   request id, token, limits; every error's answer; access log and metrics
    Admission          how many uploads there may be, how large, and which one is evicted

Plain ASGI, because it has to act before FastAPI parses a form. Classes that hold state are for the
event loop's thread only.
"""

import asyncio
import hmac
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src import protocol
from src.server.outcomes import CLOSE, ApiError, Metrics, as_api_error, shown
from src.server.settings import LOCAL_HOSTS, ServerSettings

logger = logging.getLogger(__name__)

MAX_JSON_BYTES = 2**22
_OPEN_PATHS = (protocol.HEALTH_PATH, protocol.READY_PATH, "/docs", "/openapi.json")
_KNOWN_PATHS = (
    *(protocol.SCORE_PATH, protocol.TEXTS_PATH, protocol.VERIFIERS_PATH, protocol.METRICS_PATH),
    *_OPEN_PATHS,
)
METHOD_CHARS, LOGGED_CHARS = 16, 200
_GOOD_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Admission:
    """Which uploads the server takes.

    A client that is slow, or pretends to be, must not keep others out. So a place among the
    requests that are worked on is taken when the body is complete, not when it begins; incomplete
    ones are bounded in number and, with all decoded audio, in bytes; and when either runs out, the
    upload that came in most slowly is evicted to make room for the others.
    """

    UPLOADS_PER_PLACE = 4
    GRACE_SECONDS = 1.0  # the rate of an upload that has only begun says nothing

    def __init__(self, settings: ServerSettings, metrics: Metrics) -> None:
        self.places, self.max_bytes = settings.max_requests, settings.max_held_bytes
        self.seconds = settings.upload_seconds
        self._uploads: set[Upload] = set()
        metrics.uploading.set_function(lambda: len(self._incomplete()))
        metrics.scoring.set_function(self._complete)
        metrics.held_bytes.set_function(self._held)

    @asynccontextmanager
    async def admit(self, receive: Receive, max_body_bytes: int) -> AsyncIterator["Upload"]:
        """One request, from its headers to its answer. Raises ApiError."""
        self.check_place()
        if len(self._incomplete()) >= self.UPLOADS_PER_PLACE * self.places:
            self._evict_slowest(asking=None)
        upload = Upload(self, receive, max_body_bytes)
        self._uploads.add(upload)
        try:
            async with upload.timeout:
                yield upload
        except TimeoutError:
            if not upload.timeout.expired():
                raise
            if upload in self._uploads:
                text = f"the upload took more than {self.seconds:g} s"
                raise ApiError(408, "too_slow", text, headers=CLOSE) from None
            text = "this upload was slow and gave way to others"
            raise ApiError(503, "busy", text, retry_after=1, headers=CLOSE) from None
        finally:
            self._uploads.discard(upload)

    def check_place(self) -> None:
        """Raise ApiError when every place is taken."""
        if self._complete() >= self.places:
            raise ApiError(503, "busy", f"{self.places} requests are in progress", retry_after=1)

    def make_room(self, size: int, asking: "Upload") -> None:
        """Room for `size` bytes more. Raises ApiError when evicting slow uploads is not enough."""
        while self._held() + size > self.max_bytes:
            self._evict_slowest(asking)

    def _evict_slowest(self, asking: "Upload | None") -> None:
        now = time.monotonic()
        old = [u for u in self._incomplete() if now - u.began >= self.GRACE_SECONDS]
        slowest = min(old, key=lambda u: u.bytes / (now - u.began), default=None)
        if slowest is None or slowest is asking:
            raise ApiError(503, "busy", "no room for more uploads", retry_after=1, headers=CLOSE)
        self._uploads.remove(slowest)
        slowest.timeout.reschedule(0)

    def _incomplete(self) -> list["Upload"]:
        return [upload for upload in self._uploads if not upload.complete]

    def _complete(self) -> int:
        return sum(upload.complete for upload in self._uploads)

    def _held(self) -> int:
        return sum(upload.bytes for upload in self._uploads)


class Upload:
    """One scoring request and the bytes that it holds: its body, then its decoded audio too.

    timeout: ends the request; none once its body is complete.
    """

    def __init__(self, admission: Admission, receive: Receive, max_body_bytes: int) -> None:
        self.began = time.monotonic()
        self.bytes = 0
        self.complete = False
        self.timeout = asyncio.timeout(admission.seconds)
        self._admission = admission
        self._receive = receive
        self._max_body_bytes = max_body_bytes

    async def receive(self) -> Message:
        """The next part of the body, within the limits. Raises ApiError."""
        message = await self._receive()
        if self.complete:  # it has been read; this is the client going
            return message
        if message["type"] != "http.request":
            raise ApiError(499, "client_gone", "the client hung up before its upload was complete")
        self.hold(len(message.get("body", b"")))
        if self.bytes > self._max_body_bytes:  # one that did not say its length
            raise _too_large(self._max_body_bytes)
        if not message.get("more_body", False):
            self._admission.check_place()
            self.complete = True
            self.timeout.reschedule(None)
        return message

    def hold(self, size: int) -> None:
        """Count `size` bytes more until the request is answered. Raises ApiError."""
        self._admission.make_room(size, asking=self)
        self.bytes += size


def _too_large(limit: int) -> ApiError:
    return ApiError(413, "too_large", f"a body has at most {limit} bytes")


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


class IntakeMiddleware:
    """ASGI middleware: request ids, token, uploads, errors, access log."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics
        self.admission = Admission(settings, metrics)
        # By path that takes uploads; of another path's body nothing is read.
        self.max_body_bytes = {
            protocol.SCORE_PATH: settings.limits.max_body_bytes,
            protocol.TEXTS_PATH: MAX_JSON_BYTES,
        }
        self._hosts = (*LOCAL_HOSTS, settings.host.lower()) if settings.is_local else None
        self._expected = f"bearer {settings.token}".encode() if settings.token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begin = time.monotonic()
        headers = Headers(scope=scope)
        given = headers.get(protocol.REQUEST_ID_HEADER, "")
        request_id = given if _GOOD_ID.fullmatch(given) else uuid.uuid4().hex[:16]
        scope.setdefault("state", {})["request_id"] = request_id
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[protocol.REQUEST_ID_HEADER] = request_id
            await send(message)

        try:
            await self._serve(scope, headers, receive, send_with_id)
        except (Exception, asyncio.CancelledError) as error:
            if status is not None:  # an answer has begun: it cannot be another one
                raise
            await self._refuse(error, request_id)(scope, receive, send_with_id)
        finally:
            seconds = time.monotonic() - begin
            path = scope["path"] if scope["path"] in _KNOWN_PATHS else "other"
            status = status or 499  # the client went before an answer
            self.metrics.request_seconds.labels(path, status).observe(seconds)
            is_probe = path in (protocol.HEALTH_PATH, protocol.READY_PATH)
            level = logging.DEBUG if is_probe else logging.INFO
            method = shown(scope["method"], METHOD_CHARS)
            logger.log(level, "%s %s %s %d %.3f s", request_id, method, path, status, seconds)

    async def _serve(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        path = scope["path"]
        self._check_sender(scope, headers)
        length = headers.get("content-length", "0")
        largest = self.max_body_bytes.get(path, max(self.max_body_bytes.values()))
        if length.isdecimal() and int(length) > largest:
            raise _too_large(largest)
        if path in self.max_body_bytes and scope["method"] == "POST":
            async with self.admission.admit(receive, largest) as upload:
                scope["state"]["upload"] = upload
                await self.app(scope, upload.receive, send)
        else:
            await self.app(scope, receive, send)

    def _check_sender(self, scope: Scope, headers: Headers) -> None:
        """Raise ApiError for who lacks the token, or may be a page of another site."""
        path = scope["path"]
        if path in _OPEN_PATHS or path.startswith("/static-offline-docs/"):
            return
        if self._expected is None:
            self._check_site(scope["method"], headers)
            return
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        given = f"{scheme.lower()} {credentials}".encode()
        if not hmac.compare_digest(given, self._expected):
            text = "send the server's token: 'Authorization: Bearer <token>'"
            raise ApiError(401, "unauthorized", text, headers={"WWW-Authenticate": "Bearer"})

    def _check_site(self, method: str, headers: Headers) -> None:
        """Raise ApiError for what a page of another site may send through its visitor's browser.

        Browsers say where a request comes from (Sec-Fetch-Site, or Origin); programs do not. A name
        of the page's own that resolves to this machine makes the two the same site, hence Host.
        """
        host = headers.get("host", "").lower()
        if self._hosts is not None and host and _hostname(host) not in self._hosts:
            text = f"the Host header {shown(host)} is not this server's: {', '.join(LOCAL_HOSTS)}"
            raise ApiError(400, "bad_request", text)
        site = headers.get("sec-fetch-site")
        origin = headers.get("origin", f"http://{host}").lower()
        own = site in ("same-origin", "none") if site else origin.partition("://")[2] == host
        if not own and method not in ("GET", "HEAD"):
            text = "a page of another site may ask for nothing here without the server's token"
            raise ApiError(403, "forbidden", text)

    def _refuse(self, error: BaseException, request_id: str) -> JSONResponse:
        """The answer to a request that ended in an error, counted and logged."""
        api_error = as_api_error(error)
        body, status = api_error.body, api_error.status_code
        # A name that is not hosted is the client's own word, and no label.
        model = "" if body.error == "unknown_verifier" else body.verifier or ""
        self.metrics.rejects.labels(body.error, model).inc()
        level, trace = (logging.ERROR, error) if body.error == "internal" else (logging.INFO, None)
        message = shown(body.message, LOGGED_CHARS)
        logger.log(level, "%s %s: %s", request_id, body.error, message, exc_info=trace)
        answer = body.model_copy(update={"request_id": request_id})
        return JSONResponse(answer.model_dump(), status_code=status, headers=api_error.headers)
