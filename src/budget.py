"""What a search may spend, and what it has spent.

A `Plan` fixes a method's budget before anything runs and says what it must cost; a `Ledger` counts
what was really done, where it was done. At the end of each group of prompts the two are compared,
and a difference stops the run: a method that spends more than it says cannot be compared fairly.

With N candidates, J steps of F_1..F_J frames (T in all) and lookahead k, the cost of one prompt is

    baseline    T frames                                   1 clip scored
    best_of_n   N*T frames                                 N clips
    sbs, dvts   N*T frames                                 N*J clips
    lookahead   N*sum_j [F_j + F_{j+1} + .. + F_{min(j+k, J)}] frames   N*J clips
    halving     sum_j n_j*F_j frames, N*T at most          sum_j n_j clips
    smc         N*T frames                                 N*J clips
    power       N*T frames                                 N clips
    waves       N*T frames at most                         N clips at most

where halving holds n_j candidates in step j (src/methods.py, HalvingPlan), and soft_best_of_n costs
what best_of_n does.

(Snell et al., arXiv 2408.03314, section 5.2, give N*(k+1) for lookahead; rollouts stop at the end
of the clip, which makes the exact number a little smaller.) The baseline's single clip is scored
so that it can be compared, not selected; the other methods score their winner while they select
it, so no score is taken twice. A frame is one column of the codec's token grid, 50 a second for
MusicGen; the frames of a greedy rollout count as much as any others.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from operator import mul
from typing import Any, ClassVar, Literal, NamedTuple, get_args

Stage = Literal[
    "conditions", "decode", "render", "wav", "http", "queue", "compute", "selection", "judge"
]
STAGES: tuple[Stage, ...] = get_args(Stage)


class PlanError(ValueError):
    """A budget that cannot be kept as asked for; the message says what to change."""


class BudgetError(RuntimeError):
    """The ledger differs from the cost that the method should have: a defect, never a user's
    error."""


class Span(NamedTuple):
    """Of the windows in which a clip is decoded that is longer than one: how many frames each has,
    and how many later the next one begins."""

    length: int
    stride: int

    @property
    def overlap(self) -> int:
        """Frames that a window is given of the one before."""
        return self.length - self.stride


@dataclass(frozen=True)
class Cost:
    """Frames generated and clips scored."""

    frames: int
    clips: int


@dataclass(frozen=True)
class Parameter:
    """A setting of a method: the flag --<name>, and --<plural> of a sweep.

    letter: how labels name it ("k=1"). values: a sweep's grid unless another is asked for. least:
    the smallest value; most: the largest. divides: whether it must divide the number of candidates.
    unset: the value that leaves it to the method; labels do not name it.
    """

    name: str
    letter: str
    default: int | float
    help: str
    plural: str
    values: tuple[int | float, ...]
    least: float = 0
    most: float = math.inf
    divides: bool = False
    unset: float | None = None

    def check_range(self, value: float, flag: str = "") -> None:
        """Raise PlanError for a value out of range, whatever N is. flag: instead of `name`."""
        flag = flag or self.name
        if not (math.isfinite(value) and value >= self.least):
            raise PlanError(f"--{flag} must be {self.least:g} or more, not {value:g}")
        if value > self.most:
            raise PlanError(f"--{flag} must be {self.most:g} or less, not {value:g}")

    def in_words(self, value: float, sign: str = "=") -> list[str]:
        """As labels have it, such as ["k=1"]; [] where it is left to the method."""
        return [] if value == self.unset else [f"{self.letter}{sign}{value:g}"]

    def check(self, value: float, method: str, candidates: int) -> None:
        """Raise PlanError for a value that the method cannot have with so many candidates."""
        self.check_range(value)
        if self.divides and candidates % value:
            divisors = [m for m in range(1, candidates + 1) if candidates % m == 0]
            raise PlanError(
                f"{candidates} candidates cannot be split into families of {value}: with --method "
                f"{method}, --{self.name} must divide --candidates. Values that do: "
                f"{', '.join(map(str, divisors))}"
            )


@dataclass(frozen=True)
class Method:
    """A way to search: how it runs, what it may spend, its own parameters, its colour.

    run: takes a Group through its steps and gives its results. shape: "single": one whole clip;
    "whole": N whole clips; "steps": candidates that are pruned after each step. plan: the class of
    its plan, for a method that costs something else. colour: in every figure. src/methods.py has
    the registry.
    """

    name: str
    summary: str
    run: Callable[[Any], Any] = field(repr=False)
    shape: Literal["single", "whole", "steps"]
    colour: str
    parameters: tuple[Parameter, ...] = ()
    plan: "type[Plan] | None" = None

    @property
    def prunes(self) -> bool:
        return self.shape == "steps"

    def check(self, candidates: int, parameters: Mapping[str, float]) -> None:
        """Raise PlanError when N and the parameters do not go together."""
        if candidates < 1:
            raise PlanError(f"--candidates must be 1 or more, not {candidates}")
        for parameter in self.parameters:
            value = parameters.get(parameter.name, parameter.default)
            parameter.check(value, self.name, candidates)

    def make_plan(
        self,
        candidates: int,
        duration: float,
        step_size: float,
        frame_rate: float,
        parameters: Mapping[str, float],
        given: int = 0,
    ) -> "Plan":
        """What one prompt may cost. duration, step_size: seconds; frame_rate: frames a second.

        parameters: of those that are given, the method's own are taken; what lacks is the default.
        given: frames with which every candidate begins: what follows is planned. Raises PlanError.
        """
        self.check(candidates, parameters)
        total = whole_frames("--duration", duration, frame_rate) - given
        if total <= 0:
            raise PlanError(
                f"--duration must be longer than the clip that is continued: more than "
                f"{given / frame_rate:g} s"
            )
        step = whole_frames("--step_size", step_size, frame_rate)
        steps: tuple[int, ...] = (total,)
        if self.prunes:
            whole, rest = divmod(total, step)
            steps = (step,) * whole + ((rest,) if rest else ())
        own = {p.name: parameters.get(p.name, p.default) for p in self.parameters}
        kind, budget = self.plan or Plan, 1 if self.shape == "single" else candidates
        return kind(
            method=self,
            candidates=kind.begun(budget, steps, own),
            steps=steps,
            frame_rate=frame_rate,
            parameters=own,
            budget=budget,
            given=given,
        )


@dataclass(frozen=True)
class Plan:
    """One method's budget for one prompt.

    candidates: those that it begins with: N (1 for baseline), or what `begun` makes of N.
    budget: N.
    steps: frames of each step; only the last may be shorter than the first.
    frame_rate: frames a second.
    parameters: the method's own: beam_width is M, the children of each kept parent; lookahead_k
    the search steps of greedy rollout by which a candidate is scored.
    given: frames with which every candidate begins; they cost nothing.
    """

    method: Method
    candidates: int
    steps: tuple[int, ...]
    frame_rate: float
    parameters: Mapping[str, float] = field(default_factory=dict)
    budget: int = 1
    given: int = 0
    # Whether it may end before all is spent: `expected` is the most.
    stops: ClassVar[bool] = False

    @classmethod
    def begun(
        cls,
        candidates: int,
        steps: Sequence[int],  # noqa: ARG003
        parameters: Mapping[str, float],  # noqa: ARG003
    ) -> int:
        """How many candidates a search of budget N begins with. Raises PlanError."""
        return candidates

    @property
    def held(self) -> tuple[int, ...]:
        """Candidates that there are in each step: all of them are continued and scored."""
        return (self.candidates,) * len(self.steps)

    @property
    def beam_width(self) -> int:
        return int(self.parameters.get("beam_width", 1))

    @property
    def kept(self) -> int:
        """K, the parents that survive each prune."""
        return self.candidates // self.beam_width

    @property
    def frames(self) -> int:
        """T, the frames of a finished clip, but for those given."""
        return sum(self.steps)

    @property
    def length(self) -> int:
        """The frames of a finished clip."""
        return self.given + self.frames

    def abreast(self, max_rows: int, window: int) -> int:  # noqa: ARG002
        """Prompts that are searched side by side where the decoder takes so many rows at once.

        window: the most frames of which a row has a past.
        """
        return max(1, max_rows // self.candidates)

    def rollout(self, step: int) -> int:
        """Frames of the greedy rollout after `step` (0 = the first): k steps, or up to the end."""
        k = int(self.parameters.get("lookahead_k", 0))
        return sum(self.steps[step + 1 : step + 1 + k])

    def expected(self) -> Cost:
        """The exact cost of one prompt."""
        frames = [own + self.rollout(step) for step, own in enumerate(self.steps)]
        scored = sum(map(mul, self.held, map(bool, self.heard())))
        return Cost(sum(map(mul, self.held, frames)), scored)

    def heard(self) -> tuple[int, ...]:
        """Frames of a candidate's clip that is scored after each step, its rollout included; 0
        where it is not."""
        ends = itertools.accumulate(self.steps)
        return tuple(self.given + end + self.rollout(step) for step, end in enumerate(ends))

    def fed(self, span: Span | None) -> list[tuple[int, int]]:
        """How often frames are fed that are there already: the step, and how many of a candidate.

        Those given, and the overlap where a window begins: in a step, or in a rollout.
        """
        if span is None or self.length <= span.length:
            return [(0, self.given)] if self.given else []
        length, overlap, given = span.length, span.overlap, self.given
        starts = range(0, self.length - overlap, span.stride)
        found = [
            (0, min(given - start, length))
            for start in starts
            if start + (overlap if start else 1) <= given
        ]
        stops = list(itertools.accumulate(self.steps, initial=given))
        for step, (begun, stop) in enumerate(itertools.pairwise(stops)):
            ahead = stop + self.rollout(step)
            later = [start + overlap for start in starts if start and start + overlap > given]
            ends = [end for end in later if begun <= end < stop or stop < end < ahead]
            found += [(step, overlap)] * len(ends)
        return found

    def cut(self, given: int, length: int) -> "Plan":
        """The same search of a clip of at most so many frames, which begins with `given` of them:
        what one of a longer clip's windows sees."""
        ends = [min(end, length - given) for end in itertools.accumulate(self.steps)]
        steps = [end - start for start, end in itertools.pairwise([0, *ends]) if end > start]
        return replace(self, steps=tuple(steps), given=given)

    def positions(self, lag: int) -> float:
        """The most positions whose keys and values the decoder keeps, a candidate.

        A candidate's own are those of a step with its rollout, in the first one with what is given;
        what came before is kept once for the M children of a parent. That is exact until families
        come to share older ancestors, whose past is then kept once too. lag: positions by which the
        last codebook comes later.
        """
        of_steps = [frames + self.rollout(step) for step, frames in enumerate(self.steps)]
        of_steps[0] += self.given
        before = self.length - self.steps[-1] if len(self.steps) > 1 else 0
        return max(of_steps) + lag + ((before + lag) / self.beam_width if before else 0)


def whole_frames(name: str, seconds: float, frame_rate: float) -> int:
    """`seconds` as a number of frames. Raises PlanError where they are not whole frames."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise PlanError(f"{name} must be more than 0 seconds, not {seconds:g}")
    frames = round(seconds * frame_rate)
    if frames < 1 or abs(frames - seconds * frame_rate) > 1e-6 * frame_rate:
        raise PlanError(
            f"{name} {seconds:g} s is not a whole number of frames ({frame_rate:g} a second): "
            f"use a multiple of {1 / frame_rate:g} s"
        )
    return frames


@dataclass
class Ledger:
    """What has been spent: frames generated, clips scored, bytes uploaded, seconds by stage.

    Prompts searched side by side share the seconds of their group in equal parts; frames and clips
    are each prompt's own. `http` is the time a request took beyond the server's queue and compute.
    """

    frames: int = 0
    clips: int = 0
    uploaded_bytes: int = 0
    seconds: dict[Stage, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def __add__(self, other: "Ledger") -> "Ledger":
        sums = {stage: self.seconds[stage] + other.seconds[stage] for stage in STAGES}
        uploaded = self.uploaded_bytes + other.uploaded_bytes
        return Ledger(self.frames + other.frames, self.clips + other.clips, uploaded, sums)

    def check(self, expected: Cost, at_most: bool = False) -> None:
        """Raise BudgetError unless exactly `expected` was spent, or that at most."""
        spent = Cost(self.frames, self.clips)
        within = spent.frames <= expected.frames and spent.clips <= expected.clips
        if not (within if at_most else spent == expected):
            raise BudgetError(
                f"spent {self.frames} frames and {self.clips} scored clips on a prompt where the "
                f"method costs {expected.frames} and {expected.clips}. This is a defect of the "
                "search, not of your settings: please report it with the run's manifest.json."
            )


@contextmanager
def timed(ledgers: Mapping[int, Ledger], stage: Stage) -> Iterator[None]:
    """Book the seconds of a `with` block under `stage`, in equal parts to each of `ledgers`."""
    start = time.perf_counter()
    yield
    share = (time.perf_counter() - start) / max(1, len(ledgers))
    for ledger in ledgers.values():
        ledger.seconds[stage] += share
