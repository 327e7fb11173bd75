"""What is watched of the verifier server while others use it: GET /health, and its memory."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from multiprocessing.connection import Connection

import psutil
from tqdm import tqdm


def probe(url: str, path: str, pipe: Connection) -> None:
    """In a process of its own: GET every 20 ms until told to stop; sends back the seconds taken.

    A thread of the clients' process would measure how long the clients keep it waiting. A
    connection that is refused or cut off is made again, and the seconds go on.
    """
    host, port = url.removeprefix("http://").split(":")
    connection = HTTPConnection(host, int(port), timeout=30)
    taken = []
    while not pipe.poll(0.02):
        begin, status = time.perf_counter(), 0
        while status != 200 and not pipe.poll():
            try:
                connection.request("GET", path)
                response = connection.getresponse()
                response.read()
                status = response.status
            except (OSError, HTTPException):
                connection.close()
                time.sleep(0.001)
        taken.append(time.perf_counter() - begin)
    pipe.send(taken)


@contextmanager
def probing(url: str) -> Iterator[list[float]]:
    """Seconds that GET /health takes while the block runs; filled when it ends."""
    taken: list[float] = []
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=probe, args=(url, "/health", theirs), daemon=True
    )
    process.start()
    try:
        yield taken
    finally:
        ours.send("stop")
        if ours.poll(40):
            taken += ours.recv()
        process.join(5)


@contextmanager
def watching(pid: int, seconds: float) -> Iterator[list[float]]:
    """Resident megabytes of a process, four times a second while the block runs."""
    samples: list[float] = []
    done, process = threading.Event(), psutil.Process(pid)

    def watch() -> None:
        with tqdm(total=round(seconds), unit="s", leave=False, disable=None) as bar:
            begin = time.monotonic()
            while not done.wait(0.25):
                samples.append(process.memory_info().rss / 2**20)
                bar.n = min(bar.total, round(time.monotonic() - begin))
                bar.refresh()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()
