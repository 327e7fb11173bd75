"""The generators of a cluster: who has which piece of work, and what happens when one dies.

A generator never has more pieces than its groups in flight, so that what is not begun waits with
the driver. When one dies, another is started, and its pieces are done again: they gave nothing yet.
A piece during which a generator died is done again by one that does nothing else; where that dies
too, prompt by prompt; and a prompt that ends its generator alone has failed, with the reason.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from src.cluster import reason_of
from src.cluster.generators import Facts
from src.decoding.device import OutOfMemory
from src.generator import GeneratorError
from src.runs.local_server import START_SECONDS
from src.runs.run import Finished
from src.runs.settings import UsageError
from src.runs.work import Piece, Workers, halves

log = logging.getLogger(__name__)

DIED = (RayActorError, WorkerCrashedError, NodeDiedError, ObjectLostError, OutOfMemoryError)
STARTS = 3  # of generators in a row that end before they are ready
TOLD_SECONDS = 10.0
SLOW_SECONDS, SLOW_TIMES = 600.0, 10  # at least; of the slowest piece that was finished


@dataclass(eq=False)
class Seat:
    """A generator's place. starting: the answer that says that it is ready, until it does."""

    actor: Any
    starting: Any = None
    facts: Facts | None = None


@dataclass(frozen=True)
class Task:
    """is_alone: done by a generator that does nothing else: one died of it, or beside it. begun:
    when it was handed out."""

    piece: Piece[Any]
    is_alone: bool = False
    begun: float = 0.0


class Crew:
    """count: generators; in_flight: pieces that each may have. create: starts one, with so many
    rows side by side as there were before; None: as many as fit."""

    def __init__(self, count: int, in_flight: int, create: Callable[[int | None], Any]) -> None:
        self.count, self.in_flight, self.create = count, in_flight, create
        self.seats: list[Seat] = []
        self.tasks: dict[Any, tuple[Task, Seat]] = {}  # by their answer
        self.facts: Facts | None = None
        self._texts: Any = None
        self._failed_starts = self._jobs = 0
        self._slowest = self._told = 0.0

    def start(self, texts: Sequence[str]) -> None:
        """Start all. texts: of which they are asked how much they know."""
        self._texts = ray.put(list(texts))
        for _ in range(self.count):
            self._start()

    def ready(self) -> Facts:
        """Wait until they have started; what the first says of itself.

        Raises UsageError where there is no room for a single one, and what a generator raises that
        cannot load its model.
        """
        deadline, told = time.monotonic() + START_SECONDS, time.monotonic()
        while starting := [seat for seat in self.seats if seat.starting is not None]:
            ready, _ = ray.wait([seat.starting for seat in starting], timeout=1.0)
            self._take_starts(ready)
            now = time.monotonic()
            if now > deadline:
                break
            if not ready and now - told > TOLD_SECONDS:
                log.info("%d of %d generators are not ready yet", len(starting), self.count)
                told = now
        if self.facts is None:
            there = {key: ray.cluster_resources().get(key, 0) for key in ("CPU", "GPU")}
            raise UsageError(
                f"no generator could be started: the cluster has {there['CPU']:g} cores and "
                f"{there['GPU']:g} GPUs; ask for less (--generator_actors, --gpus_per_generator, "
                "--cpus_per_generator)"
            )
        return self.facts

    def end(self) -> None:
        for seat in self.seats:
            ray.kill(seat.actor)

    def workers(self, make: Callable[[Any], Any]) -> Workers:
        """Who do pieces of work, with the parts that `make` makes around their models."""
        self._jobs += 1
        self._slowest = 0.0
        job = self._jobs, ray.put(make)

        def work(pieces: Iterable[Piece[Any]]) -> Iterator[Finished]:
            left, again = iter(pieces), deque[Task]()
            while True:
                self._hand_out(job, left, again)
                if not self.tasks and not again:
                    if (piece := next(left, None)) is None:
                        return
                    again.append(Task(piece))  # nobody could take it: all are starting
                yield from self._take(again)

        return work

    def _hand_out(
        self, job: tuple[int, Any], left: Iterator[Piece[Any]], again: deque[Task]
    ) -> None:
        """Give generators what they have room for: first, and then only, what is done again."""
        number, make = job
        while (seat := self._least_busy(1 if again else self.in_flight)) is not None:
            if again:
                task = again.popleft()
            elif (piece := next(left, None)) is not None:
                task = Task(piece)
            else:
                return
            task = replace(task, begun=time.monotonic())
            self.tasks[seat.actor.do.remote(number, make, task.piece)] = task, seat

    def _least_busy(self, room: int) -> Seat | None:
        """Of the generators that have less than so much to do, and nothing that is done alone."""
        own: dict[Seat, list[Task]] = {seat: [] for seat in self.seats if seat.starting is None}
        for task, seat in self.tasks.values():
            own.get(seat, []).append(task)
        free = [
            seat
            for seat, tasks in own.items()
            if len(tasks) < room and not any(task.is_alone for task in tasks)
        ]
        return min(free, key=lambda seat: len(own[seat]), default=None)

    def _take(self, again: deque[Task]) -> Iterator[Finished]:
        """What has come by now, of one answer or several; waits a second for the first."""
        if not self.tasks:
            self._wait_for_a_start()
        starting = [seat.starting for seat in self.seats if seat.starting is not None]
        ready, _ = ray.wait([*self.tasks, *starting], timeout=1.0)
        self._take_starts([answer for answer in ready if answer in starting])
        self._tell_of_slow_ones()
        for answer in ready:
            if answer not in self.tasks:
                continue
            task, seat = self.tasks.pop(answer)
            self._slowest = max(self._slowest, time.monotonic() - task.begun)
            try:
                yield from ray.get(answer)
            except DIED as error:
                self._replace(seat, reason_of(error))
                yield from self._after_a_death(task, reason_of(error), again)
            except RayTaskError as error:
                if not isinstance(error.cause, OutOfMemory) or len(task.piece.prompts) < 2:
                    raise error.cause from error
                log.warning("%s. On with half as many prompts", error.cause)
                again.extend(Task(piece, is_alone=True) for piece in halves(task.piece))

    def _tell_of_slow_ones(self) -> None:
        """A generator that hangs is not known from one that is slow: it is named, not ended."""
        now, limit = time.monotonic(), max(SLOW_SECONDS, SLOW_TIMES * self._slowest)
        if now < self._told + SLOW_SECONDS:
            return
        for seat in {seat for task, seat in self.tasks.values() if now - task.begun > limit}:
            self._told, place = now, seat.facts and seat.facts.place
            log.warning(
                "a generator has been at one group for more than %.0f minutes: %s. If it hangs, "
                "end it, and another does its work",
                limit / 60,
                place,
            )

    def _after_a_death(self, task: Task, reason: str, again: deque[Task]) -> Iterator[Finished]:
        if not task.is_alone:
            again.append(replace(task, is_alone=True))
        elif len(task.piece.prompts) > 1:
            for prompt in task.piece.prompts:
                again.append(replace(task, piece=replace(task.piece, prompts=[prompt])))  # type: ignore[type-var]
        else:
            yield from task.piece.failed(f"its generator was lost each time: {reason}")

    def _start(self) -> None:
        actor = self.create(self.facts.max_rows if self.facts else None)
        self.seats.append(Seat(actor, actor.load.remote(self._texts)))

    def _replace(self, seat: Seat, reason: str) -> None:
        if seat in self.seats:  # once, however many pieces it had
            log.warning("a generator was lost: %s", reason)
            self.seats.remove(seat)
            ray.kill(seat.actor)  # where it was out of reach only
            self._start()

    def _take_starts(self, answers: Sequence[Any]) -> None:
        for seat in [seat for seat in self.seats if seat.starting in answers]:
            try:
                facts: Facts = ray.get(seat.starting)
            except RayTaskError as error:
                raise error.cause from error
            except DIED as error:
                self._failed_starts += 1
                if self._failed_starts == STARTS:
                    raise GeneratorError(f"generators do not start: {reason_of(error)}") from error
                self._replace(seat, reason_of(error))
                continue
            self.facts = self.facts or facts
            for name in ("checkpoint", "device", "dtype"):
                own, first = getattr(facts, name), getattr(self.facts, name)
                if own != first:
                    raise GeneratorError(f"generators differ in their {name}: {first}, {own}")
            seat.starting, seat.facts, self._failed_starts = None, facts, 0

    def _wait_for_a_start(self) -> None:
        """Where no generator is left: until another is ready."""
        starting = [seat.starting for seat in self.seats]
        if all(answer is not None for answer in starting):
            log.warning("no generator is left: waiting for another")
            ready, _ = ray.wait(starting, timeout=START_SECONDS)
            if not ready:
                raise GeneratorError(
                    "no generator is left, and the cluster has no room for another"
                )
            self._take_starts(ready)
