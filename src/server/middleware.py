"""What a request passes before its body is read, and what it is answered when it is refused.

Plain ASGI, because it has to act before FastAPI parses a form. What has to be decided about uploads
together is in admission.py, what about connections in connections.py.
"""

import asyncio
import hmac
import logging
import re
import time
import uuid
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src import protocol
from src.server.admission import Admission, too_large
from src.server.outcomes import ApiError, Metrics, as_api_error, shown
from src.server.settings import LOCAL_HOSTS, ServerSettings

logger = logging.getLogger(__name__)

_OPEN_PATHS = (protocol.HEALTH_PATH, protocol.READY_PATH, "/docs", "/openapi.json")
_KNOWN_PATHS = (
    *(protocol.SCORE_PATH, protocol.TEXTS_PATH, protocol.VERIFIERS_PATH, protocol.METRICS_PATH),
    *_OPEN_PATHS,
)
METHOD_CHARS, LOGGED_CHARS = 16, 200
_GOOD_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def _has_whole_body(scope: Scope, headers: Headers) -> bool:
    """Whether a request has no body, or one that has been read to its end."""
    if "transfer-encoding" not in headers and headers.get("content-length", "0") == "0":
        return True
    upload = scope["state"].get("upload")
    return upload is not None and upload.completed is not None


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
            protocol.TEXTS_PATH: settings.limits.max_json_bytes,
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
                answer = MutableHeaders(scope=message)
                answer[protocol.REQUEST_ID_HEADER] = request_id
                if not _has_whole_body(scope, headers):  # else the rest would be read and parsed
                    answer["Connection"] = "close"
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
            raise too_large(largest)
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
