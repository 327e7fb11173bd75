"""Why a request is not done: one exception, and what the client reads of every other."""

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from src.protocol import ErrorBody

CLOSE = {"Connection": "close"}  # else the connection would wait for the rest of the body


class ApiError(HTTPException):  # FastAPI lets no other error out of the reading of a body
    """A request that is answered with an ErrorBody.

    retry_after: seconds until the same request may succeed. more: further fields of ErrorBody.
    """

    def __init__(
        self,
        status: int,
        error: str,
        message: str,
        *,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        retry = {} if retry_after is None else {"Retry-After": str(retry_after)}
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
        texts = [f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors()]
        return ApiError(400, "bad_request", "; ".join(texts))
    if isinstance(error, asyncio.CancelledError):  # the time for a stop is over
        return ApiError(503, "stopping", "the server stopped before this was done")
    name = type(error).__name__
    return ApiError(500, "internal", f"the server failed ({name}); its log has the details")
