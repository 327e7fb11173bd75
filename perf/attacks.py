"""Attacks on the verifier server, and what its other clients notice meanwhile.

    with besieging(url, "tiny chunks", sockets=4): ...

An attack runs in a process of its own, one thread a socket, again and again until the block ends.
perf/server_load.py has their figures; tests/verifier/test_attacks.py runs them for a few seconds.
"""

from __future__ import annotations

import itertools
import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.synchronize import Event
from random import Random
from statistics import median

import requests

from perf.load_clients import new_clip, prepare, send
from perf.watching import probing, watching
from src.data.audio import encode_wav
from src.server.connections import raise_file_limit
from tests.verifier.server_process import ServerProcess

Address = tuple[str, int]

FORM = "multipart/form-data; boundary=x"
HELD_AT_ONCE = 3_000  # connections that one thread of an attack keeps open


def head(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


def tiny_chunks(address: Address) -> None:
    """A body without end in chunks of one byte."""
    with socket.create_connection(address, timeout=60) as connection:
        chunked = (f"Content-Type: {FORM}", "Transfer-Encoding: chunked")
        connection.sendall(head("/score", *chunked))
        while True:
            connection.sendall(b"1\r\na\r\n" * 50_000)


def empty_wav_chunks(address: Address) -> None:
    """A WAV of 16 million empty chunks before its samples."""
    wav = b"RIFF\xf0\xff\xff\x07WAVE" + b"junk\0\0\0\0" * 16_000_000
    asked = prepare([wav], ["metal"], ("tags",))
    lines = (f"Content-Type: {asked.content_type}", f"Content-Length: {len(asked.body)}")
    with socket.create_connection(address, timeout=120) as connection:
        connection.sendall(head("/score", *lines) + asked.body)
        connection.recv(1)


def many_lists(address: Address) -> None:
    """4 MB of JSON that is a million lists where prompts should be."""
    body = b'{"verifiers": ["tags"], "prompts": [' + b"[0]," * 1_040_000 + b"0]}"
    lines = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(head("/texts", *lines) + body)
        connection.recv(1)


def unfinished_headers(address: Address) -> None:
    """Connections that begin a request and never finish its headers, 250 a second."""
    _hold(address, b"GET /health HTTP/1.1\r\nX-Unfinished: ", pause=1 / 250)


def headers_only(address: Address) -> None:
    """Uploads of which nothing comes but the headers, 400 a second."""
    lines = (f"Content-Type: {FORM}", "Content-Length: 100000")
    _hold(address, head("/score", *lines), pause=1 / 400)


def _hold(address: Address, data: bytes, pause: float) -> None:
    held: list[socket.socket] = []
    for turn in itertools.count():
        begin = time.monotonic()
        with suppress(OSError):  # refused: there will be room again
            connection = socket.create_connection(address, timeout=5)
            held.append(connection)
            connection.sendall(data)
        if len(held) >= HELD_AT_ONCE:
            held[turn % HELD_AT_ONCE].close()
            held.pop(turn % HELD_AT_ONCE)
        time.sleep(max(0.0, begin + pause - time.monotonic()))


ATTACKS: dict[str, Callable[[Address], None]] = {
    "tiny chunks": tiny_chunks,
    "empty WAV chunks": empty_wav_chunks,
    "many lists": many_lists,
    "unfinished headers": unfinished_headers,
    "headers only": headers_only,
}
# What perf/server_load.py measures: from how many sockets.
MEASURED = (
    *(("tiny chunks", 1), ("tiny chunks", 4), ("empty WAV chunks", 4)),
    *(("unfinished headers", 4), ("many lists", 30), ("headers only", 1)),
)


def _besiege(url: str, name: str, sockets: int, began: Event) -> None:
    host, port = url.removeprefix("http://").split(":")
    raise_file_limit()

    def again_and_again() -> None:
        while True:
            with suppress(OSError):
                ATTACKS[name]((host, int(port)))
            time.sleep(0.01)

    threads = [threading.Thread(target=again_and_again) for _ in range(sockets)]
    for thread in threads:
        thread.start()
    began.set()


@contextmanager
def besieging(url: str, name: str, sockets: int) -> Iterator[None]:
    """The attack `name` from so many sockets while the block runs."""
    context = multiprocessing.get_context("spawn")
    began = context.Event()
    process = context.Process(target=_besiege, args=(url, name, sockets, began), daemon=True)
    process.start()
    try:
        assert began.wait(60)
        yield
    finally:
        process.kill()
        process.join()


def under_attack(
    server: ServerProcess, name: str, sockets: int, seconds: float
) -> dict[str, float]:
    """What others notice: of GET /health, of a client with good requests; memory and the log."""
    rng, taken, refused = Random(f"{name} {sockets}"), [], 0  # clips of its own
    session = requests.Session()
    with besieging(server.url, name, sockets):
        time.sleep(1)  # the sockets connect
        logged = server.log.stat().st_size
        with probing(server.url) as health, watching(server.process.pid, seconds) as memory:
            begin = time.monotonic()
            while (left := begin + seconds - time.monotonic()) > 0:
                asked = prepare([encode_wav(new_clip(rng))], ["metal"], ("tags",))
                start = time.monotonic()
                with suppress(requests.RequestException):
                    if send(session, server.url, asked).status_code == 200:
                        taken.append(time.monotonic() - start)
                    else:
                        refused += 1
                time.sleep(min(0.1, left))
            elapsed = time.monotonic() - begin
        logged = server.log.stat().st_size - logged
    return {
        "health p50 ms": round(1000 * median(health), 1),
        "health max ms": round(1000 * max(health), 1),
        "good requests": len(taken),
        "good request median s": round(median(taken), 3) if taken else float("inf"),
        "good request max s": round(max(taken), 3) if taken else float("inf"),
        "good requests refused": refused,
        "memory MB": round(max(memory)),
        "log kB a second": round(logged / elapsed / 1000, 1),
    }


def goodput(url: str, clients: int, seconds: float) -> float:
    """Clips scored a second by so many clients, each with one clip a time, that obey Retry-After.

    The first third does not count: until then the crowd has not spread.
    """
    new_clip(Random(0))  # the recording that clips are cut from is made once
    begin = time.monotonic()
    done: list[float] = []

    def ask(seed: int) -> None:
        rng, session = Random(seed), requests.Session()
        asked = prepare([encode_wav(new_clip(rng))], ["metal"], ("tags",))
        while (now := time.monotonic() - begin) < seconds:
            with suppress(requests.ConnectionError):
                response = send(session, url, asked)
                if response.status_code == 503:
                    time.sleep(min(float(response.headers["Retry-After"]), seconds - now))
                    continue
                response.raise_for_status()
                done.append(time.monotonic() - begin)
            asked = prepare([encode_wav(new_clip(rng))], ["metal"], ("tags",))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(seconds / 3 <= at < seconds for at in done) / (2 / 3 * seconds)
