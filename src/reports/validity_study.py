"""What a pool's measures say of references whose prompt is known, as rows: measure, test, kind,
value with its 95% interval over prompts (low, high), prompts.

    identification   first: how often the right reference is first of all, under its prompt; auc:
                     the share of wrong ones that score worse; auc_similar, auc_drums, auc_tempo:
                     of wrong ones that are hard to tell (src/stats/identification.py)
    discrimination   by kind of damage: how often the reference is preferred to its degraded copy
    own clips        of judges: how often a generated clip suits its own prompt or reference best of
                     all (first), and the share of wrong ones that it suits less (auc)
    retest           tau: Kendall's, within prompts, of the first halves of clips with the second
    power            of judges, prompts_0.1 ..: how many prompts a gain of 0.1 sd needs, from the
                     spread of the gains of best-of-n, n the largest, mean over the selectors
                     whose own number the judge is not

`first`, `auc`, and what is preferred: ties are halves. Sums follow from their parts. No torch.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from src.reports.table import Row, ends
from src.runs.measures import Measure
from src.runs.pool import Pool, of_both
from src.stats.best_of_n import best_of_n, tau, within_prompt_std
from src.stats.identification import hard_negatives, prompts_needed, rank
from src.stats.intervals import Interval, mean_interval

GAINS = (0.1, 0.2, 0.3)  # in within-prompt deviations

Array = NDArray[np.float64]


class Heard(NamedTuple):
    """What a measure says of one prompt's reference, higher where better; NaN: nothing.

    scores: [prompts]; degraded: by kind; halves: [2, clips]; own_clips: {"first": [clips], ..}.
    """

    scores: Array
    degraded: dict[str, float]
    halves: Array
    own_clips: Mapping[str, Sequence[float | None]]


def validity_rows(pool: Pool, measures: Mapping[str, Measure], largest: int) -> list[Row]:
    """Of every measure that was asked about references, judges first; none where none was.

    largest: n of best-of-n, for the power.
    """
    rows: list[Row] = []
    for measure in measures.values() if pool.validity else ():
        heard = _heard(pool, measure)
        if len(heard) > 1:
            rows += _rows_of(measure, heard, _negatives(pool, heard))
            rows += _power(pool, measure, measures, largest)
    return rows


def _heard(pool: Pool, measure: Measure) -> dict[str, Heard]:
    """By prompt; of an expression from its parts, where all have been asked."""
    names = list(measure.scales) or [measure.name]
    parts = [pool.validity.get(name, {}) for name in names]
    known = [p for p in pool.prompts if all(p in part for part in parts)]

    def total(found: Iterable[Any]) -> Array:
        numbers = {n: np.array(x, dtype=np.float64) for n, x in zip(names, found, strict=True)}
        return measure.combined(numbers) if measure.scales else measure.sign * numbers[names[0]]

    heard = {}
    for prompt in known:
        records = [part[prompt] for part in parts]
        kinds = list(records[0]["degraded"])
        degraded = total([r["degraded"][kind] for kind in kinds] for r in records)
        heard[prompt] = Heard(
            total([r["scores"].get(p) for p in known] for r in records),
            dict(zip(kinds, degraded.tolist(), strict=True)),
            total(r["halves"] for r in records),
            records[0].get("own_clips", {}),
        )
    return heard


def _negatives(pool: Pool, heard: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    records = next(iter(pool.validity.values()))
    return hard_negatives({p: records[p]["aspects"] for p in heard if p in records})


def _rows_of(
    measure: Measure, heard: Mapping[str, Heard], negatives: Mapping[str, Mapping[str, list[str]]]
) -> Iterator[Row]:
    prompts = list(heard)
    scores = np.array([of.scores for of in heard.values()])  # [reference, prompt]
    at = {prompt: index for index, prompt in enumerate(prompts)}
    own = scores.diagonal()
    ranks = np.array([rank(own[i], np.delete(scores[:, i], i)) for i in range(len(own))])
    found = {("identification", "first"): ranks[:, 0], ("identification", "auc"): ranks[:, 1]}
    for kind, of_kind in negatives.items():
        wrong = [scores[[at[p] for p in of_kind.get(prompt, ())], at[prompt]] for prompt in prompts]
        shares = [rank(*pair)[1] for pair in zip(own, wrong, strict=True)]
        found["identification", f"auc_{kind}"] = np.array(shares)
    for kind in next(iter(heard.values())).degraded:
        worse = [of.degraded[kind] for of in heard.values()]
        preferred = [rank(*pair)[1] for pair in zip(own, np.array(worse)[:, None], strict=True)]
        found["discrimination", kind] = np.array(preferred)
    for kind in ("first", "auc"):
        of_prompts = [_mean(of.own_clips.get(kind, ())) for of in heard.values()]
        found["own clips", kind] = np.array(of_prompts)
    known = [of.halves[:, ~np.isnan(of.halves).any(0)] for of in heard.values()]
    found["retest", "tau"] = tau(*([x[i] for x in known] for i in (0, 1)))
    for (test, kind), values in found.items():
        yield from _row(measure, test, kind, values)


def _row(measure: Measure, test: str, kind: str, values: ArrayLike) -> Iterator[Row]:
    """A share or tau over the prompts that have one; none where none has."""
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    if known.size:
        mean, low, high = mean_interval(known)
        least, most = (-1 if kind == "tau" else 0), (math.inf if test == "power" else 1)
        found = Interval(mean, *np.clip([low, high], least, most))
        key = {"measure": measure.name, "test": test, "kind": kind}
        yield key | ends("value", found) | {"prompts": known.size}


def _power(
    pool: Pool, measure: Measure, measures: Mapping[str, Measure], largest: int
) -> Iterator[Row]:
    """A judge's rows, from the variance of a prompt's gain in within-prompt deviations."""
    variances: dict[str, list[float]] = {}
    for name, selector in measures.items() if measure.is_judge and largest > 1 else ():
        if selector.role != "verifier" or measure.relation(selector) == "own":
            continue
        judged = {p: measure.sign * x for p, x in pool.values(measure.name).items()}
        prompts, scores, values = of_both(pool.values(name), judged)
        if len(prompts) < 2 or not (spread := within_prompt_std(values)):
            continue
        gains = np.diff(best_of_n(scores, values, (1, largest)))[:, 0] / spread
        squares = (gains - gains.mean()) ** 2 * len(gains) / (len(gains) - 1)
        for prompt, square in zip(prompts, squares.tolist(), strict=True):
            variances.setdefault(prompt, []).append(square)
    of_prompts = np.array([_mean(squares) for squares in variances.values()])
    for gain in GAINS:
        yield from _row(measure, "power", f"prompts_{gain}", prompts_needed(1.0, gain) * of_prompts)


def _mean(values: Sequence[float | None]) -> float:
    """Of those that are numbers; NaN for none."""
    known = [x for x in values if x is not None]
    return float(np.mean(known)) if known else math.nan
