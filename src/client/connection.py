"""One server's connection: requests and their answers, and retries for what may pass.

What may pass (a reset connection, a full queue, a timeout) is tried again within a total time; a
server that is not there, or that answers anything else, ends with an error that says what to do.
"""

import logging
import time
import uuid
from typing import Any, TypeVar

import requests
from pydantic import BaseModel, ValidationError
from urllib3.exceptions import NewConnectionError

from src.budget import Ledger
from src.protocol import REQUEST_ID_HEADER, ErrorBody
from src.scoring import PromptRefused, VerifierError

logger = logging.getLogger(__name__)

START_COMMAND = "`make serve` (or: envs/verifier/.venv/bin/python verifier_server.py)"
MAY_PASS = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)

Answer = TypeVar("Answer", bound=BaseModel)


class ServerUnreachable(VerifierError):
    """Nothing answers at the server's address."""


class ServerError(VerifierError):
    """The server answered, and what it said ends the run."""


class Connection:
    """Sends requests to one server. Not for use by several threads at once.

    unreachable_seconds: how long a server that refuses connections is waited for, once it has
    answered before. attempt_seconds, total_seconds: limits on one attempt and on a request with
    all its attempts. usage: what was used so far; here, the bytes of bodies, retries included.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        unreachable_seconds: float = 10.0,
        attempt_seconds: float = 600.0,
        total_seconds: float = 1200.0,
    ) -> None:
        self.url = url.rstrip("/")
        self.unreachable_seconds = unreachable_seconds
        self.attempt_seconds = attempt_seconds
        self.total_seconds = total_seconds
        self.usage = Ledger()
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
        if response.status_code != 200:
            raise self._error(response)
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            raise ServerError(f"{response.url} gave an answer that is not valid: {error}") from None

    def _send(self, request: requests.Request) -> requests.Response:
        """The response, whatever its status; tries again what may pass."""
        request.headers[REQUEST_ID_HEADER] = uuid.uuid4().hex[:16]
        prepared = self._session.prepare_request(request)
        begin = time.monotonic()
        deadline, last_reached = begin + self.total_seconds, begin
        pause = 0.1
        while True:
            left = deadline - time.monotonic()
            wait = pause
            self.usage.uploaded_bytes += len(prepared.body or b"")
            try:
                response = self._session.send(
                    prepared, timeout=(5.0, max(0.1, min(self.attempt_seconds, left)))
                )
            except requests.RequestException as error:
                problem, now = f"{type(error).__name__}: {error}", time.monotonic()
                may_pass = isinstance(error, MAY_PASS)
                if _never_connected(error):
                    problem = "no connection"
                    may_pass = self._reached and now - last_reached < self.unreachable_seconds
                else:
                    last_reached = now
                if not may_pass:
                    raise ServerUnreachable(
                        f"no verifier server answers at {self.url} ({problem}). Start one in "
                        f"another terminal: {START_COMMAND}; or say --server auto to have one "
                        "started for this run"
                    ) from error
            else:
                self._reached, last_reached = True, time.monotonic()
                retry_after = response.headers.get("Retry-After", "")
                if response.status_code != 503 or not retry_after.isdecimal():
                    return response
                problem = str(self._error(response))
                wait = max(pause, float(retry_after))
            if wait > left:
                raise ServerUnreachable(
                    f"{self.url} did not answer within {self.total_seconds:g} s: {problem}"
                )
            logger.warning("%s: %s; again in %.1f s", self.url, problem, wait)
            time.sleep(wait)
            pause = min(2 * pause, 10.0)

    def _error(self, response: requests.Response) -> VerifierError:
        """What a status other than 200 means."""
        try:
            body = ErrorBody.model_validate_json(response.content)
        except ValidationError:
            return ServerError(
                f"{response.url} answered {response.status_code} and not as a verifier server "
                f"does: {response.text[:200]!r}"
            )
        if body.error == "prompt_refused" and body.refused:
            return PromptRefused({r.index: f"{r.verifier}: {r.reason}" for r in body.refused})
        if body.error in ("bad_audio", "no_score") and body.index is not None:
            return PromptRefused({body.index: body.message})
        message = f"{self.url}: {body.message} ({body.error}, request {body.request_id})"
        if body.error == "unauthorized":
            message += "; set CURATOR_TOKEN to the token that the server was started with"
        return ServerError(message)


def _never_connected(error: requests.RequestException) -> bool:
    """Whether no connection came about at all (the server is not there)."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return isinstance(reason, NewConnectionError) or isinstance(error, requests.ConnectTimeout)
