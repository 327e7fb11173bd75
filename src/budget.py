"""What a search may spend, and what it has spent.

A `Plan` fixes a method's budget before anything runs and says what it must cost; a `Ledger` counts
what was really done, where it was done. At the end of each group of prompts the two are compared,
and a difference stops the run: a method that spends more than it says cannot be compared fairly.

With N candidates, J steps of F_1..F_J frames (T in all) and lookahead k, the cost of one prompt is

    baseline    T frames                                   1 clip scored
    best_of_n   N*T frames                                 N clips
    sbs         N*T frames                                 N*J clips
    lookahead   N*sum_j [F_j + F_{j+1} + .. + F_{min(j+k, J)}] frames   N*J clips

(Snell et al., arXiv 2408.03314, section 5.2, give N*(k+1) for lookahead; rollouts stop at the end
of the clip, which makes the exact number a little smaller.) The baseline's single clip is scored
so that it can be compared, not selected; the other methods score their winner while they select
it, so no score is taken twice. A frame is one column of the codec's token grid, 50 a second for
MusicGen; the frames of a greedy rollout count as much as any others.
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, get_args

Method = Literal["baseline", "best_of_n", "sbs", "lookahead"]
METHODS: tuple[Method, ...] = get_args(Method)
TREE_METHODS: tuple[Method, ...] = ("sbs", "lookahead")

Stage = Literal[
    "conditions", "decode", "render", "wav", "http", "queue", "compute", "selection", "judge"
]
STAGES: tuple[Stage, ...] = get_args(Stage)


class PlanError(ValueError):
    """A budget that cannot be kept as asked for; the message says what to change."""


class BudgetError(RuntimeError):
    """The ledger differs from the cost that the method should have: a defect, never a user's
    error."""


@dataclass(frozen=True)
class Cost:
    """Frames generated and clips scored."""

    frames: int
    clips: int

    def __mul__(self, prompts: int) -> "Cost":
        return Cost(self.frames * prompts, self.clips * prompts)


@dataclass(frozen=True)
class Plan:
    """One method's budget for one prompt.

    candidates: N, held at each step (1 for baseline).
    beam_width: M, children of each kept parent; K = N/M parents are kept.
    lookahead_k: search steps of greedy rollout by which a candidate is scored.
    steps: frames of each step; only the last may be shorter than the first.
    frame_rate: frames a second.
    """

    method: Method
    candidates: int
    beam_width: int
    lookahead_k: int
    steps: tuple[int, ...]
    frame_rate: float

    def __post_init__(self) -> None:
        check_budget(self.method, self.candidates, self.beam_width, self.lookahead_k)
        if not self.steps or min(self.steps) < 1:
            raise PlanError(f"steps must be one frame or more each, not {self.steps}")
        if any(step != self.steps[0] for step in self.steps[:-1]) or self.steps[-1] > self.steps[0]:
            raise PlanError(f"steps must be equal, the last one at most shorter, not {self.steps}")
        if self.method not in TREE_METHODS and len(self.steps) > 1:
            raise PlanError(f"{self.method} generates whole clips: it has one step")

    @property
    def kept(self) -> int:
        """K, the parents that survive each prune."""
        return self.candidates // self.beam_width

    @property
    def frames(self) -> int:
        """T, the frames of a finished clip."""
        return sum(self.steps)

    def rollout(self, step: int) -> int:
        """Frames of the greedy rollout after `step` (0 = the first): k steps, or up to the end."""
        return sum(self.steps[step + 1 : step + 1 + self.lookahead_k])

    def expected(self) -> Cost:
        """The exact cost of one prompt."""
        frames = sum(own + self.rollout(step) for step, own in enumerate(self.steps))
        return Cost(self.candidates * frames, self.candidates * len(self.steps))


def make_plan(
    method: Method,
    *,
    candidates: int,
    beam_width: int,
    lookahead_k: int,
    duration: float,
    step_size: float,
    frame_rate: float,
) -> Plan:
    """The plan of a run: what a method does not use (baseline's N, sbs' k) is set to its neutral
    value.

    duration, step_size: seconds. Raises PlanError.
    """
    check_budget(method, candidates, beam_width, lookahead_k)
    total = _whole_frames("duration", duration, frame_rate)
    step = _whole_frames("step_size", step_size, frame_rate)
    if method not in TREE_METHODS:
        return Plan(method, 1 if method == "baseline" else candidates, 1, 0, (total,), frame_rate)
    whole, rest = divmod(total, step)
    steps = (step,) * whole + ((rest,) if rest else ())
    k = lookahead_k if method == "lookahead" else 0
    return Plan(method, candidates, beam_width, k, steps, frame_rate)


def check_budget(method: str, candidates: int, beam_width: int, lookahead_k: int) -> None:
    """Raise PlanError when N, M and k do not go together for this method."""
    if method not in METHODS:
        raise PlanError(f"no method {method!r}; there are {', '.join(METHODS)}")
    if candidates < 1:
        raise PlanError(f"candidates must be 1 or more, not {candidates}")
    if method not in TREE_METHODS:
        return
    if beam_width < 1:
        raise PlanError(f"beam_width must be 1 or more, not {beam_width}")
    if candidates % beam_width:
        divisors = [m for m in range(1, candidates + 1) if candidates % m == 0]
        raise PlanError(
            f"{candidates} candidates cannot be split into families of {beam_width}: with --method "
            f"{method}, --beam_width must divide --candidates. Beam widths that do: "
            f"{', '.join(map(str, divisors))}"
        )
    if lookahead_k < 0:
        raise PlanError(f"lookahead_k must be 0 or more, not {lookahead_k}")


def _whole_frames(name: str, seconds: float, frame_rate: float) -> int:
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

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())

    def add(self, other: "Ledger") -> None:
        self.frames += other.frames
        self.clips += other.clips
        self.uploaded_bytes += other.uploaded_bytes
        for stage, seconds in other.seconds.items():
            self.seconds[stage] += seconds

    def check(self, expected: Cost, prompts: int = 1) -> None:
        """Raise BudgetError unless exactly `expected` was spent for each of `prompts` prompts."""
        spent, allowed = Cost(self.frames, self.clips), expected * prompts
        if spent != allowed:
            raise BudgetError(
                f"spent {spent.frames} frames and {spent.clips} scored clips on {prompts} prompts "
                f"where the method costs {allowed.frames} and {allowed.clips}. This is a defect of "
                "the search, not of your settings: please report it with the run's manifest.json."
            )


@contextmanager
def timed(ledgers: Mapping[int, Ledger], stage: Stage) -> Iterator[None]:
    """Book the seconds of a `with` block under `stage`, in equal parts to each of `ledgers`."""
    start = time.perf_counter()
    yield
    share = (time.perf_counter() - start) / max(1, len(ledgers))
    for ledger in ledgers.values():
        ledger.seconds[stage] += share
