"""Connections: who may hold one, how long, and what framing of a request is taken for an attack.

    uvicorn.Config(app, http=connections(settings, raise_file_limit()), ws="none")

uvicorn reads what comes and keeps whoever comes. Here a connection is closed when its client does
not go on with a request; when there are too many, the one that waits longest for its client makes
way; and a request whose framing costs more than its content is refused.
"""

import asyncio
import logging
import resource
import time
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from src.server.settings import ServerSettings

MAX_FILES = 65_536  # file descriptors that the server asks the system for
MAX_HEAD_BYTES = 2**16
MAX_HEADERS = 100
MAX_PIPELINED = 32
# Each chunk of a body costs the event loop the same, however small: on average a chunk has at least
# MIN_CHUNK_BYTES, beyond FREE_CHUNKS.
MIN_CHUNK_BYTES = 100
FREE_CHUNKS = 1_000


class Connection(HttpToolsProtocol):
    """One client's connection.

    It waits for its client from the beginning until the first byte of a body, or the end of a
    request without one; then again once that is answered. patience: seconds that it waits for a
    request that has begun, for the first one, or for a client that still sends what was refused.
    most: connections at once. waiting: all that wait for their clients, the longest first.
    """

    patience: float
    most: int
    waiting: "dict[Connection, None]"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._lingering = False
        self._head_bytes = self._body_bytes = self._chunks = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            longest = next(iter(self.waiting), self)
            longest._stop_waiting()
            longest.transport.abort()
        if not transport.is_closing():
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_waiting()

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            return
        before = self.cycle
        is_body = before is not None and before.more_body
        super().data_received(data)
        if self.cycle is before and not is_body:  # a part of a head, or blank lines before it
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("The headers are too long.")
        if self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._wait()

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests that wait for an answer")
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= MAX_HEADERS:
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._head_bytes = self._body_bytes = self._chunks = 0
        if self._timer is None and not self.pipeline:
            self._wait()
        self.cycle.transport = cast(asyncio.Transport, _CycleTransport(self, self.cycle))

    def on_body(self, body: bytes) -> None:
        if not self._chunks:
            self._stop_waiting()
        self._chunks += 1
        self._body_bytes += len(body)
        if self._chunks > FREE_CHUNKS + self._body_bytes // MIN_CHUNK_BYTES:
            raise ValueError("the chunks of this body are too small")
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop_waiting()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self.waiting[self] = None  # uvicorn's timer for idle connections runs

    def linger(self) -> None:
        """Close once the client has stopped sending, or `patience` is over.

        Closed at once, with bytes of a body unread, the system would reset the connection, and the
        client might lose its answer. They are thrown away and not parsed.
        """
        self._lingering = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._wait()

    def _wait(self) -> None:
        self._stop_waiting()
        self.waiting[self] = None
        self._timer = self.loop.call_later(self.patience, self.transport.close)

    def _stop_waiting(self) -> None:
        self.waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _CycleTransport:
    """What the answer to one request sees of its connection."""

    def __init__(self, connection: Connection, cycle: RequestResponseCycle) -> None:
        self._connection, self._cycle = connection, cycle
        self.write = connection.transport.write
        self.is_closing = connection.transport.is_closing

    def close(self) -> None:
        if self._cycle.more_body and not self.is_closing():
            self._connection.linger()
        else:
            self._connection.transport.close()


def connections(settings: ServerSettings, max_files: int) -> type[Connection]:
    """The class of one server's connections. max_files: descriptors that the process may open."""
    most = min(settings.max_connections, max_files // 2)
    shared = {"patience": settings.head_seconds, "most": most, "waiting": {}}
    return type("Connection", (Connection,), shared)


def raise_file_limit() -> int:
    """Let the process open as many files as it may ask for, MAX_FILES at most; how many it can."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # macOS allows less than it says
        return soft
    return wanted


class Seldom(logging.Filter):
    """Lets a message that begins with `start` through only every `seconds`."""

    def __init__(self, start: str, seconds: float) -> None:
        super().__init__()
        self._start, self._seconds = start, seconds
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if not str(record.msg).startswith(self._start):
            return True
        now = time.monotonic()
        is_due = now >= self._next
        if is_due:
            self._next = now + self._seconds
        return is_due
