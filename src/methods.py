"""The search methods: a registry.

    plan = METHODS["sbs"].make_plan(8, 10.0, 2.0, 50.0, {"beam_width": 4})

To add a method is to add one line to METHODS: its flags, its place in sweeps and latency grids, its
row in cost tables and its colour follow. One setting of a method is a `SearchCell` (src/cells.py).
"""

import itertools
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from operator import mul

from src.budget import Method, Parameter, Plan, PlanError
from src.search import (
    best_of_n,
    diverse_search,
    halving,
    power,
    smc,
    soft_best_of_n,
    tree_search,
    waves,
)

BASELINE, BEST_OF_N = "baseline", "best_of_n"

BEAM_WIDTH = Parameter(
    name="beam_width",
    letter="M",
    default=4,
    help="M: children of each kept parent; N/M parents are kept. Must divide N.",
    plural="beam_widths",
    values=(2, 4),
    least=1,
    divides=True,
)
LOOKAHEAD_K = Parameter(
    name="lookahead_k",
    letter="k",
    default=1,
    help="k: steps of greedy rollout before lookahead scores a candidate; 0 is sbs.",
    plural="lookahead_ks",
    values=(1,),
)
KEEP = Parameter(
    name="keep",
    letter="keep",
    default=0.5,
    help="keep: the part of its candidates with which halving goes on after a step, rounded down.",
    plural="keeps",
    values=(0.5,),
    most=1,
)
START = Parameter(
    name="start",
    letter="N0",
    default=0,
    help="N0: candidates that halving begins with; 0: as many as N whole clips' frames are for.",
    plural="starts",
    values=(0,),
    unset=0,
)
SOFTEN = Parameter(
    name="soften",
    letter="lambda",
    default=0.5,
    help="lambda: soft_best_of_n draws its winner by softmax(score / lambda), in the unit of the "
    "score; 0 is best_of_n.",
    plural="softens",
    values=(0.5,),
)
WAVE = Parameter(
    name="wave",
    letter="wave",
    default=4,
    help="Samples that waves takes at once, before it asks whether one more is worth its price.",
    plural="wave_sizes",
    values=(4,),
    least=1,
)
PRICE = Parameter(
    name="price",
    letter="price",
    default=0.1,
    help="What one more sample costs waves, in standard deviations of the scores so far: it stops "
    "where it is expected to raise the best by no more; 0 is best_of_n.",
    plural="prices",
    values=(0.1,),
)
TEMPER = Parameter(
    name="temper",
    letter="temper",
    default=2.0,
    help="How much smc weighs a particle's score, in units of the spread after the first step; 0 "
    "is best_of_n.",
    plural="tempers",
    values=(2.0,),
)
ALPHA = Parameter(
    name="alpha",
    letter="alpha",
    default=1.01,
    help="alpha: power samples from the generator's distribution to this power; 1 leaves it.",
    plural="alphas",
    values=(1.01,),
)
TILT = Parameter(
    name="tilt",
    letter="tilt",
    default=0.0,
    help="Besides, power weighs by p(x|text) / p(x) to this power.",
    plural="tilts",
    values=(0.0,),
    unset=0.0,
)
DRAW = Parameter(
    name="draw",
    letter="draw",
    default=0,
    help="1: smc and power draw their winner in proportion to the weights; 0: the verifier's best.",
    plural="draws",
    values=(0,),
    most=1,
    unset=0,
)


def halved(start: int, keep: float, steps: int) -> tuple[int, ...]:
    """Candidates of each step of halving: floor(keep * n) follow n, at least one.

    >>> halved(25, 0.5, 3)
    (25, 12, 6)
    """
    held = [start]
    for _ in range(steps - 1):
        held.append(max(1, math.floor(keep * held[-1] + 1e-9)))
    return tuple(held)


class HalvingPlan(Plan):
    """N0 candidates, of which the better part goes on after each step.

    N0: the most that N*T frames are for, unless it is given. (Successive halving as in Hyperband,
    arXiv 1603.06560, which rounds down too.)
    """

    @classmethod
    def begun(cls, candidates: int, steps: Sequence[int], parameters: Mapping[str, float]) -> int:
        budget = candidates * sum(steps)

        def frames(start: int) -> int:
            return sum(map(mul, halved(start, parameters["keep"], len(steps)), steps))

        start = int(parameters["start"])
        if start and frames(start) > budget:
            least = -(-frames(start) // sum(steps))
            raise PlanError(
                f"halving that starts with {start} takes {frames(start)} frames, and {candidates} "
                f"candidates are a budget of {budget}: lower --start, or take --candidates {least}"
            )
        return start or bisect_right(range(budget // steps[0] + 1), budget, key=frames) - 1

    @property
    def held(self) -> tuple[int, ...]:
        return halved(self.candidates, self.parameters["keep"], len(self.steps))

    def positions(self, lag: int) -> float:
        """Nothing is shared: every candidate that is left has a past of its own."""
        fed = (self.given + end + lag for end in itertools.accumulate(self.steps))
        return max(map(mul, self.held, fed)) / self.candidates

    def abreast(self, max_rows: int, window: int) -> int:
        """Two batches' worth, of which those that are left fill one, where their pasts take no more
        memory than whole ones of one batch."""
        one = super().abreast(max_rows, window)
        past = (min(self.given + end, window) for end in itertools.accumulate(self.steps))
        fits = 2 * one * max(map(mul, self.held, past)) <= max_rows * window
        return 2 * one if fits else one


class WavesPlan(Plan):
    """N candidates at most, `wave` of them at a time."""

    stops = True

    @classmethod
    def begun(
        cls,
        candidates: int,
        steps: Sequence[int],  # noqa: ARG003
        parameters: Mapping[str, float],
    ) -> int:
        return min(candidates, int(parameters["wave"]))

    @property
    def held(self) -> tuple[int, ...]:
        return (self.budget,)

    def abreast(self, max_rows: int, window: int) -> int:
        """Two batches' worth, of which those that go on fill one."""
        return super().abreast(max_rows, window) * (2 if self.budget > self.candidates else 1)


class PowerPlan(Plan):
    """The verifier hears finished clips only."""

    def heard(self) -> tuple[int, ...]:
        return (*(0 for _ in self.steps[1:]), self.length)


# Okabe and Ito's colours and some of Tol's, told apart by all kinds of colour vision.
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(BASELINE, "one sample", best_of_n, "single", "#555555"),
        Method(BEST_OF_N, "N whole samples; the best wins", best_of_n, "whole", "#0072B2"),
        Method("sbs", "beam search", tree_search, "steps", "#D55E00", (BEAM_WIDTH,)),
        Method(
            "lookahead",
            "beam search that scores each candidate at the end of a greedy rollout",
            tree_search,
            "steps",
            "#009E73",
            (BEAM_WIDTH, LOOKAHEAD_K),
        ),
        Method(
            "dvts",
            "beam search in N/M subtrees that never compete",
            diverse_search,
            "steps",
            "#CC79A7",
            (BEAM_WIDTH,),
        ),
        Method(
            "halving",
            "many candidates, of which the better part goes on after each step",
            halving,
            "steps",
            "#56B4E9",
            (KEEP, START),
            HalvingPlan,
        ),
        Method(
            "soft_best_of_n",
            "N whole samples, of which one is drawn by its score: not always the best",
            soft_best_of_n,
            "whole",
            "#999933",
            (SOFTEN,),
        ),
        Method(
            "waves",
            "N whole samples at most: it stops when one more is not worth its price",
            waves,
            "whole",
            "#332288",
            (WAVE, PRICE),
            WavesPlan,
        ),
        Method(
            "smc",
            "particles that are resampled by how their scores grow",
            smc,
            "steps",
            "#E69F00",
            (TEMPER, DRAW),
        ),
        Method(
            "power",
            "particles, resampled by how likely the generator finds them: their score before the "
            "last step",
            power,
            "steps",
            "#882255",
            (ALPHA, TILT, DRAW),
            PowerPlan,
        ),
    )
}
PARAMETERS: tuple[Parameter, ...] = tuple(
    dict.fromkeys(parameter for method in METHODS.values() for parameter in method.parameters)
)


def parameters_of(methods: Iterable[str]) -> list[Parameter]:
    """The parameters that any of these methods has, each once."""
    return list(dict.fromkeys(p for name in methods for p in METHODS[name].parameters))


def colour_of(method: str) -> str:
    """A method's colour in every figure; one for all that are not registered (any more)."""
    return METHODS[method].colour if method in METHODS else "#888888"
