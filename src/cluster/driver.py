"""The driver: a script whose generators and verifiers are Ray actors, on one machine or many.

    models = open_models(settings, ["tags"], texts, stack)    # without --ray: of this process
    for finished in models.workers(make, parts)(pieces): ...

The driver forms groups of prompts, hands them out and writes what comes back, as the same run
without Ray would. A search knows nothing of it.
"""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from src.client import ServerClient
from src.cluster import require_ray, runtime_env
from src.cluster.settings import ClusterSettings
from src.runs.build import Models, connect, load_models
from src.runs.local_server import PYTHON as VERIFIER_PYTHON
from src.runs.settings import AUTO, UsageError, server_token

if TYPE_CHECKING:
    from src.cluster.crew import Crew
    from src.runs.work import Workers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shares:
    """How many generators there are, and what each actor takes: options of Ray's actors, num_cpus
    and num_gpus."""

    generators: int
    generator: dict[str, float]
    verifier: dict[str, float]


@dataclass(frozen=True)
class ClusterModels(Models):
    """Models that are in actors: `generator` and `renderer` are what those say of themselves.
    started: for the manifest."""

    in_order: ClassVar[bool] = False

    crew: "Crew"
    started: dict[str, Any]

    @property
    def here(self) -> dict[str, Any]:
        return super().here | self.started

    def workers(self, make: Callable[[Models], Any], parts: Any) -> "Workers":  # noqa: ARG002
        return self.crew.workers(make)


def open_models(
    settings: ClusterSettings,
    names: Sequence[str],
    texts: Sequence[str],
    stack: ExitStack,
    decodes: bool = True,
) -> Models:
    """What a run needs; with --ray in actors, which `stack` ends, as the server of --server auto.

    names: verifiers that are asked. texts: all prompts'. decodes: whether the language model is
    used. Raises UsageError where Ray is missing, or a cluster has no room for what is asked.
    """
    if settings.ray is None or settings.dry_run:
        return load_models(settings, decodes, connect(settings, names, stack))
    hosts = bool(names) and settings.server == AUTO
    require_ray([VERIFIER_PYTHON] if hosts else [])
    stack.enter_context(joined(settings.ray))
    shares = shares_of(settings, settings.verifier_actors if hosts else 0)
    in_flight = settings.in_flight or (2 if names else 1)
    client: Callable[..., ServerClient] | None = None
    verifiers: list[Any] = []
    if names:
        from src.cluster.verifiers import client_of, start_verifiers, wait_for

        if hosts:
            log.info(
                "starting %d verifier actors for %s", settings.verifier_actors, ", ".join(names)
            )
            verifiers = start_verifiers(names, settings.verifier_actors, **shares.verifier)
        else:
            connect(settings, names, stack)  # which looks whether servers are alike
        client = partial(client_of, settings.server, server_token(), verifiers)
    log.info("starting %d generators of %s", shares.generators, settings.model)
    crew = crew_of(settings, decodes, client, in_flight, shares)
    stack.callback(crew.end)
    crew.start(texts)
    if hosts:
        wait_for(verifiers)
    facts = crew.ready()
    started = {"in_flight": in_flight, **machines_of(crew, verifiers)}
    own = client(nullcontext) if client else None
    generator: Any = facts if decodes else None
    renderer: Any = replace(facts, device="cpu")  # judges of this process have no GPU
    return ClusterModels(generator, renderer, own, crew, started)


@contextmanager
def joined(address: str) -> Iterator[None]:
    """A driver of the cluster at the address; 'local': of one that ends with it. A process that is
    a driver already stays that."""
    import ray

    if ray.is_initialized():
        yield
        return
    log.info("starting Ray on this machine" if address == "local" else f"joining {address}")
    if address not in ("local", "auto"):
        try:  # Ray itself would go on trying for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--ray {address}: no cluster's head answers there ({error}): name its address and "
                "port as `ray start` tells them, such as 10.0.0.1:6379"
            ) from None
    usual: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        usual |= {"num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False}
    try:
        ray.init(address, **usual)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(f"--ray {address}: {error}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray's own prints a trace of its C++ stack
    try:
        yield
    finally:
        ray.shutdown()


def shares_of(settings: ClusterSettings, verifiers: int) -> Shares:
    """Cores and GPUs of a generator and of a verifier actor, of which there are so many. Raises
    UsageError where the cluster has less."""
    import ray

    there = ray.cluster_resources()
    gpus = 0.0 if settings.device == "cpu" else there.get("GPU", 0.0)
    of_generator, of_verifier = settings.gpus_per_generator, settings.gpus_per_verifier
    if of_generator is None:
        of_generator = 1.0 if gpus else 0.0
    count = settings.generator_actors
    if count is None:
        kept = verifiers * ((1.0 if gpus >= 2 else 0.0) if of_verifier is None else of_verifier)
        count = max(1, int((gpus - kept) / of_generator)) if of_generator else 1
    if of_verifier is None:
        of_verifier = 1.0 if gpus - count * of_generator >= max(1, verifiers) else 0.0
    cores = there.get("CPU", 0.0)
    smallest = min(node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"])
    share = max(1, int(min(cores // (count + verifiers), smallest)))
    cores_of_generator = settings.cpus_per_generator or (1 if of_generator else share)
    cores_of_verifier = settings.cpus_per_verifier or (1 if of_verifier else share)
    for what, asked, has in (
        ("GPUs", count * of_generator + verifiers * of_verifier, gpus),
        ("cores", count * cores_of_generator + verifiers * cores_of_verifier, cores),
    ):
        if asked > has:
            raise UsageError(
                f"{count} generators and {verifiers} verifier actors take {asked:g} {what}, and "
                f"the cluster has {has:g}: start fewer (--generator_actors, --verifier_actors), or "
                "give each less (--gpus_per_generator 0.5, --cpus_per_verifier 1, ..)"
            )
    return Shares(
        count,
        {"num_cpus": cores_of_generator, "num_gpus": of_generator},
        {"num_cpus": cores_of_verifier, "num_gpus": of_verifier},
    )


def crew_of(
    settings: ClusterSettings,
    decodes: bool,
    client: Callable[..., ServerClient] | None,
    in_flight: int,
    shares: Shares,
) -> "Crew":
    """The generators, none of them started."""
    import sys
    from pathlib import Path

    import ray

    from src.cluster.crew import Crew
    from src.cluster.generators import GeneratorActor

    kind = ray.remote(GeneratorActor).options(
        runtime_env=runtime_env(Path(sys.executable)),
        max_concurrency=in_flight,
        scheduling_strategy="SPREAD",
        **shares.generator,
    )
    asked = settings, decodes, client, in_flight
    return Crew(shares.generators, in_flight, lambda max_rows: kind.remote(*asked, max_rows))


def machines_of(crew: "Crew", verifiers: Sequence[Any]) -> dict[str, Any]:
    """What each actor runs on, for the manifest."""
    import ray

    return {
        "generators": [dict(seat.facts.machine) for seat in crew.seats if seat.facts],
        "verifiers": ray.get([actor.machine.remote() for actor in verifiers]),
    }
