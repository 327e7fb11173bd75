"""Verifier actors: the verifier server's own application, reached through Ray in place of a socket.

    actors = start_verifiers(["tags"], 2)
    wait_for(actors)
    client = client_of((), None, actors)

Micro-batches, limits and errors are those of the server. The body of a request goes through Ray's
object store as bytes in a numpy array, which an actor on the same machine reads in place.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import ray
import requests
from ray import exceptions
from requests.adapters import BaseAdapter

from src import protocol
from src.client import ServerClient
from src.cluster import reason_of, require_ray, runtime_env
from src.connection import ServerUnreachable
from src.data.files import ROOT
from src.runs.local_server import PYTHON, START_SECONDS
from src.runs.settings import UsageError

logger = logging.getLogger(__name__)

CHUNK_BYTES = 2**20  # of a body in one ASGI message
TOLD_SECONDS = 10.0  # between two messages that actors have not started yet
LOST = (
    *(exceptions.RayActorError, exceptions.WorkerCrashedError, exceptions.OutOfMemoryError),
    *(exceptions.NodeDiedError, exceptions.ObjectLostError),
)

Answer = tuple[int, dict[str, str], bytes]  # status, headers, content


class VerifierActor:
    """The server's application with its models. Runs in the verifier environment.

    After a restart models load anew, and requests are answered meanwhile as a starting server does.
    """

    def __init__(self, names: Sequence[str], device: str) -> None:
        # What only the verifier environment has, or must not come before an actor: torch.
        import httpx

        from src.server.app import create_app
        from src.server.settings import ServerSettings, configure_torch
        from src.verifier_core import choose

        # As many threads as Ray gives the actor cores (OMP_NUM_THREADS).
        settings = ServerSettings(models=tuple(names), device=device, threads=-1)
        adapters, _ = choose(settings.models)
        settings = replace(settings, device=configure_torch(settings, len(adapters)))
        app = create_app(adapters, settings)
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._lifespan = app.router.lifespan_context(app)
        self._is_started = False

    def machine(self) -> dict[str, Any]:
        """What it runs on."""
        from src.runs.provenance import machine

        return {name: value for name, value in machine().items() if name != "command"}

    async def ready(self) -> dict[str, str]:
        """Wait until no model loads any more. Returns why which did not load."""
        nothing, path = np.empty(0, np.uint8), protocol.READY_PATH
        while True:
            _, _, content = await self.send("GET", path, {}, nothing)
            states = protocol.Readiness.model_validate_json(content)
            if "loading" not in states.models.values():
                return states.problems
            await asyncio.sleep(0.05)

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: np.ndarray
    ) -> Answer:
        """What the application answers. body: uint8 [bytes]."""
        import httpx

        if not self._is_started:
            self._is_started = True
            await self._lifespan.__aenter__()  # never left: the process is ended

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(body), CHUNK_BYTES):
                yield body[start : start + CHUNK_BYTES].tobytes()

        content = chunks() if len(body) else None
        request = httpx.Request(method, f"http://verifiers{path}", headers=headers, content=content)
        response = await self._transport.handle_async_request(request)
        return response.status_code, dict(response.headers), await response.aread()


def client_of(
    urls: Sequence[str],
    token: str | None,
    actors: Sequence[Any],
    waiting: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> ServerClient:
    """A client of verifier actors or, where there are none, of the servers at `urls`."""
    if not actors:
        return ServerClient(urls, token, waiting=waiting)
    transport = RayTransport(actors)
    return ServerClient(list(transport.actors), transport=transport, waiting=waiting)


class RayTransport(BaseAdapter):
    """Carries requests to verifier actors. actors: by their addresses.

    An actor that is lost is a ConnectionError (one that is lost for good a ConnectTimeout), an
    answer that does not come a ReadTimeout, so that a client tries again, and comes to another.
    Raises ServerUnreachable when all are lost for good.
    """

    def __init__(self, actors: Sequence[Any]) -> None:
        super().__init__()
        self.actors = {f"ray://verifier-{number}": actor for number, actor in enumerate(actors)}
        self._dead: set[str] = set()

    def send(
        self, request: requests.PreparedRequest, *_: Any, timeout: Any = None, **__: Any
    ) -> requests.Response:
        """timeout: as requests has it. Verification, proxies and the like say nothing here."""
        seconds = timeout[1] if isinstance(timeout, tuple) else timeout
        body = request.body.encode() if isinstance(request.body, str) else request.body or b""
        url = request.url or ""
        address = url.removesuffix(urlsplit(url).path)
        asked = request.method, request.path_url, dict(request.headers)
        answer = self.actors[address].send.remote(*asked, np.frombuffer(body, np.uint8))
        try:
            status, headers, content = ray.get(answer, timeout=seconds)
        except exceptions.GetTimeoutError:
            ray.cancel(answer)
            raise requests.ReadTimeout(f"no answer within {seconds:g} s") from None
        except LOST as error:
            reason = reason_of(error)
            if not isinstance(error, exceptions.ActorDiedError):
                raise requests.ConnectionError(f"a verifier actor was lost: {reason}") from error
            self._dead.add(address)
            if len(self._dead) < len(self.actors):
                raise requests.ConnectTimeout(f"a verifier actor is lost: {reason}") from error
            raise ServerUnreachable(
                f"all {len(self.actors)} verifier actors are lost: {reason}"
            ) from error
        response = requests.Response()
        response.status_code, response._content = status, content
        response.headers.update(headers)
        response.url, response.request = url, request
        return response

    def close(self) -> None:
        pass


def start_verifiers(
    names: Sequence[str], count: int, *, num_cpus: float = 1.0, num_gpus: float = 0.0
) -> list[Any]:
    """Handles of `count` actors that each host the verifiers `names`, and load them from now on.

    num_cpus, num_gpus: of each; without a GPU models run on the CPU. They end with the driver.
    Raises UsageError where Ray is missing in the verifier environment.
    """
    require_ray([PYTHON])
    actor = ray.remote(VerifierActor).options(
        runtime_env=runtime_env(PYTHON),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        max_restarts=-1,
        scheduling_strategy="SPREAD",
    )
    device = "cuda" if num_gpus else "cpu"
    return [actor.remote(list(names), device) for _ in range(count)]


def wait_for(actors: Sequence[Any], seconds: float = START_SECONDS) -> None:
    """Until all models of these verifier actors are loaded. seconds: how long at most.

    Raises UsageError where the cluster has no place for them, ServerUnreachable where they do not
    start.
    """
    starting = [actor.ready.remote() for actor in actors]
    deadline = time.monotonic() + seconds
    while starting:
        left = deadline - time.monotonic()
        limit = max(0.0, min(TOLD_SECONDS, left))
        ready, starting = ray.wait(starting, num_returns=len(starting), timeout=limit)
        _check(ready)
        if not starting:
            return
        there, free = ray.cluster_resources(), ray.available_resources()
        places = [f"{free.get(k, 0):g} of {there.get(k, 0):g} {k}s" for k in ("CPU", "GPU")]
        problem = f"{len(starting)} of {len(actors)} verifier actors have not started; free are "
        problem += ", ".join(places)
        if left <= 0:
            raise UsageError(
                f"{problem}. Start fewer, or give each less; and every machine needs the checkout "
                f"at {ROOT}, with Ray"
            )
        logger.warning("%s", problem)


def _check(ready: Sequence[Any]) -> None:
    """Raise ServerUnreachable for an actor that did not start, or a model that did not load."""
    try:
        problems = [problem for found in ray.get(list(ready)) for problem in found.items()]
    except LOST as error:
        raise ServerUnreachable(f"a verifier actor did not start: {reason_of(error)}") from error
    for name, problem in problems:
        raise ServerUnreachable(f"{name} did not load in a verifier actor: {problem}")
