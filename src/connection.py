"""The way to the verifier servers: which of several is asked, and what is tried again.

    hosts = Hosts(["http://one:8000", "http://two:8000"])  # one for all clients of a process
    response = Connection(hosts).send("GET", "/verifiers", usage)

Asked is the host with the fewest of this process's requests in flight, of equal ones that which was
not asked for longest. One that is not there, breaks off or has no room is passed over for a while:
as long as it says, or longer each time. A request waits only where all are passed over.
"""

import logging
import random
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
PAUSES = (0.1, 10.0)  # seconds: for which a host is passed over at first, and at most
AWAY_SECONDS = 60.0  # at most for one that is not there: it may take seconds to find that out
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
    in_flight: int = 0
    free_at: float = 0.0
    failures: int = 0
    has_answered: bool = False


class Hosts:
    """Servers that answer alike, and who of them is asked next. For several threads."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.urls = [url.rstrip("/") for url in urls]
        # The longest not asked first; processes do not all begin with the same one.
        self._hosts = [Host(url) for url in random.sample(self.urls, len(urls))]
        self._lock = threading.Lock()

    @contextmanager
    def asking(self) -> Iterator[Host]:
        """Of those that are free the least busy one, else the one that is free first."""
        with self._lock:
            now = time.monotonic()
            host = min(self._hosts, key=lambda host: (max(now, host.free_at), host.in_flight))
            self._hosts.remove(host)
            self._hosts.append(host)
            host.in_flight += 1
        try:
            yield host
        finally:
            with self._lock:
                host.in_flight -= 1

    def wait(self) -> float:
        """Seconds until one is free; 0 or less for none."""
        with self._lock:
            return min(host.free_at for host in self._hosts) - time.monotonic()

    def pass_over(self, host: Host, least: float = 0.0, most: float = PAUSES[1]) -> float:
        """least: seconds that it asks for. most: of what grows with its failures. Returns how many
        seconds it is not asked for."""
        with self._lock:
            pause = min(most, PAUSES[0] * 2 ** min(host.failures, 30))
            # Clients that were refused together come apart.
            seconds = max(pause, least) * random.uniform(1.0, 1.25)
            host.free_at, host.failures = time.monotonic() + seconds, host.failures + 1
        return seconds

    def free(self, host: Host) -> None:
        """It did what was asked: what it fails in next is its first failure."""
        with self._lock:
            host.free_at, host.failures = 0.0, 0


class Connection:
    """One client's. Not for use by several threads at once.

    total_seconds: limit on a request with all its attempts. transport: what carries requests, other
    than sockets. url: of the server that was asked last.
    """

    def __init__(
        self,
        hosts: Hosts,
        token: str | None = None,
        total_seconds: float = 1200.0,
        transport: BaseAdapter | None = None,
    ) -> None:
        self.hosts, self.total_seconds = hosts, total_seconds
        self.url = ", ".join(hosts.urls)
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy for a loopback address, no netrc over the token
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"
        if transport is not None:
            for url in hosts.urls:
                self._session.mount(url, transport)

    def send(self, method: str, path: str, usage: Ledger, **body: Any) -> requests.Response:
        """The response, whatever its status; tries again what may pass.

        usage: where bytes are counted. body: as requests.Request takes it. Raises ServerUnreachable
        where no host has an answer.
        """
        body["headers"] = {protocol.REQUEST_ID_HEADER: uuid.uuid4().hex[:16]}
        since = time.monotonic()  # when there was last one that might answer
        deadline, problem = since + self.total_seconds, "it is passed over"
        lost: dict[Host, bool] = {}  # who cannot answer: whether it is waited for
        while True:
            wait = max(0.0, self.hosts.wait())
            if time.monotonic() + wait > deadline:
                raise ServerUnreachable(
                    f"{self.url} did not answer within {self.total_seconds:g} s: {problem}"
                )
            if wait:
                time.sleep(wait)
            least, is_gone = 0.0, False
            with self.hosts.asking() as host:
                self.url = host.url
                request = requests.Request(method, host.url + path, **body)
                outcome = self._attempt(request, deadline, usage)
            if isinstance(outcome, requests.Response):
                host.has_answered = True
                if outcome.status_code != 503:
                    self.hosts.free(host)
                    return outcome
                problem, retry = str(error_of(outcome)), _retry_seconds(outcome)
                least, is_lost = retry or 0.0, retry is None
            else:
                is_gone = _never_connected(outcome)
                problem = "no connection" if is_gone else f"{type(outcome).__name__}: {outcome}"
                is_lost = is_gone or not isinstance(outcome, MAY_PASS)
            lost.pop(host, None)
            if is_lost:
                lost[host] = is_gone and host.has_answered  # such a one is being started again
            if len(lost) < len(self.hosts.urls):
                since = time.monotonic()
            elif not any(lost.values()) or time.monotonic() - since > UNREACHABLE_SECONDS:
                if isinstance(outcome, requests.Response):
                    return outcome
                raise ServerUnreachable(
                    f"no verifier server answers at {', '.join(self.hosts.urls)} ({problem}). "
                    f"Start one in another terminal: {START_COMMAND}; or say --server auto to have "
                    "one started for this run"
                ) from outcome
            seconds = self.hosts.pass_over(host, least, AWAY_SECONDS if is_gone else PAUSES[1])
            logger.warning("%s: %s; again in %.1f s", host.url, problem, seconds)

    def _attempt(
        self, request: requests.Request, deadline: float, usage: Ledger
    ) -> requests.Response | requests.RequestException:
        prepared = self._session.prepare_request(request)
        usage.uploaded_bytes += len(prepared.body or b"")
        seconds = min(ATTEMPT_SECONDS, deadline - time.monotonic())
        try:
            return self._session.send(prepared, timeout=(5.0, max(0.1, seconds)))
        except requests.RequestException as error:
            return error


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
    """How long a server asks to wait: exactly where it says so, else in whole seconds; None where
    it does not."""
    if not response.headers.get("Retry-After", "").isdecimal():
        return None
    try:
        exact = protocol.ErrorBody.model_validate_json(response.content).retry_after_seconds
    except ValidationError:
        exact = None
    return float(response.headers["Retry-After"]) if exact is None else exact


def _never_connected(error: requests.RequestException) -> bool:
    """Whether no connection came about at all (the server is not there)."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return isinstance(reason, NewConnectionError) or isinstance(error, requests.ConnectTimeout)
