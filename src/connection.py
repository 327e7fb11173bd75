"""The way to the verifier servers: which of several is asked, and what is tried again.

    connection = Connection(["http://one:8000", "http://two:8000"])
    response = connection.send("GET", "/verifiers", usage)

The server is asked that has the fewest of this process's requests in flight, of equal ones that
which was not asked for longest. One that is not there, breaks off or has no room is passed over for
a while: as long as it says, or longer each time. A request waits only where all are passed over.
"""

import logging
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import requests
from pydantic import ValidationError
from requests.adapters import BaseAdapter
from urllib3.exceptions import NewConnectionError

from src import protocol
from src.budget import Ledger
from src.scoring import VerifierError

logger = logging.getLogger(__name__)

START_COMMAND = "`make serve` (or: envs/verifier/.venv/bin/python verifier_server.py)"
ATTEMPT_SECONDS = 600.0  # for one answer
UNREACHABLE_SECONDS = 10.0  # for a server that refuses connections once it has answered before
PAUSE_SECONDS = 10.0  # for which one is passed over at most that does not say for how long
AWAY_SECONDS = 60.0  # and one that is not there: it may take seconds to find that out
MAY_PASS = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


class ServerUnreachable(VerifierError):
    """Nothing answers at the server's address."""


class ServerError(VerifierError):
    """The server answered, and what it said ends the run."""


class Refused(VerifierError):
    """A request that the server refused for some of its inputs.

    reasons: by position and verifier; None: whichever is asked.
    """

    def __init__(self, message: str, reasons: Mapping[tuple[int, str | None], str]) -> None:
        super().__init__(message)
        self.reasons = reasons

    def __reduce__(self) -> tuple[Any, ...]:  # it comes from another process, too
        return type(self), (str(self), self.reasons)

    def by(self, verifier: str) -> dict[int, str]:
        """What it refuses, or the server for it: reasons by position."""
        return {at: why for (at, by), why in self.reasons.items() if by in (verifier, None)}


@dataclass(eq=False)
class Host:
    """A server. in_flight: requests. free_at: until when it is passed over. failures: in a row."""

    url: str
    asked_at: float = field(default_factory=random.random)  # processes begin with different ones
    in_flight: int = 0
    free_at: float = 0.0
    failures: int = 0


class Connection:
    """To servers that answer alike. Several threads may use it: the clients of a process share it.

    total_seconds: limit on a request with all its attempts. transport: what carries requests, other
    than sockets. waiting: what is entered while an answer is waited for.
    """

    def __init__(
        self,
        urls: Sequence[str],
        token: str | None = None,
        total_seconds: float = 1200.0,
        transport: BaseAdapter | None = None,
        waiting: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.total_seconds, self._waiting = total_seconds, waiting
        self._hosts, self._lock = [Host(url.rstrip("/")) for url in urls], threading.Lock()
        self._has_answered = False
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy for a loopback address, no netrc over the token
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"
        if transport is not None:
            for host in self._hosts:
                self._session.mount(host.url, transport)

    def send(self, method: str, path: str, usage: Ledger, **body: Any) -> requests.Response:
        """The response, whatever its status; tries again what may pass.

        usage: where bytes are counted. body: as requests.Request takes it. Raises ServerUnreachable
        where no server has an answer.
        """
        body["headers"] = {protocol.REQUEST_ID_HEADER: uuid.uuid4().hex[:16]}
        since = time.monotonic()  # when there was last one that might answer
        deadline, problem = since + self.total_seconds, "all are busy"
        where = ", ".join(host.url for host in self._hosts)
        lost: set[Host] = set()  # those that cannot answer
        while True:
            wait = max(0.0, min(host.free_at for host in self._hosts) - time.monotonic())
            if time.monotonic() + wait > deadline:
                raise ServerUnreachable(
                    f"{where} did not answer within {self.total_seconds:g} s: {problem}"
                )
            if wait:
                with self._waiting():
                    time.sleep(wait)
            host, found = self._ask_one(method, path, deadline, usage, body)
            least, most = 0.0, PAUSE_SECONDS
            if isinstance(found, requests.Response):
                self._has_answered = True
                if found.status_code != 503:
                    host.free_at, host.failures = 0.0, 0
                    return found
                problem, retry = str(error_of(found)), _retry_seconds(found)
                may_pass, least = retry is not None, retry or 0.0
            elif _never_connected(found):
                problem, may_pass, most = "no connection", False, AWAY_SECONDS
            else:
                problem, may_pass = f"{type(found).__name__}: {found}", isinstance(found, MAY_PASS)
            lost = lost - {host} if may_pass else lost | {host}
            if len(lost) < len(self._hosts):
                since = time.monotonic()
            elif isinstance(found, requests.Response):
                return found
            elif not self._has_answered or time.monotonic() - since > UNREACHABLE_SECONDS:
                raise ServerUnreachable(
                    f"no verifier server answers at {where} ({problem}). Start one in another "
                    f"terminal: {START_COMMAND}; or say --server auto to have one started for this "
                    "run"
                ) from found
            pause = max(least, min(most, 0.1 * 2 ** min(host.failures, 20)))
            pause *= random.uniform(1.0, 1.25)  # clients that were refused together come apart
            host.free_at, host.failures = time.monotonic() + pause, host.failures + 1
            logger.warning("%s: %s; again in %.1f s", host.url, problem, pause)

    def _ask_one(
        self, method: str, path: str, deadline: float, usage: Ledger, body: Mapping[str, Any]
    ) -> tuple[Host, requests.Response | requests.RequestException]:
        """Of those that are free the least busy one, else the one that is free first."""
        with self._lock:
            now = time.monotonic()
            host = min(self._hosts, key=lambda h: (max(now, h.free_at), h.in_flight, h.asked_at))
            host.in_flight, host.asked_at = host.in_flight + 1, now
        try:
            request = requests.Request(method, host.url + path, **body)
            prepared = self._session.prepare_request(request)
            usage.uploaded_bytes += len(prepared.body or b"")
            seconds = max(0.1, min(ATTEMPT_SECONDS, deadline - now))
            with self._waiting():
                return host, self._session.send(prepared, timeout=(5.0, seconds))
        except requests.RequestException as error:
            return host, error
        finally:
            with self._lock:
                host.in_flight -= 1


def error_of(response: requests.Response) -> ServerError | Refused:
    """What a status other than 200 means."""
    try:
        body = protocol.ErrorBody.model_validate_json(response.content)
    except ValidationError:
        return ServerError(
            f"{response.url} answered {response.status_code} and not as a verifier server "
            f"does: {response.text[:200]!r}"
        )
    message = f"{response.url}: {body.message} ({body.error}, request {body.request_id})"
    if body.error == "prompt_refused" and body.refused:
        return Refused(message, {(r.index, r.verifier): r.reason for r in body.refused})
    if body.error == "bad_audio" and body.index is not None:
        return Refused(message, {(body.index, None): body.message})
    if body.error == "unauthorized":
        message += "; set CURATOR_TOKEN to the token that the server was started with"
    return ServerError(message)


def _retry_seconds(response: requests.Response) -> float | None:
    """How long a server asks to wait, if it does: exactly where it says so, else whole seconds."""
    if not (header := response.headers.get("Retry-After", "")).isdecimal():
        return None
    with suppress(ValidationError):
        body = protocol.ErrorBody.model_validate_json(response.content)
        return float(header) if body.retry_after_seconds is None else body.retry_after_seconds
    return float(header)


def _never_connected(error: requests.RequestException) -> bool:
    """Whether no connection came about at all (the server is not there)."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return isinstance(reason, NewConnectionError) or isinstance(error, requests.ConnectTimeout)
