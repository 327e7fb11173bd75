"""Verifier actors answer as a verifier server does, whatever becomes of one of them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from threading import Thread
from typing import Any

import numpy as np
import pytest
import ray
import requests
from ray.cluster_utils import Cluster
from ray.exceptions import RayActorError

from src.budget import Ledger
from src.client import ServerClient
from src.cluster.verifiers import RayTransport, client_of, start_verifiers, wait_for
from src.connection import ServerError, ServerUnreachable
from src.data.audio import Clip
from src.runs.local_server import local_server
from src.runs.settings import UsageError

PROMPTS = ["a slow piano piece", "fast guitar with drums", "xyzzy", "a choir, no drums"]


def clip(seed: int, seconds: float = 4.0) -> Clip:
    """Noise; silence for 3."""
    samples = np.random.default_rng(seed).normal(0, 0.1, (1, round(16_000 * seconds)))
    return Clip((samples * (seed != 3)).astype(np.float32), 16_000)


CLIPS = [clip(seed) for seed in range(len(PROMPTS))]


def client_to(*actors: Any) -> ServerClient:
    return client_of((), None, actors)


@pytest.fixture(scope="module")
def actors(cluster: Cluster) -> list[Any]:
    started = start_verifiers(["tags"], 2)
    wait_for(started)
    return started


@pytest.fixture(scope="module")
def server() -> Iterator[ServerClient]:
    with local_server(["tags"]) as url:
        yield ServerClient(url)


def answers(client: ServerClient, embeddings: tuple[str, ...] = ()) -> dict[str, Any]:
    found = client.score(client.checkpoints(["tags"]), PROMPTS, CLIPS, embeddings)["tags"]
    return found.model_dump(include={"checkpoint", "scores"})


def test_scores_refusals_and_embeddings_are_those_of_a_server_to_the_last_bit(
    actors: list[Any], server: ServerClient
) -> None:
    plain, embedded = answers(server), answers(server, ("tags",))
    assert ["value" in score for score in plain["scores"]] == [True, True, False, False]
    assert all("embedding" in score for score in embedded["scores"][:2])
    for actor in actors:
        assert answers(client_to(actor)) == plain
        assert answers(client_to(actor), ("tags",)) == embedded
    assert client_to(*actors).unread(["tags"], PROMPTS) == server.unread(["tags"], PROMPTS)


def test_errors_are_those_of_a_server(actors: list[Any], server: ServerClient) -> None:
    client = client_to(*actors)
    for asking in (client, server):
        weights = asking.checkpoints(["tags"])
        with pytest.raises(ServerError, match=r"prompt 0 has 100000 characters; .*too_large"):
            asking.score(weights, ["x" * 100_000], CLIPS[:1])
        with pytest.raises(ServerError, match=r"clap is not hosted here; .*unknown_verifier"):
            asking.unread(["clap"], PROMPTS)


def test_a_large_request_passes_in_one_piece(actors: list[Any]) -> None:
    client = client_to(*actors)
    weights, one = client.checkpoints(["tags"]), clip(0, seconds=20)
    client.take_usage()
    found = client.score(weights, ["piano"] * 64, [one] * 64)["tags"].scores
    assert client.take_usage().uploaded_bytes > 64 * one.samples.nbytes / 2
    assert found == client.score(weights, ["piano"], [one])["tags"].scores * 64


def test_an_actor_that_is_killed_costs_no_answer_and_comes_back(actors: list[Any]) -> None:
    client, killed = client_to(*actors), actors[0]
    weights = client.checkpoints(["tags"])
    wanted = answers(client)
    kill = Thread(target=lambda: (time.sleep(0.3), ray.kill(killed, no_restart=False)))
    kill.start()
    streamed = []
    while kill.is_alive() or len(streamed) < 20:
        streamed.append(client.score(weights, PROMPTS, CLIPS)["tags"].scores)
    assert all(scores == streamed[0] for scores in streamed)
    assert answers(client_to(killed)) == wanted


class Stub:
    """Answers GETs with its name, after so many seconds."""

    def __init__(self, name: str, seconds: float = 0.0) -> None:
        self.name, self.seconds = name, seconds

    def send(self, *_: Any) -> tuple[int, dict[str, str], bytes]:
        time.sleep(self.seconds)
        return 200, {}, self.name.encode()


def stubs(*seconds: float) -> list[Any]:
    stub = ray.remote(Stub).options(num_cpus=0)
    return [stub.remote(str(n), s) for n, s in enumerate(seconds)]


def kill(actor: Any) -> None:
    ray.kill(actor)
    with suppress(RayActorError):
        while True:  # until it is dead
            ray.get(actor.send.remote())


def get(transport: RayTransport, number: int = 0, seconds: float = 120.0) -> bytes:
    request = requests.Request("GET", f"ray://verifier-{number}/x").prepare()
    return transport.send(request, timeout=(5.0, seconds)).content


def test_requests_leave_out_the_dead_and_end_with_the_last(cluster: Cluster) -> None:
    actors = stubs(0, 0)
    transport = RayTransport(actors)
    assert [get(transport, number) for number in range(2)] == [b"0", b"1"]
    kill(actors[0])
    connection, usage = client_to(*actors)._connection, Ledger()
    assert {connection.send("GET", "/x", usage).content for _ in range(6)} == {b"1"}
    kill(actors[1])
    begin = time.monotonic()
    with pytest.raises(ServerUnreachable, match=r"all 2 verifier actors are lost: .*killed"):
        client_to(*actors).listing()
    assert time.monotonic() - begin < 20


def test_an_answer_that_does_not_come_is_a_timeout_waited_for_as_the_caller_says(
    cluster: Cluster,
) -> None:
    entered = count()

    @contextmanager
    def waiting() -> Iterator[None]:
        next(entered)
        yield

    actors = stubs(60)
    with pytest.raises(requests.Timeout):
        get(RayTransport(actors), seconds=0.5)
    client = client_of((), None, actors, waiting)
    client._connection.total_seconds = 0.5
    with pytest.raises(ServerUnreachable, match="ReadTimeout: no answer within"):
        client.listing()
    assert next(entered) == 1


def test_actors_that_cannot_start_say_why(cluster: Cluster) -> None:
    with pytest.raises(ServerUnreachable, match=r"did not start: .*nothing: no such verifier"):
        wait_for(start_verifiers(["nothing"], 1))
    with pytest.raises(UsageError, match=r"1 of 1 verifier actors have not started; .* of 8 CPUs"):
        wait_for(start_verifiers(["tags"], 1, num_gpus=2), seconds=0.5)
