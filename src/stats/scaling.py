"""What pools say of search: how scores grow with N, who selects well for whom, and when it stops.

A pool is m clips of one prompt with every measure's number for each of them. From pools alone
follow, without generating again: the expected measure of best-of-n for every n and every selector
(`curve`), its straight line over E_n (`fit`), its gain in deviations (`standardised`), how much of
a selector's gain a judge sees (`transfer`), and how well two measures rank the same clips (`tau`):
with the score of a clip's beginning for one of them, prefix validity.

Arrays: `selector`, `measure`: one [m] per prompt, the same prompts in the same order, float64;
higher selector scores are better. Intervals are 95% and resample prompts, never clips of a pool;
all of them draw the same prompts, so that ratios and differences stay paired. For fewer than two
prompts their ends are NaN.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from src.stats.best_of_n import (
    agreement,
    best_of_n_weights,
    expected_maximum,
    kl_bound,
    within_prompt_std,
)
from src.stats.intervals import Interval, StatsError, bootstrap, interval

Array = NDArray[np.float64]
Pools = Sequence[Array]

E_n = functools.cache(expected_maximum)
MIN_BUDGETS = 3  # two points are always on a line
NO_GAIN = "the selector's own gain is not clearly above zero"
CONSTANT = "the measure is the same for all clips of a prompt"


class Point(NamedTuple):
    """Best-of-n of one selector by one measure: its mean, and its gain over n = 1."""

    n: int
    mean: float
    gain: Interval


class Fit(NamedTuple):
    """mean(n) = a + b * E_n by least squares.

    r2: the part of the variance that it explains; NaN where nothing varies. r2_log2: that of a line
    over log2 n, to compare with.
    """

    a: float
    b: float
    r2: float
    r2_log2: float


class Transfer(NamedTuple):
    """How much of the selector's gain at n a measure shows, both in within-prompt deviations.

    sqrt_kl: the square root of the bound on KL(best-of-n || base), in nats: how far from the
    model's own distribution the selection may have gone. ratio: None where there is none, and
    reason then says why.
    """

    n: int
    sqrt_kl: float
    ratio: Interval | None
    reason: str = ""


class Agreement(NamedTuple):
    """Mean over prompts of Kendall's tau-b within prompts.

    prompts: those in which both measures tell clips apart; tau is NaN where there is none.
    """

    tau: Interval
    prompts: int


def chances(selector: Pools, budgets: Sequence[int]) -> list[Array]:
    """How likely the selector chooses each clip, per prompt: [budgets, m].

    Raises StatsError for a budget that is larger than the pool.
    """
    return [np.array([best_of_n_weights(pool, n) for n in budgets]) for pool in selector]


def expected(chosen: Sequence[Array], measure: Pools) -> Array:
    """Best-of-n of each prompt's pool, exactly. chosen: of `chances`. [prompts, budgets]."""
    if len(chosen) != len(measure):
        raise StatsError(f"{len(chosen)} pools of scores, but {len(measure)} of measures")
    return np.array([w @ pool for w, pool in zip(chosen, measure, strict=True)])


def expectations(selector: Pools, measure: Pools, budgets: Sequence[int]) -> Array:
    """Best-of-n of each prompt's pool, exactly: [prompts, budgets]."""
    return expected(chances(selector, budgets), measure)


def curve(selector: Pools, measure: Pools, budgets: Sequence[int]) -> list[Point]:
    """Expected measure of the clip that the selector chooses among n, for each n of `budgets`."""
    return points(expectations(selector, measure, [1, *budgets]), budgets)


def points(values: Array, budgets: Sequence[int]) -> list[Point]:
    """values: best-of-1, then best-of-n for each of `budgets`: [prompts, 1 + budgets]."""
    draws = bootstrap(len(values))
    alone = values[:, 0]
    return [
        Point(n, float(at.mean()), draws.interval(at - alone))
        for n, at in zip(budgets, values.T[1:], strict=True)
    ]


def fit(found: Sequence[Point]) -> Fit:
    """The line over E_n, the expected maximum of n standard normals: straight for normal scores.

    Raises StatsError for fewer than three budgets.
    """
    if len({point.n for point in found}) < MIN_BUDGETS:
        raise StatsError(f"a line needs {MIN_BUDGETS} budgets or more")
    y = np.array([point.mean for point in found])
    a, b, r2 = _line(np.array([E_n(point.n) for point in found]), y)
    return Fit(a, b, r2, _line(np.log2([point.n for point in found]), y)[2])


def slope(values: Array, budgets: Sequence[int]) -> Interval:
    """The b of `fit`, with its interval. values: best-of-n, [prompts, budgets]."""
    x = np.array([E_n(n) for n in budgets])
    x -= x.mean()
    return bootstrap(len(values)).interval(values @ (x / (x @ x)))


def _line(x: Array, y: Array) -> tuple[float, float, float]:
    """Intercept, slope and R2 of least squares."""
    b, a = np.polyfit(x, y, 1)
    left, whole = ((y - a - b * x) ** 2).sum(), ((y - y.mean()) ** 2).sum()
    varies = np.ptp(y) > 1e-12 * np.abs(y).max()  # else R2 would be that of rounding
    return float(a), float(b), float(1 - left / whole) if varies else math.nan


def standardised(gains: Array, measure: Pools, higher_is_better: bool = True) -> Interval | None:
    """Mean gain in within-prompt standard deviations of the measure, positive where better.

    gains: [prompts]. Gains and deviations are resampled together. None for a constant measure.
    """
    spread = _squares(measure)
    if not spread.any():
        return None
    draws = bootstrap(len(gains))
    sign = 1.0 if higher_is_better else -1.0
    freedom = np.array([len(pool) - 1.0 for pool in measure])
    means = draws.means(np.stack([gains, spread, freedom], axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        resampled = sign * means[:, 0] / np.sqrt(means[:, 1] / means[:, 2])
    estimate = sign * float(gains.mean()) / within_prompt_std(measure)
    return interval(estimate, resampled, len(gains))


def transfer(
    selector: Pools, measure: Pools, budgets: Sequence[int], higher_is_better: bool = True
) -> list[Transfer]:
    """The measure's gain over the selector's, each in its within-prompt standard deviations.

    1: the measure gains what the selector gains. Falling with n: the search finds what the selector
    alone likes (over-optimisation). Prompts are resampled with both gains and both deviations
    together. n = 1, where nothing is selected, is left out.
    """
    searched = [n for n in budgets if n > 1]
    chosen = chances(selector, [1, *searched])
    own, seen = expected(chosen, selector), expected(chosen, measure)
    return transfers(own, seen, selector, measure, searched, higher_is_better)[0]


def transfers(
    own: Array,
    seen: Array,
    selector: Pools,
    measure: Pools,
    budgets: Sequence[int],
    higher_is_better: bool = True,
) -> tuple[list[Transfer], Interval | None]:
    """`transfer`, and how it changes from the first to the last budget that has a ratio.

    own, seen: the selector's and the measure's best-of-1, then best-of-n for each of `budgets`,
    [prompts, 1 + budgets]. The change is None where fewer than two budgets have a ratio.
    """
    draws = bootstrap(len(own))
    squares = np.stack([_squares(selector), _squares(measure)], axis=1)
    constant = not squares[:, 1].any()
    sign = 1.0 if higher_is_better else -1.0
    gains = np.stack([own[:, 1:] - own[:, :1], seen[:, 1:] - seen[:, :1]], axis=1)
    found: list[Transfer] = []
    ratios: list[tuple[float, Array]] = []
    spread = draws.means(squares)
    for i, n in enumerate(budgets):
        gain = draws.means(gains[:, :, i])
        low = interval(float(gains[:, 0, i].mean()), gain[:, 0], len(own)).low
        if constant or not low > 0:
            reason = CONSTANT if constant else NO_GAIN
            found.append(Transfer(n, math.sqrt(kl_bound(n)), None, reason))
            continue
        estimate, resampled = (
            sign * _ratio(g[..., 1], g[..., 0]) * np.sqrt(_ratio(s[..., 0], s[..., 1]))
            for g, s in ((gains[:, :, i].mean(0), squares.mean(0)), (gain, spread))
        )
        ratios.append((float(estimate), resampled))
        ratio = interval(*ratios[-1], len(own))
        found.append(Transfer(n, math.sqrt(kl_bound(n)), ratio))
    if len(ratios) < 2:
        return found, None
    (first, first_resampled), (last, last_resampled) = ratios[0], ratios[-1]
    return found, interval(last - first, last_resampled - first_resampled, len(own))


def tau(a: Pools, b: Pools, a_sign: float = 1.0, b_sign: float = 1.0) -> Agreement:
    """Kendall's tau-b within prompts, averaged. The signs turn measures of which less is better."""
    several = [(x, y) for x, y in zip(a, b, strict=True) if len(x) > 1]  # one clip ranks nothing
    found = agreement([x for x, _ in several], [y for _, y in several]) * a_sign * b_sign
    found = found[np.isfinite(found)]
    if not found.size:
        return Agreement(Interval(math.nan, math.nan, math.nan), 0)
    return Agreement(bootstrap(len(found)).interval(found), len(found))


def even_tau(part: float) -> float:
    """The tau of beginnings with whole clips if all seconds counted alike and independently.

    part: of the clip, 0 to 1. A mean of the first part of independent terms correlates with the
    mean of all by sqrt(part); for normal ones tau = 2/pi * arcsin(correlation).
    """
    return 2 / math.pi * math.asin(math.sqrt(part))


def _squares(pools: Pools) -> Array:
    """Of each pool the sum of squares around its mean, exactly 0 if it is constant: [prompts]."""
    return np.array([((p - p.mean()) ** 2).sum() if np.ptp(p) > 0 else 0.0 for p in pools])


def _ratio(a: Array, b: Array) -> Array:
    """a / b where b is above zero, else NaN."""
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=np.asarray(b) > 0)
