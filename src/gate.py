"""What every request passes before its body is read: an id, the token, a place, a time limit.

Plain ASGI, because it has to act before FastAPI parses a form, and it times and logs the answer.
"""

import asyncio
import hmac
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.batching import Metrics
from src.wire import (
    HEALTH_PATH,
    METRICS_PATH,
    READY_PATH,
    REQUEST_ID_HEADER,
    SCORE_PATH,
    VERIFIERS_PATH,
    ErrorBody,
    Refusal,
)

logger = logging.getLogger(__name__)

DOCS_PATH, DOCS_FILES_PATH, OPENAPI_PATH = "/docs", "/docs-files", "/openapi.json"
_OPEN_PATHS = (HEALTH_PATH, READY_PATH, DOCS_PATH, OPENAPI_PATH)
_KNOWN_PATHS = (*_OPEN_PATHS, SCORE_PATH, VERIFIERS_PATH, METRICS_PATH)
_GOOD_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Problem(HTTPException):
    """A request that is answered with an ErrorBody."""

    def __init__(
        self,
        status: int,
        error: str,
        message: str,
        *,
        index: int | None = None,
        verifier: str | None = None,
        refused: list[Refusal] | None = None,
        retry_after: int | None = None,
    ) -> None:
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        super().__init__(status, message, headers)
        self.error, self.message, self.index, self.verifier = error, message, index, verifier
        self.refused = refused or []


def problem_response(problem: Problem, request_id: str, metrics: Metrics) -> JSONResponse:
    metrics.rejects.labels(problem.error, problem.verifier or "").inc()
    logger.info("%s %s: %s", request_id, problem.error, problem.message)
    body = ErrorBody(
        request_id=request_id,
        error=problem.error,
        message=problem.message,
        index=problem.index,
        verifier=problem.verifier,
        refused=problem.refused,
    )
    return JSONResponse(body.model_dump(), status_code=problem.status_code, headers=problem.headers)


class Gate:
    """ASGI middleware: request ids, token, places for scoring, upload time, access log."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        token: str | None,
        max_body_bytes: int,
        max_requests: int,
        upload_seconds: float,
    ) -> None:
        self.app = app
        self.metrics = metrics
        self.max_body_bytes = max_body_bytes
        self.max_requests = max_requests
        self.upload_seconds = upload_seconds
        self._expected = f"bearer {token}".encode() if token else None
        self._scoring = 0

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

        scoring = scope["path"] == SCORE_PATH and scope["method"] == "POST"
        try:
            problem = self._problem(scope["path"], headers, scoring)
            if problem is not None:
                response = problem_response(problem, request_id, self.metrics)
                return await response(scope, receive, send_with_id)
            self._scoring += scoring
            try:
                await self.app(scope, self._timed(receive), send_with_id)
            finally:
                self._scoring -= scoring
        finally:
            seconds = time.monotonic() - begin
            path = scope["path"] if scope["path"] in _KNOWN_PATHS else "other"
            self.metrics.request_seconds.labels(path, status).observe(seconds)
            level = logging.DEBUG if path in (HEALTH_PATH, READY_PATH) else logging.INFO
            logger.log(
                level, "%s %s %s %d %.3f s", request_id, scope["method"], path, status, seconds
            )

    def _problem(self, path: str, headers: Headers, scoring: bool) -> Problem | None:
        is_open = path in _OPEN_PATHS or path.startswith(DOCS_FILES_PATH + "/")
        if self._expected is not None and not is_open:
            scheme, _, credentials = headers.get("authorization", "").partition(" ")
            given = f"{scheme.lower()} {credentials}".encode()
            if not hmac.compare_digest(given, self._expected):
                problem = Problem(
                    401, "unauthorized", "send the server's token: 'Authorization: Bearer <token>'"
                )
                problem.headers = {"WWW-Authenticate": "Bearer"}
                return problem
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.max_body_bytes:  # FastAPI limits chunked ones
            return Problem(413, "too_large", f"a body has at most {self.max_body_bytes} bytes")
        if scoring and self._scoring >= self.max_requests:
            return Problem(
                503, "busy", f"{self.max_requests} requests are in progress", retry_after=1
            )
        return None

    def _timed(self, receive: Receive) -> Callable[[], Awaitable[Message]]:
        """`receive`, with a limit on the time that the whole body may take."""
        deadline = time.monotonic() + self.upload_seconds
        complete = False

        async def timed_receive() -> Message:
            nonlocal complete
            if complete:  # what is left is to wait until the client goes
                return await receive()
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                raise Problem(
                    408, "too_slow", f"the upload took more than {self.upload_seconds:g} s"
                ) from None
            complete = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        return timed_receive
