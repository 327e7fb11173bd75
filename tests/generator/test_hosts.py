"""Several servers: which is asked, and what becomes of a request that one of them does not answer.

With real servers in processes: tests/verifier/test_several_servers.py.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from src import connection
from src.client import ServerClient, check_alike
from src.connection import ServerError, ServerUnreachable
from src.protocol import Limits
from tests.generator.stub_server import GENERATOR, TAGS, StubServer, clip, problem

FULL = problem(503, "queue_full", {"Retry-After": "1"}, retry_after_seconds=0.6)
Two = tuple[StubServer, StubServer]


@pytest.fixture
def two() -> Iterator[Two]:
    one, two = StubServer(), StubServer()
    yield one, two
    one.stop(), two.stop()


def client_of(*stubs: StubServer) -> ServerClient:
    client = ServerClient([stub.url for stub in stubs], total_seconds=5)
    client._known_limits = Limits()
    return client


def score(client: ServerClient, times: int = 1) -> None:
    for _ in range(times):
        (found,) = client.score({"tags": TAGS}, ["a"], [clip(0.25)])["tags"].scores
        assert found.value == 0.25  # type: ignore[union-attr]


def test_idle_servers_are_asked_in_turn_by_all_clients_of_a_process_together(two: Two) -> None:
    client = client_of(*two)
    other = client.another()
    for _ in range(3):
        score(client, 2)
        score(other)
        score(client)
    assert [len(stub.uploads) for stub in two] == [6, 6]


def test_a_server_that_is_asked_already_is_left_to_its_work(two: Two) -> None:
    client, told = client_of(*two), threading.Event()
    for stub in two:
        stub.answers = [lambda: told.wait() and None]  # then the connection is cut
    with ThreadPoolExecutor() as pool:
        busy = pool.submit(score, client.another())
        while not any(stub.uploads for stub in two):
            time.sleep(0.01)
        (idle,) = (stub for stub in two if not stub.uploads)
        idle.answers = []
        score(client, 5)
        assert len(idle.uploads) == 5
        told.set()
        busy.result()


@pytest.mark.parametrize(
    "answer",
    [FULL, problem(503, "stopping"), lambda: None],
    ids=["has no room", "is stopping", "breaks off"],
)
def test_what_one_server_does_not_answer_another_does_at_once(
    two: Two, answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection.time, "sleep", lambda _: pytest.fail("it waited"))
    one, other = two
    one.answers = [answer]
    client = client_of(*two)
    score(client, 4)
    assert len(one.uploads) == 1 + (4 - len(other.uploads))  # one upload was for nothing
    assert len(other.uploads) >= 1


def test_a_full_server_is_not_asked_before_its_time_and_then_again(two: Two) -> None:
    one, client = two[0], client_of(*two)
    one.answers = [FULL]
    begin = time.monotonic()
    score(client, 2)
    while len(one.uploads) < 2:
        score(client)
    assert time.monotonic() - begin >= 0.6


def test_a_server_that_is_gone_costs_no_answer_and_is_seldom_asked(
    two: Two, caplog: pytest.LogCaptureFixture
) -> None:
    client = client_of(*two)
    score(client, 2)
    two[0].stop()
    client._connection._session.close()
    score(client, 100)
    assert 1 <= caplog.text.count(f"{two[0].url}: no connection; again in") <= 12
    two[1].stop()
    nobody = client_of(*two)
    with pytest.raises(ServerUnreachable) as error:
        score(nobody)
    assert all(stub.url in str(error.value) for stub in two)


def test_servers_that_are_not_alike_are_told_with_what_they_differ_in(two: Two) -> None:
    one, other = two
    check_alike([one.url, other.url], None, ["tags"])
    other.hosted, other.limits = {"tags": GENERATOR}, Limits(max_files=3)
    match = rf"{one.url} and {other.url} differ in limit max_files: 256, 3; checkpoint of tags"
    with pytest.raises(ServerError, match=rf"{match}: .*{TAGS.sha256}.*, .*builtin"):
        check_alike([one.url, other.url], None, ["tags"])
    other.hosted = {"clap": TAGS}
    with pytest.raises(ServerError, match=rf"{other.url} does not host tags; it hosts clap"):
        check_alike([one.url, other.url], None, ["tags"])
