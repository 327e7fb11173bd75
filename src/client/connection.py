"""One server's connection: requests and their answers, and retries for what may pass.

What may pass (a reset connection, a full queue, a timeout) is tried again within a total time; a
server that is not there, or that answers anything else, ends with an error that says what to do.
"""

import logging
import time
import uuid
from collections.abc import Mapping
from typing import Any, TypeVar

import requests
from pydantic import BaseModel, ValidationError
from urllib3.exceptions import NewConnectionError

from src.protocol import REQUEST_ID_HEADER, ErrorBody

logger = logging.getLogger(__name__)

START_COMMAND = "`make serve` (or: envs/verifier/.venv/bin/python verifier_server.py)"
MAY_PASS = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
)

Answer = TypeVar("Answer", bound=BaseModel)


class VerifierError(RuntimeError):
    """Scores could not be had."""


class ServerUnreachable(VerifierError):
    """Nothing answers at the server's address."""


class ServerError(VerifierError):
    """The server answered, and what it said ends the run."""


class PromptRefused(VerifierError):
    """Some inputs of a call have no score, whatever happens; the others can be scored without them.

    refused: reason by position in the call; index, reason: the first of them.
    """

    def __init__(self, refused: Mapping[int, str]) -> None:
        self.refused = dict(sorted(refused.items()))
        self.index, self.reason = next(iter(self.refused.items()))
        super().__init__(f"input {self.index}: {self.reason}")


class NoSuchRoute(ServerError):
    """The server does not know what it was asked: it is of another version."""


class Connection:
    """Sends requests to one server. Not for use by several threads at once.

    unreachable_seconds: how long a server that refuses connections is waited for, once it has
    answered before. attempt_seconds, total_seconds: limits on one attempt and on a request with
    all its attempts. uploaded_bytes: of all bodies so far, retries included.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        unreachable_seconds: float,
        attempt_seconds: float,
        total_seconds: float,
    ) -> None:
        self.url = url.rstrip("/")
        self.unreachable_seconds = unreachable_seconds
        self.attempt_seconds = attempt_seconds
        self.total_seconds = total_seconds
        self.uploaded_bytes = 0
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy for a loopback address, no netrc over the token
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"
        self._reached = False

    def ask(self, kind: type[Answer], method: str, path: str, **body: Any) -> Answer:
        """The answer to one request, tried again while it may pass.

        body: as requests.Request takes it. Raises PromptRefused, ServerUnreachable, ServerError.
        """
        response = self._send(requests.Request(method, self.url + path, **body))
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            raise ServerError(f"{response.url} gave an answer that is not valid: {error}") from None

    def close(self) -> None:
        """End what is kept open; the next request opens a connection anew."""
        self._session.close()

    def _send(self, request: requests.Request) -> requests.Response:
        """The response with status 200; tries again what may pass."""
        request.headers[REQUEST_ID_HEADER] = uuid.uuid4().hex[:16]
        prepared = self._session.prepare_request(request)
        size = len(prepared.body or b"")
        begin = time.monotonic()
        refused_since: float | None = None
        pause = 0.1
        while True:
            left = self.total_seconds - (time.monotonic() - begin)
            wait = pause
            try:
                self.uploaded_bytes += size
                response = self._session.send(
                    prepared, timeout=(5.0, max(0.1, min(self.attempt_seconds, left)))
                )
            except requests.RequestException as error:
                problem = _in_short(error)
                if _refused(error):
                    refused_since = refused_since or time.monotonic()
                    waited = time.monotonic() - refused_since
                    if not self._reached or waited >= self.unreachable_seconds:
                        raise self._unreachable(problem) from error
                elif not isinstance(error, MAY_PASS):
                    raise self._unreachable(problem) from error
            else:
                self._reached, refused_since = True, None
                retry_after = response.headers.get("Retry-After", "")
                if response.status_code != 503 or not retry_after.isdecimal():
                    self._check(response)
                    return response
                problem, wait = _message(response), max(pause, float(retry_after))
            if wait > left:
                raise ServerUnreachable(
                    f"{self.url} did not answer within {self.total_seconds:g} s: {problem}"
                )
            logger.warning("%s: %s; again in %.1f s", self.url, problem, wait)
            time.sleep(wait)
            pause = min(2 * pause, 10.0)

    def _unreachable(self, problem: str) -> ServerUnreachable:
        return ServerUnreachable(
            f"no verifier server answers at {self.url} ({problem}). Start one in another terminal: "
            f"{START_COMMAND}; or say --server auto to have one started for this run"
        )

    def _check(self, response: requests.Response) -> None:
        """Raise what a status other than 200 means."""
        if response.status_code == 200:
            return
        try:
            error = ErrorBody.model_validate_json(response.content)
        except ValidationError:
            raise ServerError(
                f"{response.url} answered {response.status_code} and not as a verifier server "
                f"does: {response.text[:200]!r}"
            ) from None
        if error.error == "prompt_refused" and error.refused:
            raise PromptRefused({r.index: f"{r.verifier}: {r.reason}" for r in error.refused})
        if error.error in ("bad_audio", "no_score") and error.index is not None:
            raise PromptRefused({error.index: error.message})
        message = f"{self.url}: {error.message} ({error.error}, request {error.request_id})"
        if error.error == "unauthorized":
            message += "; set CURATOR_TOKEN to the token that the server was started with"
        raise (NoSuchRoute if error.error == "not_found" else ServerError)(message)


def _refused(error: Any) -> bool:
    """Whether no connection came about at all (the server is not there)."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return isinstance(reason, NewConnectionError) or isinstance(
        error, requests.exceptions.ConnectTimeout
    )


def _message(response: requests.Response) -> str:
    try:
        error = ErrorBody.model_validate_json(response.content)
    except ValidationError:
        return f"{response.status_code} {response.reason}"
    return f"{error.message} ({error.error})"


def _in_short(error: requests.RequestException) -> str:
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "no answer to a connection"
    if isinstance(error, requests.Timeout):
        return "timed out"
    return "connection refused" if _refused(error) else f"{type(error).__name__}: {error}"
