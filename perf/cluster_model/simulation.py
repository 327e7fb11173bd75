"""A discrete-event model of a run: generators, verifiers, an object store, one driver that writes.

A closed queueing network. Each generator holds `in_flight` groups; a group passes through its
stages, and when the driver has written its records its place goes to the next group. Generators,
the stores of nodes, verifiers' intake (unpack, decode, resample) and the driver serve one job at a
time, first in first out; a verifier takes micro-batches, as src/server/batching.py does. Requests
of a place go to the verifiers in turn, or to the one with the fewest clips; a run's are between the
two, as each generator asks the one that has the fewest of its own requests. With
`cores`, all that computes shares them (processor sharing): n threads on c < n cores go at c/n of
their pace.

Left out: starting and loading; faults; judges; what a verifier remembers; refusals of a full queue;
the wait for a batch to fill; contention for memory bandwidth, a network's switch or a shared disk;
threads that spin while others compute (on shared cores OpenMP's do, and it is slower than this);
prompts that take longer than others, but for `spread`; the last groups of a run, when some
generators have none.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from operator import mul
from typing import Literal

Place = Literal["generator", "store", "intake", "verifier", "driver"]
PLACES: tuple[Place, ...] = ("generator", "store", "intake", "verifier", "driver")


@dataclass(frozen=True)
class Stage:
    """What a group does next, and where. seconds: at full pace; of one clip where there are clips,
    which a verifier scores in batches."""

    place: Place
    seconds: float
    clips: int = 0


@dataclass(frozen=True)
class Setup:
    """What there is. max_clips, batch_seconds: a micro-batch's size at most, and what it takes
    beyond its clips. cores: shared by all that computes; threads: of a generator's (a verifier's)
    job. spread: the coefficient of variation of every stage's seconds (lognormal). balanced: a
    request goes to the verifier with the fewest clips to score, not to the next in turn."""

    generators: int
    verifiers: int
    in_flight: int = 2
    gpus_per_node: int = 8
    max_clips: int = 32
    batch_seconds: float = 0.0
    cores: float = math.inf
    threads: tuple[int, int] = (1, 1)
    spread: float = 0.0
    balanced: bool = False
    seed: int = 0


class Clock:
    """Time, and what ends when. Jobs with threads share the cores; others wait for a device.

    All jobs go at the same pace, so that one heap over the work done at that pace suffices.
    """

    def __init__(self, cores: float) -> None:
        self.now = self._worked = 0.0  # seconds, and seconds of work that a job has had since 0
        self._cores, self._busy, self._order = cores, 0, count()
        self._jobs: list[tuple[float, int, int, Callable[[], None]]] = []
        self._waits: list[tuple[float, int, Callable[[], None]]] = []

    def start(self, seconds: float, threads: int, done: Callable[[], None]) -> None:
        if threads:
            heappush(self._jobs, (self._worked + seconds, next(self._order), threads, done))
            self._busy += threads
        else:
            heappush(self._waits, (self.now + seconds, next(self._order), done))

    def step(self) -> bool:
        """Go on to the next end of a job; False when there is none."""
        pace = min(1.0, self._cores / self._busy) if self._busy else 1.0
        left = (self._jobs[0][0] - self._worked) / pace if self._jobs else math.inf
        waits = self._waits[0][0] - self.now if self._waits else math.inf
        if not self._jobs and not self._waits:
            return False
        passed = max(0.0, min(left, waits))
        self.now += passed
        self._worked += passed * pace
        if left <= waits:
            *_, threads, done = heappop(self._jobs)
            self._busy -= threads
        else:
            *_, done = heappop(self._waits)
        done()
        return True


@dataclass
class Meter:
    """The integral of a number over time."""

    clock: Clock
    level: int = 0
    total: float = 0.0
    _since: float = 0.0

    def add(self, change: int) -> None:
        self.read()
        self.level += change

    def read(self) -> float:
        self.total += self.level * (self.clock.now - self._since)
        self._since = self.clock.now
        return self.total


@dataclass(eq=False)
class Group:
    """A group of prompts on its way. place: of a generator's, the one it takes; left: clips of this
    stage that are not scored yet."""

    generator: int
    place: int
    stages: Sequence[Stage]
    begun: float
    at: int = -1
    left: int = 0
    verifier: int = 0


@dataclass
class Server:
    """One that serves: its queue, and the seconds for which it was busy."""

    busy: Meter
    threads: int
    queue: deque[tuple[Group, int]] = field(default_factory=deque)  # with so many clips


@dataclass
class Outcome:
    """Of the time that is measured, without a run's beginning and end: groups that were finished,
    its seconds, and by place the part of it for which the servers were busy."""

    groups: int
    seconds: float
    busy: dict[Place, float]

    @property
    def rate(self) -> float:
        """Groups a second."""
        return self.groups / self.seconds

    @property
    def first(self) -> Place:
        """What saturates first."""
        return max(self.busy, key=self.busy.__getitem__)


class Simulation:
    """groups: how many there are, five for each place at least; stages: of each. held: how many are
    in it; sojourns: the seconds that those finished spent in it, together."""

    def __init__(self, setup: Setup, stages: Sequence[Stage], groups: int) -> None:
        self.setup, self.stages, self.groups = setup, stages, groups
        self.clock, self.random = Clock(setup.cores), random.Random(setup.seed)
        nodes = -(-setup.generators // setup.gpus_per_node)
        sizes = (setup.generators, nodes, setup.verifiers, setup.verifiers, 1)
        threads = dict(zip(PLACES, (setup.threads[0], 0, 1, setup.threads[1], 0), strict=True))
        self.servers: dict[Place, list[Server]] = {
            place: [Server(Meter(self.clock), threads[place]) for _ in range(size)]
            for place, size in zip(PLACES, sizes, strict=True)
        }
        self.promised = [0] * setup.verifiers  # clips that each is to score
        self.turns = [  # of each generator's places: the verifier that is asked next
            [self.random.randrange(setup.verifiers) for _ in range(setup.in_flight)]
            for _ in range(setup.generators)
        ]
        self.held = Meter(self.clock)
        self.begun = self.finished = 0
        self.sojourns = 0.0
        self.window: list[tuple[float, int, dict[Place, float]]] = []

    def run(self) -> Outcome:
        for place in range(self.setup.in_flight):
            for generator in range(self.setup.generators):
                self._begin(generator, place)
        while self.clock.step():
            pass
        assert self.finished == self.groups, "a group was lost"
        places = self.setup.generators * self.setup.in_flight  # so many finish in each round
        whole = (len(self.window) - 1) // places * places
        (start, before, then), (end, after, later) = self.window[0], self.window[whole]
        present = {place: len(servers) for place, servers in self.servers.items() if servers}
        busy = {p: (later[p] - then[p]) / (end - start) / n for p, n in present.items()}
        return Outcome(after - before, end - start, busy)

    def _begin(self, generator: int, place: int) -> None:
        if self.begun == self.groups:
            return
        self.begun += 1
        self.held.add(1)
        self._next(Group(generator, place, self.stages, self.clock.now))

    def _next(self, group: Group) -> None:
        """Queue a group for its next stage."""
        group.at += 1
        if group.at == len(group.stages):
            self._finish(group)
            return
        stage = group.stages[group.at]
        servers, clips = self.servers[stage.place], max(1, stage.clips)
        if stage.place == "intake":  # here a request finds its verifier
            group.verifier = self._chosen(group)
            self.promised[group.verifier] += group.stages[group.at + 1].clips
        nodes = self.setup.gpus_per_node
        own = {"generator": group.generator, "store": group.generator // nodes, "driver": 0}
        server = servers[own.get(stage.place, group.verifier)]
        group.left = clips
        server.queue.append((group, clips))
        self._serve(server)

    def _chosen(self, group: Group) -> int:
        if self.setup.balanced:
            return self.promised.index(min(self.promised))
        turns = self.turns[group.generator]
        turns[group.place] = (turns[group.place] + 1) % self.setup.verifiers
        return turns[group.place]

    def _serve(self, server: Server) -> None:
        """Let an idle server begin with what stands first: of clips a batch."""
        if server.busy.level or not server.queue:
            return
        most, seconds, batch = self.setup.max_clips, 0.0, []
        while server.queue and most > 0:
            group, clips = server.queue.popleft()
            stage = group.stages[group.at]
            taken = min(clips, most) if stage.clips else clips
            if taken < clips:
                server.queue.appendleft((group, clips - taken))
            batch.append((group, taken))
            seconds += taken * stage.seconds
            most = most - taken if stage.clips else 0
        seconds += self.setup.batch_seconds if stage.place == "verifier" else 0.0
        server.busy.add(1)
        self.clock.start(seconds * self._varied(), server.threads, lambda: self._end(server, batch))

    def _end(self, server: Server, batch: list[tuple[Group, int]]) -> None:
        server.busy.add(-1)
        for group, clips in batch:
            group.left -= clips
            if group.stages[group.at].clips:
                self.promised[group.verifier] -= clips
            if not group.left:
                self._next(group)
        self._serve(server)

    def _finish(self, group: Group) -> None:
        self.finished += 1
        self.held.add(-1)
        self.sojourns += self.clock.now - group.begun
        if 4 * self.finished >= self.groups and self.begun < self.groups:
            self.window.append((self.clock.now, self.finished, self.work()))
        self._begin(group.generator, group.place)

    def work(self) -> dict[Place, float]:
        """Seconds for which each place's servers were busy so far, together."""
        return {p: sum(server.busy.read() for server in s) for p, s in self.servers.items()}

    def _varied(self) -> float:
        if not self.setup.spread:
            return 1.0
        sigma = math.sqrt(math.log1p(self.setup.spread**2))
        return self.random.lognormvariate(-(sigma**2) / 2, sigma)


def simulate(setup: Setup, stages: Sequence[Stage], groups: int | None = None) -> Outcome:
    """groups: a dozen for each place by default, and 200 at least."""
    places = setup.generators * setup.in_flight
    return Simulation(setup, stages, groups or max(200, 12 * places)).run()


def bound(setup: Setup, stages: Sequence[Stage]) -> float:
    """Groups a second that no schedule can exceed: each place's work, spread evenly over its
    servers, and each group's own stages one after the other (the asymptotic bounds of closed
    networks, Denning and Buzen 1978)."""
    own = dict.fromkeys(PLACES, 0.0)
    for stage in stages:
        batches = stage.clips / setup.max_clips  # at least that many
        own[stage.place] += stage.seconds * max(1, stage.clips) + batches * setup.batch_seconds
    nodes = -(-setup.generators // setup.gpus_per_node)
    sizes = (setup.generators, nodes, setup.verifiers, setup.verifiers, 1)
    rates = [n / own[place] for place, n in zip(PLACES, sizes, strict=True) if own[place]]
    shared = own["intake"] + sum(map(mul, setup.threads, (own["generator"], own["verifier"])))
    rates += [setup.cores / shared] if shared else []
    return min(*rates, setup.generators * setup.in_flight / sum(own.values()))
