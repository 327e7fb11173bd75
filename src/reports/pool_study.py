"""A pool's study as tables: what every selector gives by every measure.

    study = study_pool(load_pool(folder), budgets=(1, 2, 4, 8, 16))
    study.row("matrix", selector="tags", measure="msd_kld")["gain_sd"]

Selectors are the pool's verifiers, weighted sums of them among these; measures are all it has,
judges and verifiers. A selector is measured over the prompts that both have numbers for, `prompts`.
`relation`: what the two have in common: "own", the number itself or a part of it; "shares data",
training on the same data; either makes the verdict "not independent". Other verdicts say on which
side of zero the 95% interval over prompts (low, high) lies. Tables, each a CSV file:

    scaling     mean: best-of-n, in the measure's unit; gain: over one sample
    matrix      gain_sd: of the largest n, in within-prompt deviations, positive where better;
                best_n: where the mean is best; since_best: what is gained from there to the largest
                n, in the measure's unit, negative where worse (a little overstated where the peak
                of the means is not pronounced)
    transfer    transfer: the measure's gain over the selector's, each in deviations; else reason;
                change: from the smallest n to the largest; kl_bound, sqrt_kl: in nats, how far from
                the model's own distribution the selection may have gone
    fits        best-of-n as a + b * E_n; r2, and r2_log2 of a line over log2 n
    agreement   tau: Kendall's, within prompts, positive where both call the same clips better
    prefix      tau: of the score of the first `seconds` with the whole clip's
    selectors   difference: by how much more the first selector gains than the other by a judge, at
                equal frames, paired, in the judge's unit, positive where better

No torch.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from src.reports.table import Row, ends
from src.runs.measures import SIDES, Measure, Relation
from src.runs.pool import Pool
from src.stats.agreement import mean_tau
from src.stats.best_of_n import (
    MIN_BUDGETS,
    Array,
    best_of_n,
    fit,
    kl_bound,
    standardised,
    transfer,
)
from src.stats.intervals import Interval, StatsError, bootstrap

Values = dict[str, dict[str, Array]]  # [m] by measure and prompt


@dataclass(frozen=True)
class Study:
    """What a pool says. budgets: ascending, from 1 on; dropped: those larger than the pool.
    measures: judges first, the primary one (fixed before any result) at their head. refused: by
    measure, the reasons of prompts without numbers. tables: by name."""

    title: str
    prompts: int
    size: int
    duration: float
    budgets: tuple[int, ...]
    dropped: tuple[int, ...]
    selectors: tuple[str, ...]
    measures: dict[str, Measure]
    refused: dict[str, tuple[str, ...]]
    tables: dict[str, list[Row]]

    @property
    def largest(self) -> int:
        return self.budgets[-1]

    @property
    def judges(self) -> tuple[str, ...]:
        return tuple(name for name, m in self.measures.items() if m.is_judge)

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

    def rows(self, table: str, **values: Any) -> list[Row]:
        """Those that have these values."""
        return [row for row in self.tables[table] if values.items() <= row.items()]

    def row(self, table: str, **values: Any) -> Row | None:
        return next(iter(self.rows(table, **values)), None)

    def primary(self, selector: str) -> str | None:
        """The first judge that is independent of the selector."""
        own = self.measures[selector]
        return next((j for j in self.judges if not self.measures[j].relation(own)), None)


class _Pair(NamedTuple):
    """A selector by a measure, over the prompts that both have; all higher where better.

    scores, values: their pools. own, seen: best-of-n of either's numbers, [prompts, budgets].
    """

    selector: Measure
    measure: Measure
    prompts: tuple[str, ...]
    budgets: tuple[int, ...]
    scores: list[Array]
    values: list[Array]
    own: Array
    seen: Array

    @property
    def in_unit(self) -> Array:
        """`seen` as the measure counts."""
        return self.seen * self.measure.sign

    @property
    def relation(self) -> Relation:
        return self.measure.relation(self.selector)

    @property
    def key(self) -> dict[str, Any]:
        """What its rows begin with."""
        names = {"selector": self.selector.name, "measure": self.measure.name}
        return {**names, "relation": self.relation, "prompts": len(self.prompts)}


def study_pool(pool: Pool, budgets: Sequence[int]) -> Study:
    """Raises StatsError for a pool without candidates, or budgets below 1."""
    asked = sorted({1, *budgets})
    if asked[0] < 1 or not pool.prompts:
        raise StatsError("a study needs budgets of 1 or more and a pool with candidates")
    kept = tuple(n for n in asked if n <= pool.size)
    judges = {name: m for name, m in pool.measures.items() if m.is_judge}
    judges |= {name: replace(m, role="primary judge") for name, m in list(judges.items())[:1]}
    selectors = {name: m for name, m in pool.measures.items() if name not in judges}
    measures = judges | selectors
    values = {name: _oriented(pool, m) for name, m in measures.items()}
    pairs = [pair for s in selectors for pair in _pairs(s, measures, values, kept)]
    no_sums = {name: m for name, m in measures.items() if not m.scales}
    return Study(
        title=pool.manifest.get("title", pool.folder.name),
        prompts=len(pool.prompts),
        size=pool.size,
        duration=pool.duration,
        budgets=kept,
        dropped=tuple(n for n in asked if n > pool.size),
        selectors=tuple(selectors),
        measures=measures,
        refused={
            name: tuple(pool.reasons.get(name, {}).get(p, "not scored") for p in lacking)
            for name in no_sums
            if (lacking := [p for p in pool.prompts if p not in values[name]])
        },
        tables={
            "scaling": [row for pair in pairs for row in _scaling(pair)],
            "matrix": [_largest(pair) for pair in pairs],
            "agreement": [
                {"a": a, "b": b} | _agreement(measures[a], measures[b], values[a], values[b])
                for a, b in combinations(no_sums, 2)
            ],
            "transfer": [row for pair in pairs for row in _transfer(pair)],
            "prefix": [row for s in selectors for row in _prefixes(pool, s, measures, values)],
            "fits": [_fitted(pair) for pair in pairs if len(kept) >= MIN_BUDGETS],
            "selectors": [
                row
                for judge in judges or no_sums
                for row in _compared([pair for pair in pairs if pair.measure.name == judge])
            ],
        },
    )


def _estimate(
    name: str, found: Interval | None, relation: Relation, sign: float = 1, prefix: str = ""
) -> dict[str, Any]:
    """Columns of an estimate that, times `sign`, is positive where better: with its verdict."""
    verdict = None
    if found is not None and not math.isnan(found.mean):
        verdict = "not independent" if relation else SIDES[found.side * int(sign)]
    return ends(name, found, prefix) | {"verdict": verdict}


def _oriented(pool: Pool, measure: Measure, seconds: float | None = None) -> dict[str, Array]:
    """A measure's [m] by prompt, higher where better."""
    return {p: measure.sign * x for p, x in pool.values(measure.name, seconds).items()}


def _pairs(
    selector: str, measures: Mapping[str, Measure], values: Values, budgets: tuple[int, ...]
) -> Iterator[_Pair]:
    """A selector by each measure: of sums, which say nothing that their parts do not, by itself
    alone."""
    scores = values[selector]
    for name, measure in measures.items():
        both = tuple(prompt for prompt in scores if prompt in values[name])
        if both and (not measure.scales or name == selector):
            own, others = ([values[of][p] for p in both] for of in (selector, name))
            best = best_of_n(own, own, budgets), best_of_n(own, others, budgets)
            yield _Pair(measures[selector], measure, both, budgets, own, others, *best)


def _scaling(pair: _Pair) -> Iterator[Row]:
    values, sign = pair.in_unit, pair.measure.sign
    for at, n in enumerate(pair.budgets):
        gain = bootstrap(len(values)).interval(values[:, at] - values[:, 0])
        yield (
            pair.key
            | {"n": n, "mean": float(values[:, at].mean())}
            | _estimate("gain", gain, pair.relation, sign)
            | {"higher_is_better": pair.measure.higher_is_better}
        )


def _largest(pair: _Pair) -> Row:
    """What the largest budget gains, and since the best one."""
    gain = standardised(pair.seen[:, -1] - pair.seen[:, 0], pair.values)
    best = int(pair.seen.mean(0).argmax())
    since = bootstrap(len(pair.seen)).interval(pair.seen[:, -1] - pair.seen[:, best])
    return (
        pair.key
        | {"n": pair.budgets[-1]}
        | _estimate("gain_sd", gain, pair.relation)
        | {"best_n": pair.budgets[best]}
        | ends("since_best", since, "since_")
    )


def _transfer(pair: _Pair) -> Iterator[Row]:
    found = transfer(pair.own, pair.seen, pair.scores, pair.values)
    for n, ratio in zip(pair.budgets[1:], found.ratios, strict=True):
        yield (
            pair.key
            | {"n": n, "kl_bound": kl_bound(n), "sqrt_kl": math.sqrt(kl_bound(n))}
            | _estimate("transfer", ratio, pair.relation)
            | {"reason": "" if ratio else found.reason}
            | ends("change", found.change, "change_")
        )


def _fitted(pair: _Pair) -> Row:
    line = fit(pair.in_unit, pair.budgets)
    slope = _estimate("b", line.b, pair.relation, pair.measure.sign, "b_")
    return pair.key | {"a": line.a} | slope | {"r2": line.r2, "r2_log2": line.r2_log2}


def _compared(pairs: Sequence[_Pair]) -> Iterator[Row]:
    """Of one judge, each two selectors once, over the prompts that both have."""
    gains = [dict(zip(p.prompts, p.seen - p.seen[:, :1], strict=True)) for p in pairs]
    for at, n in [*enumerate(pairs[0].budgets if pairs else ())][1:]:
        for (one, first), (other, second) in combinations(zip(pairs, gains, strict=True), 2):
            both = np.array([first[p][at] - second[p][at] for p in first if p in second])
            if len(both) > 1:
                key = {"judge": one.measure.name, "n": n}
                key |= {"selector": one.selector.name, "other": other.selector.name}
                found = bootstrap(len(both)).interval(both)
                yield key | _estimate("difference", found, one.relation or other.relation)


def _agreement(
    a: Measure, b: Measure, of_a: Mapping[str, Array], of_b: Mapping[str, Array]
) -> dict[str, Any]:
    both = [prompt for prompt in of_a if prompt in of_b]
    found, prompts = mean_tau([of_a[p] for p in both], [of_b[p] for p in both])
    relation = b.relation(a)
    return {"relation": relation, "prompts": prompts} | _estimate("tau", found, relation)


def _prefixes(
    pool: Pool, name: str, measures: Mapping[str, Measure], values: Values
) -> Iterator[Row]:
    """A verifier's beginnings by itself and by the judges, by these its whole clips at the end."""
    judges = [other for other, measure in measures.items() if measure.is_judge]
    for seconds in (*pool.prefixes, None):
        first = _oriented(pool, measures[name], seconds)
        for other in judges if seconds is None else (name, *judges):
            if first:
                yield (
                    {"verifier": name, "measure": other, "seconds": seconds or pool.duration}
                    | _agreement(measures[name], measures[other], first, values[other])
                )
