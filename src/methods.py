"""The search methods, and one setting of one of them.

    plan = METHODS["sbs"].make_plan(8, 10.0, 2.0, 50.0, {"beam_width": 4})
    cell = SearchCell("lookahead", 8, {"beam_width": 4, "lookahead_k": 1}, step_size=2.0, seed=42)

To add a method is to add one line to METHODS: its flags, its place in sweeps and latency grids, its
row in cost tables and its colour follow.
"""

import itertools
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from operator import mul
from typing import Any, Self

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
# Parameters with which a method does what best_of_n does.
BEST_OF_N_AT = {"soften": 0, "price": 0, "temper": 0}

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


class PowerPlan(Plan):
    """The verifier hears finished clips only."""

    def heard(self) -> tuple[int, ...]:
        return (*(0 for _ in self.steps[1:]), self.length)


# Okabe and Ito's colours and some of Tol's, told apart by all kinds of colour vision.
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(BASELINE, "one sample", best_of_n, "single", "#555555"),
        Method(BEST_OF_N, "N whole samples", best_of_n, "whole", "#0072B2"),
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
            "N whole samples, one of which is drawn by its score",
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
            "particles that are resampled by how likely the generator finds them",
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


@dataclass(frozen=True)
class SearchCell:
    """One setting of a search: a method with its budget, as grids and tables have it.

    parameters: the method's own. step_size: seconds; None where the method has no steps, or where
    one step size holds for a whole run. seed: None where cells are averaged over seeds.
    """

    method: str
    candidates: int
    parameters: Mapping[str, float] = field(default_factory=dict)
    step_size: float | None = None
    seed: int | None = None

    def __hash__(self) -> int:
        own = tuple(sorted(self.parameters.items()))
        return hash((self.method, self.candidates, own, self.step_size, self.seed))

    @property
    def prunes(self) -> bool:
        return self.method in METHODS and METHODS[self.method].prunes

    @property
    def label(self) -> str:
        """Its budget alone, such as "N=8 M=4 k=1"."""
        known = {p.name: p for p in PARAMETERS}
        words = [f"N={self.candidates}"]
        for name, value in self.parameters.items():
            words += known[name].in_words(value) if name in known else [f"{name}={value:g}"]
        return " ".join(words)

    @property
    def name(self) -> str:
        """Such as "sbs N=8 M=4"."""
        return self.method if self.method == BASELINE else f"{self.method} {self.label}"

    def plan(self, duration: float, step_size: float, frame_rate: float) -> Plan:
        """step_size: where the cell has none of its own. Seconds. Raises PlanError."""
        return METHODS[self.method].make_plan(
            self.candidates, duration, self.step_size or step_size, frame_rate, self.parameters
        )

    def simplest(self, duration: float, step_size: float) -> "SearchCell":
        """The simplest cell that is this search by definition.

        One candidate is the baseline's; a step that takes the whole clip leaves nothing to prune;
        lookahead with k = 0 is beam search, and so is a single subtree; rollouts stop at the clip's
        end, so that beyond it k changes nothing.
        """
        step = self.step_size or step_size
        if self.parameters.get("start"):  # its number of candidates is not that of any other
            return self
        if self.candidates == 1 or self.method == BASELINE:
            return SearchCell(BASELINE, 1, seed=self.seed)
        own = dict(self.parameters)
        if own.get("draw"):  # its winner is not the best
            return self
        is_whole = self.prunes and step >= duration - 1e-9
        if is_whole or any(own.get(name) == value for name, value in BEST_OF_N_AT.items()):
            return SearchCell(BEST_OF_N, self.candidates, seed=self.seed)
        if self.method == "dvts" and self.parameters["beam_width"] == self.candidates:
            return replace(self, method="sbs")
        if self.method != "lookahead":
            return self
        last = -int(-(duration - 1e-9) // step) - 1  # the step after which nothing is left
        k = own["lookahead_k"] = min(own["lookahead_k"], last)
        if k:
            return replace(self, parameters=own)
        return replace(self, method="sbs", parameters={"beam_width": own["beam_width"]})

    def as_record(self) -> dict[str, Any]:
        """JSON values: method, candidates, its parameters; step_size and seed where it has them."""
        record: dict[str, Any] = {"method": self.method, "candidates": self.candidates}
        record |= self.parameters
        record |= {} if self.step_size is None else {"step_size": float(self.step_size)}
        return record | ({} if self.seed is None else {"seed": self.seed})

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """What `as_record` made. Of a registered method's cell, values that it does not use (which
        earlier versions wrote) are left out."""
        own = {k: v for k, v in record.items() if k not in ("method", "candidates")}
        step, seed = own.pop("step_size", None), own.pop("seed", None)
        if (method := METHODS.get(record["method"])) is not None:
            own = {p.name: own[p.name] for p in method.parameters if p.name in own}
            step = step if method.prunes else None
        candidates = 1 if record["method"] == BASELINE else record["candidates"]
        return cls(record["method"], candidates, own, None if step is None else float(step), seed)


def grid(
    methods: Iterable[str],
    budgets: Iterable[int],
    parameters: Mapping[str, Iterable[float]],
    steps: Iterable[float | None] = (None,),
    seeds: Iterable[int | None] = (None,),
) -> Iterator[SearchCell]:
    """Every method with every budget and with all values of its own parameters."""
    steps, seeds, budgets = list(steps), list(seeds), list(budgets)
    for method in methods:
        names = [p.name for p in METHODS[method].parameters]
        values = product(*(list(parameters[name]) for name in names))
        own = [dict(zip(names, chosen, strict=True)) for chosen in values]
        sizes = budgets if METHODS[method].shape != "single" else [1]
        lengths = steps if METHODS[method].prunes else [None]
        yield from (
            SearchCell(method, n, settings, step, seed)
            for n, settings, step, seed in product(sizes, own, lengths, seeds)
        )


def split(cells: Iterable[SearchCell]) -> tuple[list[SearchCell], list[SearchCell]]:
    """Cells that can run, each once, and those that cannot: their parameters do not fit N."""
    good: dict[SearchCell, None] = {}
    bad: dict[SearchCell, None] = {}
    for cell in cells:
        try:
            METHODS[cell.method].check(cell.candidates, cell.parameters)
            good[cell] = None
        except PlanError:
            bad[cell] = None
    return list(good), list(bad)
