"""One setting of a search, as grids, records and tables have it.

cell = SearchCell("lookahead", 8, {"beam_width": 4, "lookahead_k": 1}, step_size=2.0, seed=42)
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Self

from src.budget import Plan, PlanError
from src.methods import BASELINE, BEST_OF_N, METHODS, PARAMETERS

# Parameters with which a method does what best_of_n does.
BEST_OF_N_AT = {"soften": 0, "price": 0, "temper": 0}


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
