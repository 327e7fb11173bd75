"""Connections over real sockets: how long one may wait, how many there are, what framing costs."""

import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest

from src.client import ServerClient
from src.connection import ServerError
from src.data.audio import Clip
from src.protocol import Checkpoint, Limits
from src.server.connections import Seldom
from tests.verifier.server_process import ROOT, ServerProcess, answer_to, values, wav

GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = b"Host: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
NO_WEIGHTS = Checkpoint(name="fake", sha256="")


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that waits two seconds for its clients, and has 20 connections and one place."""
    log = tmp_path_factory.mktemp("hasty") / "log"
    options = ["--models", "fake", "--max_connections", "20", "--head_seconds", "2"]
    with ServerProcess(log, *options, "--max_requests", "1", token="hunter2") as server:
        server.wait_until_ready()
        yield server
        assert "Traceback" not in server.log.read_text()


def seconds_until_closed(connection: socket.socket) -> float:
    """How long until the server closes, whatever it says before."""
    begin = time.monotonic()
    try:
        while connection.recv(65_536):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - begin


def seconds_until_cut_off(connection: socket.socket) -> float:
    """How long a client can go on sending."""
    begin = time.monotonic()
    try:
        while True:
            connection.sendall(b"1\r\na\r\n" * 10_000)
    except (BrokenPipeError, ConnectionResetError):
        return time.monotonic() - begin


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize(
    "beginning",
    [
        b"\r\n",
        b"GET /health HTTP/1.1\r\nX-Unfinished: ",
        b"POST /texts HTTP/1.1\r\nAuthorization: Bearer hunter2\r\n"
        b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n",
    ],
    ids=["blank lines", "half a head", "a head without its body"],
)
def test_a_connection_whose_client_does_not_go_on_is_closed(
    hasty: ServerProcess, beginning: bytes, is_first: bool
) -> None:
    with hasty.connect(b"" if is_first else GET) as connection:
        if not is_first:
            assert answer_to(connection)[0] == 200
        connection.sendall(beginning)
        assert 1 < seconds_until_closed(connection) < 10


def test_a_request_may_take_longer_than_its_head_and_be_followed_by_another(
    hasty: ServerProcess,
) -> None:
    with hasty.connect(b"") as connection:
        for _ in range(2):
            connection.sendall(hasty.raw_post([wav(1.0)], ["sleep 2.5"]))
            assert answer_to(connection)[0] == 200
            time.sleep(2.2)  # idle connections are kept for longer


def test_beyond_the_connections_the_one_that_waits_longest_makes_way(hasty: ServerProcess) -> None:
    upload = hasty.raw_post([wav(1.0)])
    with ExitStack() as stack:
        begun = stack.enter_context(hasty.connect(upload[:-100]))
        idle = [stack.enter_context(hasty.connect(b"")) for _ in range(19)]
        time.sleep(0.3)
        assert hasty.get("/health").status_code == 200
        assert seconds_until_closed(idle[0]) < 1  # and not because it waits
        begun.sendall(upload[-100:])
        assert answer_to(begun)[0] == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"POST /score HTTP/1.1\r\n" + CHUNKED, 401),
        (b"POST /nowhere HTTP/1.1\r\nAuthorization: Bearer hunter2\r\n" + CHUNKED, 404),
        (b"PUT /score HTTP/1.1\r\nAuthorization: Bearer hunter2\r\n" + CHUNKED, 405),
        (b"POST /health HTTP/1.1\r\n" + CHUNKED, 405),
        (b"POST /score HTTP/1.1\r\nContent-Length: 9999999999\r\n\r\n", 401),
        (
            b"POST /score HTTP/1.1\r\nAuthorization: Bearer hunter2\r\n"
            b"Content-Length: 9999999999\r\n\r\n",
            413,
        ),
    ],
)
def test_an_answer_before_the_whole_body_ends_the_connection(
    hasty: ServerProcess, data: bytes, status: int
) -> None:
    with hasty.connect(data) as connection:
        found, _, headers = answer_to(connection)
        assert (found, headers["Connection"]) == (status, "close")
        assert seconds_until_cut_off(connection) < 5


def test_a_client_that_sends_all_before_it_reads_gets_its_refusal(hasty: ServerProcess) -> None:
    client = ServerClient(hasty.url, token="wrong", total_seconds=20)
    client._known_limits = Limits()
    silence = Clip(np.zeros((2, 48_000 * 60), np.float32), 48_000)
    with pytest.raises(ServerError, match="set CURATOR_TOKEN"):
        client.score({"fake": NO_WEIGHTS}, ["any"] * 4, [silence] * 4)  # 92 MB


def test_a_head_without_end_is_not_kept_while_another_request_is_scored(
    hasty: ServerProcess,
) -> None:
    slow = hasty.raw_post([wav()], ["sleep 3"])
    with hasty.connect(slow + b"GET /health HTTP/1.1\r\nX: " + b"y" * 600_000) as connection:
        assert seconds_until_closed(connection) < 1.5
    hasty.wait_for("curator_requests_scoring", 0)


@pytest.mark.parametrize(
    "data",
    [
        b"POST /score HTTP/1.1\r\nAuthorization: Bearer hunter2\r\n"
        + CHUNKED
        + b"1\r\na\r\n" * 5_000,
        b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 1_000 + b"\r\n",
        b"GET /health HTTP/1.1\r\nX: " + b"y" * 500_000,
        b"GET /" + b"y" * 500_000,
        GET * 1_000,
    ],
    ids=["tiny chunks", "many headers", "a long header", "a long path", "pipelined"],
)
def test_costly_framing_ends_the_connection(hasty: ServerProcess, data: bytes) -> None:
    with hasty.connect(data) as connection:
        assert seconds_until_closed(connection) < 1.5  # and not because it waits
    assert hasty.get("/health").status_code == 200


def test_a_body_in_chunks_as_clients_make_them_is_read(hasty: ServerProcess) -> None:
    body = hasty.raw_post([wav(1.0, seconds=30)]).split(b"\r\n\r\n", 1)[1]
    kind = "multipart/form-data; boundary=" + body.split(b"\r\n", 1)[0][2:].decode()
    pieces = (body[at : at + 200] for at in range(0, len(body), 200))
    headers = {"Content-Type": kind}
    assert values(hasty.post_to("/score", data=pieces, headers=headers)) == pytest.approx(
        [0], abs=1e-4
    )


def test_clients_refused_together_are_told_to_come_again_apart(hasty: ServerProcess) -> None:
    with ThreadPoolExecutor(1) as clients:
        busy = clients.submit(hasty.post, [wav()], ["sleep 2"])
        time.sleep(1.0)
        hints = [hasty.post([wav()]).json()["retry_after_seconds"] for _ in range(8)]
        values(busy.result())
    assert 0.25 < min(hints) < max(hints) < 3.5  # 0.5 to 1.5 times a second or two
    assert len(set(hints)) >= 7  # milliseconds: now and then two are the same


def test_the_server_may_open_as_many_files_as_the_system_lets_it() -> None:
    code = (
        "import resource, src.server.connections as c;"
        "print(c.raise_file_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    command = f'ulimit -Sn 100 && ulimit -Hn 500 && exec "{sys.executable}" -c "{code}"'
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["500", "500", "500"], done.stderr


def test_a_message_that_comes_again_and_again_is_logged_seldom() -> None:
    seldom = Seldom("socket.accept() out of", seconds=0.1)

    def passes(text: str) -> bool:
        return bool(seldom.filter(logging.makeLogRecord({"msg": text})))

    message = "socket.accept() out of system resource"
    assert [passes(message), passes(message), passes("another")] == [True, False, True]
    time.sleep(0.11)
    assert passes(message)
