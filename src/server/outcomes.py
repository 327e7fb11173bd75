"""How requests end: the error that a client reads, and the metrics that count them."""

import asyncio
import math
import random
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from fastapi.exceptions import RequestValidationError
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.exceptions import HTTPException

from src.protocol import ErrorBody

SHOWN_CHARS = 80  # of a text that a client sent, in answers and in the log
MAX_RETRY_SECONDS = 60.0
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


def shown(text: str, most: int = SHOWN_CHARS) -> str:
    """A client's text on one short line: the log shows it too."""
    short = text if len(text) <= most else text[:most] + "..."
    return "".join(c if c.isprintable() else "?" for c in short)


class ApiError(HTTPException):  # FastAPI lets no other error out of the reading of a body
    """A request that is answered with an ErrorBody.

    retry_after: seconds until the same request may succeed, about; each client is told to wait
    between half as long and half as long again, so that they do not come back together. more:
    further fields of ErrorBody.
    """

    def __init__(
        self,
        status: int,
        error: str,
        message: str,
        *,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        retry = {}
        if retry_after is not None:
            seconds = min(retry_after * random.uniform(0.5, 1.5), MAX_RETRY_SECONDS)
            more["retry_after_seconds"] = round(seconds, 3)
            retry["Retry-After"] = str(max(1, math.ceil(seconds)))
        super().__init__(status, message, {**(headers or {}), **retry})
        self.body = ErrorBody(request_id="", error=error, message=message, **more)


def as_api_error(error: BaseException) -> ApiError:
    """What the client reads of whatever ended its request."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):  # of FastAPI: no such route, a broken form, ...
        codes = {404: "not_found", 405: "bad_method", 413: "too_large"}
        code = codes.get(error.status_code, "bad_request")
        return ApiError(error.status_code, code, str(error.detail), headers=error.headers)
    if isinstance(error, RequestValidationError):
        return not_valid({**e, "loc": e["loc"][1:]} for e in error.errors())
    if isinstance(error, asyncio.CancelledError):  # the time for a stop is over
        return ApiError(503, "stopping", "the server stopped before this was done")
    name = type(error).__name__
    return ApiError(500, "internal", f"the server failed ({name}); its log has the details")


def not_valid(errors: Iterable[Mapping[str, Any]]) -> ApiError:
    """The answer to a request with these errors, as pydantic describes them."""
    texts = [": ".join(filter(None, (".".join(map(str, e["loc"])), e["msg"]))) for e in errors]
    return ApiError(400, "bad_request", "; ".join(texts))


class Metrics:
    """The metrics of one server; a registry of its own, so that several can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, namespace="curator", registry=self.registry)
        gauge = partial(Gauge, namespace="curator", registry=self.registry)
        histogram = partial(Histogram, namespace="curator", registry=self.registry, buckets=SECONDS)
        self.ready = gauge("model_ready", "1: the model is loaded", ["model"])
        self.queue_depth = gauge("queue_depth", "clips waiting", ["model"])
        self.batch_clips = histogram(
            "batch_clips", "clips in a model call", ["model"], buckets=BATCH_SIZES
        )
        self.queue_seconds = histogram("queue_seconds", "a clip's wait", ["model"])
        self.compute_seconds = histogram("compute_seconds", "a model call", ["model"])
        self.clips = counter("clips", "clips scored", ["model"])
        self.unscored = counter("unscored_clips", "clips that have no score", ["model"])
        self.dropped = counter("dropped_clips", "clips whose client had gone", ["model"])
        self.rejects = counter("rejects", "requests refused or failed", ["reason", "model"])
        self.request_seconds = histogram("request_seconds", "whole requests", ["path", "status"])
        self.uploading = gauge("requests_uploading", "scoring requests whose body still comes in")
        self.scoring = gauge("requests_scoring", "scoring requests that are complete, not answered")
        self.held_bytes = gauge("held_bytes", "uploads and decoded audio in memory")
