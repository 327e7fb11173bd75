"""A pool's study as tables: what every selector gives by every measure.

    study = study_pool(load_pool(folder), budgets=(1, 2, 4, 8, 16))
    study.row("matrix", selector="tags", measure="msd_kld")["gain_sd"]

Selectors are the pool's verifiers and expressions of them (`sums`); measures are all it has,
judges and verifiers. A selector is measured over the prompts that both have numbers for, `prompts`.
`relation`: what the two have in common: "own", the number itself or a part of it; "shares data",
training on the same data; either makes the verdict "not independent". That of wrong references is
"control". Other verdicts are claims: better or worse where p_holm is 0.05 at most, p adjusted for
all claims of the table, of `selectors` for those with one n. Columns low, high: 95% intervals over
prompts. Tables, each a CSV file:

    scaling     mean: best-of-n, in the measure's unit; gain: over one sample
    matrix      gain_sd: of the largest n, in within-prompt deviations, positive where better; p and
                verdict are its; gain_own_sd: mean of gains each in its prompt's own deviations;
                gain_rank: in normal scores of the ranks within a pool, of which the selector gains
                about E_n by itself; best_n: where the mean is best; since_best: what is gained
                from there to the largest n, in the measure's unit, negative where worse (a little
                overstated where the peak of the means is not pronounced)
    transfer    transfer: the measure's gain over the selector's, each in deviations; else reason;
                change: from the smallest n to the largest; transfer_rank, change_rank: in ranks,
                which no long tail of a unit can bend; kl_bound, sqrt_kl: in nats, how far from
                the model's own distribution the selection may have gone
    fits        best-of-n as a + b * E_n; r2, and r2_log2 of a line over log2 n
    agreement   tau: Kendall's, within prompts, positive where both call the same clips better
    prefix      tau: of the score of the first `seconds` with the whole clip's
    validity    what measures say of references whose prompt is known (validity_study.py)
    selectors   difference: by how much more the first selector gains than the other by a judge, at
                equal frames, paired, in the judge's unit, positive where better

No torch.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, groupby, product
from typing import Any

import numpy as np

from src.reports.table import Row, adjusted, ends
from src.reports.validity_study import validity_rows
from src.runs.measures import Measure, Relation, verdict
from src.runs.pool import Pool, Pools, of_both
from src.scoring import PERPLEXITY
from src.stats.best_of_n import (
    MIN_BUDGETS,
    Array,
    best_of_n,
    fit,
    in_own_sd,
    in_sd,
    kl_bound,
    mean_tau,
    normal_scores,
    transfer,
)
from src.stats.intervals import StatsError, mean_interval, mean_p

TABLES = ("scaling", "matrix", "agreement", "transfer", "prefix", "fits", "selectors", "validity")
LOG_P = "log_p"
LOGARITHM = "mean log-probability of a token in nats: perplexity's number without its long tail"
Values = Mapping[str, Pools]  # by measure


@dataclass(frozen=True)
class Study:
    """What a pool says. budgets: ascending, from 1 on; dropped: those larger than the pool.
    measures: judges first, the primary one (fixed before any result) at their head. refused: by
    measure, the reasons of prompts without numbers. tables: by name."""

    title: str
    pool: Pool
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
        """Without controls."""
        return tuple(n for n, m in self.measures.items() if m.is_judge and not m.is_control)

    @property
    def sums(self) -> tuple[str, ...]:
        """Selectors that are sums or other expressions of others."""
        return tuple(name for name in self.selectors if self.measures[name].scales)

    @property
    def singles(self) -> tuple[str, ...]:
        """Selectors that are no sums: with all of them, figures of lines would be a thicket."""
        return tuple(name for name in self.selectors if name not in self.sums)

    @property
    def shown(self) -> tuple[str, ...]:
        """Measures to show selectors by: a sum says nothing that its parts do not, and a control
        nothing that its contrast does not."""
        measures = self.measures.items()
        return tuple(name for name, m in measures if not m.scales and not m.is_control)

    def rows(self, table: str, **values: Any) -> list[Row]:
        """Those that have these values."""
        return [row for row in self.tables[table] if values.items() <= row.items()]

    def row(self, table: str, **values: Any) -> Row | None:
        return next(iter(self.rows(table, **values)), None)


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
    no_sums = {name: m for name, m in measures.items() if not m.scales}
    log_p = replace(selectors[PERPLEXITY], name=LOG_P, role="own verifier", note=LOGARITHM)
    tables: dict[str, list[Row]] = {name: [] for name in TABLES}
    for a, b in combinations(no_sums, 2):
        found = _agreement(measures[a], measures[b], values[a], values[b])
        tables["agreement"].append({"a": a, "b": b} | found)
    for name in selectors:
        tables["prefix"] += _prefixes(pool, name, measures, values)
    tables["validity"] = validity_rows(pool, measures, kept[-1])
    measures |= {LOG_P: log_p}
    values[LOG_P] = {prompt: np.log(own) for prompt, own in values[PERPLEXITY].items()}
    for a, b in product(selectors, measures):
        # Of what is gained by a sum its parts say as much; a logarithm is for own numbers.
        if b in no_sums or b == a or (b == LOG_P and log_p.relation(selectors[a]) == "own"):
            for table, rows in _pair(measures[a], measures[b], values[a], values[b], kept).items():
                tables[table] += rows
    compared: list[Row] = []
    for name in [n for n in judges if not measures[n].is_control] or no_sums:
        compared += _compared(measures[name], selectors, values, kept)
    compared.sort(key=lambda row: row["n"])
    for _, rows_of_n in groupby(compared, key=lambda row: row["n"]):
        tables["selectors"] += adjusted(list(rows_of_n))
    tables["matrix"] = adjusted(tables["matrix"])
    return Study(
        title=pool.manifest.get("title", pool.folder.name),
        pool=pool,
        budgets=kept,
        dropped=tuple(n for n in asked if n > pool.size),
        selectors=tuple(selectors),
        measures=measures,
        refused={
            name: tuple(pool.reasons.get(name, {}).get(p, "not scored") for p in lacking)
            for name in no_sums
            if (lacking := [p for p in pool.prompts if p not in values[name]])
        },
        tables=tables,
    )


def _oriented(pool: Pool, measure: Measure, seconds: float | None = None) -> Pools:
    """A measure's [m] by prompt, higher where better."""
    return {p: measure.sign * x for p, x in pool.values(measure.name, seconds).items()}


def _tested(terms: Array | None, relation: Relation, control: bool = False) -> dict[str, Any]:
    """Columns of what their mean shows, positive where better: [prompts], None where undefined."""
    found: dict[str, Any] = {"p": None, "p_holm": None, "verdict": None}
    if terms is not None:
        found["p"] = mean_p(terms)
        found["verdict"] = "not independent" if relation else verdict(terms.mean(), found["p"])
        found |= {"verdict": "control"} if control else {}
    return found


def _pair(
    selector: Measure, measure: Measure, chosen_by: Pools, judged_by: Pools, budgets: Sequence[int]
) -> Mapping[str, Sequence[Row]]:
    """Of a selector by a measure the rows of four tables, none where no prompt has both."""
    prompts, scores, values = of_both(chosen_by, judged_by)
    if not prompts:
        return {}
    seen = best_of_n(scores, values, budgets)
    in_unit, gains = measure.sign * seen, seen[:, -1] - seen[:, 0]
    relation = measure.relation(selector)
    key: dict[str, Any] = {"selector": selector.name, "measure": measure.name}
    key |= {"relation": relation, "prompts": len(prompts)}
    scaling = [
        {**key, "n": n, "mean": float(at.mean())}
        | ends("gain", mean_interval(at - in_unit[:, 0]))
        | {"higher_is_better": measure.higher_is_better}
        for n, at in zip(budgets, in_unit.T, strict=True)
    ]
    best, terms = int(seen.mean(0).argmax()), in_sd(gains, values)
    own = in_own_sd(gains, values)
    ranks = [[normal_scores(pool) for pool in pools] for pools in (scores, values)]
    in_ranks = best_of_n(scores, ranks[1], (1, budgets[-1]))
    largest = (
        {**key, "n": budgets[-1]}
        | ends("gain_sd", None if terms is None else mean_interval(terms))
        | ends("gain_own_sd", mean_interval(own) if own.size else None, "own_")
        | ends("gain_rank", mean_interval(in_ranks[:, 1] - in_ranks[:, 0]), "rank_")
        | _tested(terms, relation, measure.is_control)
        | {"best_n": budgets[best]}
        | ends("since_best", mean_interval(seen[:, -1] - seen[:, best]), "since_")
    )
    in_units, in_scores = transfer(scores, values, budgets), transfer(ranks[0], ranks[1], budgets)
    transfers = [
        {**key, "n": n, "kl_bound": kl_bound(n), "sqrt_kl": math.sqrt(kl_bound(n))}
        | ends("transfer", ratio)
        | {"reason": "" if ratio else in_units.reason}
        | ends("change", in_units.change, "change_")
        | ends("transfer_rank", of_ranks, "rank_")
        | ends("change_rank", in_scores.change, "change_rank_")
        for n, ratio, of_ranks in zip(budgets[1:], in_units.ratios, in_scores.ratios, strict=True)
    ]
    tables: dict[str, Sequence[Row]] = {
        "scaling": scaling,
        "matrix": [largest],
        "transfer": transfers,
    }
    if len(budgets) >= MIN_BUDGETS:
        line = fit(in_unit, budgets)
        tables["fits"] = [
            {**key, "a": line.a, **ends("b", line.b, "b_"), "r2": line.r2, "r2_log2": line.r2_log2}
        ]
    return tables


def _compared(
    judge: Measure, selectors: Mapping[str, Measure], values: Values, budgets: Sequence[int]
) -> Iterator[Row]:
    """Each two selectors once, over the prompts that both have."""
    gains: dict[str, dict[str, Array]] = {}
    for name in selectors:
        prompts, scores, judged = of_both(values[name], values[judge.name])
        if prompts:
            best = best_of_n(scores, judged, budgets)
            gains[name] = dict(zip(prompts, best - best[:, :1], strict=True))
    for at, n in [*enumerate(budgets)][1:]:
        for (one, first), (other, second) in combinations(gains.items(), 2):
            both = np.array([first[p][at] - second[p][at] for p in first if p in second])
            if len(both) > 1:
                relation = judge.relation(selectors[one]) or judge.relation(selectors[other])
                key = {"judge": judge.name, "n": n, "selector": one, "other": other}
                yield key | ends("difference", mean_interval(both)) | _tested(both, relation)


def _agreement(a: Measure, b: Measure, of_a: Pools, of_b: Pools) -> dict[str, Any]:
    found, prompts = mean_tau(*of_both(of_a, of_b)[1:])
    return {"relation": b.relation(a), "prompts": prompts} | ends("tau", found)


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
