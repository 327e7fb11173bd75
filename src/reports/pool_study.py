"""A pool's study: what every selector gives by every measure, for the CSV files and figures.

    study = study_pool(load_pool(folder), budgets=(1, 2, 4, 8, 16))
    study.pairs["tags", "msd_kld"].standard    # the gain at the largest N, in deviations

Selectors are the pool's verifiers, weighted sums of them among these; measures are all it has,
judges and verifiers. A pair is computed over the prompts that both have numbers for. No torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from src.runs.records import read_manifest, read_records
from src.stats.intervals import Interval, StatsError
from src.stats.scaling import (
    MIN_BUDGETS,
    Agreement,
    Array,
    Fit,
    Point,
    Transfer,
    bootstrap,
    chances,
    expected,
    fit,
    points,
    slope,
    standardised,
    tau,
    transfers,
)

if TYPE_CHECKING:
    from src.runs.pool import Pool, PoolMeasure

Relation = Literal["own", "shares data", ""]


@dataclass(frozen=True)
class Pair:
    """One selector by one measure.

    relation: "own": the measure is the selector's number, or they have a part in common: no
    evidence. "shares data": trained on the same data, not independent.
    values: best-of-n for each budget, [prompts, budgets], in the measure's unit. standard: the gain
    at the largest budget in within-prompt deviations, positive where better. change: of the
    transfer, from the smallest to the largest budget.
    """

    selector: str
    measure: str
    relation: Relation
    prompts: tuple[str, ...]
    points: tuple[Point, ...]
    values: Array
    standard: Interval | None
    fit: Fit | None
    slope: Interval | None
    transfers: tuple[Transfer, ...]
    change: Interval | None


class Prefix(NamedTuple):
    """How the score of the first `seconds` ranks whole clips by `measure`."""

    verifier: str
    measure: str
    seconds: float
    agreement: Agreement


@dataclass(frozen=True)
class Study:
    """What a pool says. budgets: ascending, from 1 on. measures: judges first, the primary one
    (fixed before any result) at their head. pairs: of each selector with each measure; of a sum as
    a measure with itself alone. refused: by measure, the reasons of prompts without numbers.
    dropped: budgets that are larger than the pool."""

    title: str
    prompts: int
    size: int
    duration: float
    budgets: tuple[int, ...]
    dropped: tuple[int, ...]
    selectors: tuple[str, ...]
    measures: dict[str, "PoolMeasure"]
    pairs: dict[tuple[str, str], Pair]
    agreement: dict[tuple[str, str], Agreement]
    prefixes: tuple[Prefix, ...]
    refused: dict[str, tuple[str, ...]]

    @property
    def largest(self) -> int:
        return self.budgets[-1]

    @property
    def judges(self) -> tuple[str, ...]:
        return tuple(name for name, m in self.measures.items() if m.role == "judge")

    @property
    def sums(self) -> tuple[str, ...]:
        """Selectors that are weighted sums of others."""
        return tuple(name for name in self.selectors if self.measures[name].scales)

    @property
    def singles(self) -> tuple[str, ...]:
        """Selectors that are no sums: with all of them, figures of lines would be a thicket."""
        return tuple(name for name in self.selectors if name not in self.sums)

    @property
    def shown(self) -> tuple[str, ...]:
        """Measures to show selectors by: a sum says nothing that its parts do not."""
        return tuple(name for name in self.measures if name not in self.sums)

    def primary(self, selector: str) -> str | None:
        """The first judge that is independent of the selector."""
        free = (j for j in self.judges if relation(self.measures, selector, j) == "")
        return next(free, None)


def study_pool(pool: "Pool", budgets: Sequence[int]) -> Study:
    """Raises StatsError for a pool without candidates, or budgets below 1."""
    asked = sorted({1, *budgets})
    if asked[0] < 1 or not pool.prompts:
        raise StatsError("a study needs budgets of 1 or more and a pool with candidates")
    kept = tuple(n for n in asked if n <= pool.size)
    judges = [name for name, m in pool.measures.items() if m.role == "judge"]
    selectors = tuple(name for name in pool.measures if name not in judges)
    measures = {name: pool.measures[name] for name in (*judges, *selectors)}
    values = {name: pool.values(name) for name in measures}
    chosen = {
        name: dict(
            zip(
                values[name],
                chances([_sign(measures, name) * x for x in values[name].values()], (1, *kept)),
                strict=True,
            )
        )
        for name in selectors
    }
    pairs = {}
    for s in selectors:
        for m in measures:
            if measures[m].scales and m != s:
                continue
            if both := tuple(p for p in pool.prompts if p in values[s] and p in values[m]):
                pairs[s, m] = _pair(measures, s, m, both, kept, values, chosen[s])
    return Study(
        title=read_manifest(pool.folder).get("title", pool.folder.name),
        prompts=len(pool.prompts),
        size=pool.size,
        duration=pool.duration,
        budgets=kept,
        dropped=tuple(n for n in asked if n > pool.size),
        selectors=selectors,
        measures=measures,
        pairs=pairs,
        agreement=_agreements(measures, values),
        prefixes=tuple(_prefixes(pool, measures, selectors, judges)),
        refused=_refused(pool, measures),
    )


def relation(measures: dict[str, "PoolMeasure"], selector: str, measure: str) -> Relation:
    """What a selector and a measure have in common."""
    own, other = measures[selector], measures[measure]
    a, b = {own.name, *own.is_verifier}, {other.name, *other.is_verifier}
    if a & b:
        return "own"
    return "shares data" if a & {*other.shares_data_with} or b & {*own.shares_data_with} else ""


def difference(
    study: Study, measure: str, selector: str, other: str, budget: int | None = None
) -> Interval | None:
    """By how much more `selector` gains than `other` at a budget (the largest), positive where
    better.

    At equal frames: both choose among as many clips. In the measure's unit, paired over the prompts
    that both have. None where there are fewer than two.
    """
    at = -1 if budget is None else study.budgets.index(budget)
    a, b = (study.pairs.get((s, measure)) for s in (selector, other))
    if a is None or b is None:
        return None
    first, second = (
        dict(zip(p.prompts, p.values[:, at] - p.values[:, 0], strict=True)) for p in (a, b)
    )
    both = [first[p] - second[p] for p in first if p in second]
    sign = _sign(study.measures, measure)
    return bootstrap(len(both)).interval(sign * np.array(both)) if len(both) > 1 else None


def past_peak(study: Study, pair: Pair) -> tuple[int, Interval] | None:
    """The budget at which a pair is best, if before the largest, and what is lost from there on.

    In the measure's unit, paired by prompt, negative where worse. The peak is that of the means:
    where it is not pronounced, the loss is a little overstated.
    """
    sign = _sign(study.measures, pair.measure)
    means = sign * pair.values.mean(0)
    best = int(means.argmax())
    if best == len(means) - 1:
        return None
    lost = sign * (pair.values[:, -1] - pair.values[:, best])
    return study.budgets[best], bootstrap(len(lost)).interval(lost)


def _pair(
    measures: dict[str, "PoolMeasure"],
    s: str,
    m: str,
    prompts: tuple[str, ...],
    budgets: tuple[int, ...],
    values: dict[str, dict[str, Array]],
    chosen: dict[str, Array],
) -> Pair:
    selector = [_sign(measures, s) * values[s][p] for p in prompts]
    measure = [values[m][p] for p in prompts]
    weights = [chosen[p] for p in prompts]
    own, seen = expected(weights, selector), expected(weights, measure)
    found = points(seen, budgets)
    gains = seen[:, -1] - seen[:, 0]
    better = measures[m].higher_is_better
    # budgets begin with 1, where nothing is selected: leave out its second column
    searched = [0, *range(2, own.shape[1])]
    ratios, change = transfers(
        own[:, searched], seen[:, searched], selector, measure, budgets[1:], better
    )
    straight = len(budgets) >= MIN_BUDGETS
    return Pair(
        selector=s,
        measure=m,
        relation=relation(measures, s, m),
        prompts=prompts,
        points=tuple(found),
        values=seen[:, 1:],
        standard=standardised(gains, measure, better),
        fit=fit(found) if straight else None,
        slope=slope(seen[:, 1:], budgets) if straight else None,
        transfers=tuple(ratios),
        change=change,
    )


def _agreements(
    measures: dict[str, "PoolMeasure"], values: dict[str, dict[str, Array]]
) -> dict[tuple[str, str], Agreement]:
    """Of each two measures once, positive where they call the same clips better."""
    names = [name for name, measure in measures.items() if not measure.scales]
    return {
        (a, b): _tau(measures, a, values[a], b, values[b])
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    }


def _prefixes(
    pool: "Pool", measures: dict[str, "PoolMeasure"], selectors: Sequence[str], judges: list[str]
) -> list[Prefix]:
    """Of each verifier with itself and with the judges, whole clips at the end."""
    found = []
    for v in selectors:
        for seconds in (*pool.prefixes, pool.duration):
            whole = seconds == pool.duration
            first = pool.values(v, None if whole else seconds)
            if not first:
                continue
            for m in judges if whole else (v, *judges):
                agreed = _tau(measures, v, first, m, pool.values(m))
                found.append(Prefix(v, m, seconds, agreed))
    return found


def _tau(
    measures: dict[str, "PoolMeasure"],
    a: str,
    a_values: dict[str, Array],
    b: str,
    b_values: dict[str, Array],
) -> Agreement:
    both = [p for p in a_values if p in b_values]
    return tau(
        [a_values[p] for p in both],
        [b_values[p] for p in both],
        _sign(measures, a),
        _sign(measures, b),
    )


def _refused(pool: "Pool", measures: dict[str, "PoolMeasure"]) -> dict[str, tuple[str, ...]]:
    records = read_records(pool.folder)
    reasons: dict[str, tuple[str, ...]] = {}
    for name in (name for name, measure in measures.items() if not measure.scales):
        lacking = [p for p in pool.prompts if p not in pool.values(name)]
        found = [
            records.get((f"scores {name}", p), {}).get("reason", "not scored") for p in lacking
        ]
        if found:
            reasons[name] = tuple(found)
    return reasons


def _sign(measures: dict[str, "PoolMeasure"], name: str) -> float:
    return 1.0 if measures[name].higher_is_better else -1.0
