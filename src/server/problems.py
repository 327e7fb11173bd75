"""What is answered when a request is not done: a status, an ErrorBody, a count and a log line."""

import logging
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from src.protocol import REQUEST_ID_HEADER, ErrorBody, Refusal
from src.server.metrics import Metrics

logger = logging.getLogger(__name__)


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
        headers: Mapping[str, str] | None = None,
    ) -> None:
        retry = {} if retry_after is None else {"Retry-After": str(retry_after)}
        super().__init__(status, message, {**(headers or {}), **retry})
        self.error, self.message, self.index, self.verifier = error, message, index, verifier
        self.refused = refused or []


def problem_response(problem: Problem, request_id: str, metrics: Metrics) -> JSONResponse:
    """The answer, counted and logged."""
    metrics.reject(problem.error, problem.verifier)
    logger.info("%s %s: %s", request_id, problem.error, problem.message)
    body = ErrorBody(
        request_id=request_id,
        error=problem.error,
        message=problem.message,
        index=problem.index,
        verifier=problem.verifier,
        refused=problem.refused,
    )
    headers = {**(problem.headers or {}), REQUEST_ID_HEADER: request_id}
    return JSONResponse(body.model_dump(), status_code=problem.status_code, headers=headers)
