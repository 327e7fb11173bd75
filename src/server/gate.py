"""What every request passes before its body is read: an id, the token, limits on time and memory.

Plain ASGI, because it has to act before FastAPI parses a form, and it times and logs the answer.
How uploads are kept from standing in each other's way is told in src/server/uploads.py.
"""

import asyncio
import hmac
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.protocol import (
    HEALTH_PATH,
    METRICS_PATH,
    READY_PATH,
    REQUEST_ID_HEADER,
    SCORE_PATH,
    TEXTS_PATH,
    VERIFIERS_PATH,
)
from src.server.metrics import Metrics
from src.server.problems import Problem, problem_response
from src.server.uploads import Upload, Uploads

logger = logging.getLogger(__name__)

DOCS_PATH, DOCS_FILES_PATH, OPENAPI_PATH = "/docs", "/docs-files", "/openapi.json"
_OPEN_PATHS = (HEALTH_PATH, READY_PATH, DOCS_PATH, OPENAPI_PATH)
_KNOWN_PATHS = (*_OPEN_PATHS, SCORE_PATH, TEXTS_PATH, VERIFIERS_PATH, METRICS_PATH)
_GOOD_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Gate:
    """ASGI middleware: request ids, token, uploads, access log.

    max_body_bytes: by path that takes uploads; of another path's body nothing is read.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        token: str | None,
        max_body_bytes: Mapping[str, int],
        uploads: Uploads,
    ) -> None:
        self.app = app
        self.metrics = metrics
        self.max_body_bytes = max_body_bytes
        self.uploads = uploads
        self._expected = f"bearer {token}".encode() if token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begin = time.monotonic()
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID_HEADER, "")
        request_id = given if _GOOD_ID.fullmatch(given) else uuid.uuid4().hex[:16]
        scope.setdefault("state", {})["request_id"] = request_id
        status = 499  # of a request whose client went before an answer

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        try:
            self._check(scope["path"], headers)
            limit = self.max_body_bytes.get(scope["path"])
            if limit is not None and scope["method"] == "POST":
                with self.uploads.begin() as upload:
                    scope["state"]["upload"] = upload
                    await self.app(scope, _received(receive, upload, limit), send_with_id)
            else:
                await self.app(scope, receive, send_with_id)
        except Problem as problem:
            response = problem_response(problem, request_id, self.metrics)
            await response(scope, receive, send_with_id)
        except asyncio.CancelledError:  # the time for a stop is over
            if status != 499:
                raise
            stopping = Problem(503, "stopping", "the server stopped before this was done")
            response = problem_response(stopping, request_id, self.metrics)
            await response(scope, receive, send_with_id)
        except BaseException:  # a bug, which is answered above this
            status = 500
            raise
        finally:
            seconds = time.monotonic() - begin
            path = scope["path"] if scope["path"] in _KNOWN_PATHS else "other"
            self.metrics.request_seconds.labels(path, status).observe(seconds)
            level = logging.DEBUG if path in (HEALTH_PATH, READY_PATH) else logging.INFO
            logger.log(
                level, "%s %s %s %d %.3f s", request_id, scope["method"], path, status, seconds
            )

    def _check(self, path: str, headers: Headers) -> None:
        """Raise Problem for a wrong token or a body that says itself that it is too large."""
        is_open = path in _OPEN_PATHS or path.startswith(DOCS_FILES_PATH + "/")
        if self._expected is not None and not is_open:
            scheme, _, credentials = headers.get("authorization", "").partition(" ")
            given = f"{scheme.lower()} {credentials}".encode()
            if not hmac.compare_digest(given, self._expected):
                raise Problem(
                    401,
                    "unauthorized",
                    "send the server's token: 'Authorization: Bearer <token>'",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        length = headers.get("content-length", "0")
        largest = self.max_body_bytes.get(path, max(self.max_body_bytes.values()))
        if length.isdecimal() and int(length) > largest:
            raise _too_large(largest)


def _too_large(limit: int) -> Problem:
    return Problem(413, "too_large", f"a body has at most {limit} bytes")


def _received(receive: Receive, upload: Upload, limit: int) -> Callable[[], Awaitable[Message]]:
    """`receive`, with the limits of an upload while its body comes in."""

    async def limited() -> Message:
        if upload.complete:  # what is left is to wait until the client goes
            return await receive()
        async with upload.in_time():
            message = await receive()
        if message["type"] != "http.request":
            raise Problem(499, "client_gone", "the client hung up before its upload was complete")
        upload.hold(len(message.get("body", b"")))
        if upload.bytes > limit:  # one that did not say its length
            raise _too_large(limit)
        if not message.get("more_body", False):
            upload.take_place()
        return message

    return limited
