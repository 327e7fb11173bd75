"""Best-of-n from pools, exactly: how a measure grows with n, and how much of a gain it shows.

A pool is m independent clips of one prompt, each with a selector's score and a measure's number.
What best-of-n would give on average, for every n up to m, follows from the pool without sampling
again (`best_of_n`): then its straight line over E_n (`fit`), its gain in deviations
(`standardised`), and how much of the selector's gain another measure shows (`transfer`).

Arrays: `selector`, `measure`: one [m] per prompt, the same prompts in the same order, float64;
higher selector scores are better. Best-of-n is [prompts, budgets]. Intervals are 95% over prompts,
all from the same draws (src/stats/intervals.py); their ends are NaN for fewer than two prompts.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import integrate
from scipy.stats import norm

from src.stats.intervals import Interval, StatsError, bootstrap, finite, interval

Array = NDArray[np.float64]
Pools = Sequence[ArrayLike]

MIN_BUDGETS = 3  # two points are always on a line
NO_GAIN = "the selector's own gain is not clearly above zero"
CONSTANT = "the measure is the same for all clips of a prompt"


class Fit(NamedTuple):
    """mean(n) = a + b * E_n by least squares.

    r2: the part of the variance that it explains; NaN where nothing varies. r2_log2: that of a line
    over log2 n, to compare with.
    """

    a: float
    b: Interval
    r2: float
    r2_log2: float


class Transfer(NamedTuple):
    """How much of the selector's gain a measure shows, both in within-prompt deviations.

    ratios: for each n over 1; None where there is none, and reason then says why. change: from the
    first ratio to the last one; None for fewer than two.
    """

    ratios: tuple[Interval | None, ...]
    change: Interval | None
    reason: str = ""


def best_of_n_weights(scores: ArrayLike, n: int) -> Array:
    """How likely each of a pool's m clips is to be the best of n drawn from it: [m], sum 1.

    Drawn without replacement, so that the expectation is unbiased for n fresh clips. The clip of
    ascending rank i is the best of C(i-1, n-1) of the C(m, n) subsets; tied clips share the weights
    of their block, as a coin between them would.
    Raises StatsError for a pool of fewer than n.
    """
    scores = finite(scores)
    m = len(scores)
    if not 1 <= n <= m:
        raise StatsError(f"best-of-{n} needs a pool of {n} or more, not {m}")
    total = math.comb(m, n)
    by_rank = np.array([math.comb(i, n - 1) / total for i in range(m)])
    _, block, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(sizes)
    sums = np.add.reduceat(by_rank, ends - sizes)
    return (sums / sizes)[block]


def chances(selector: Pools, budgets: Sequence[int]) -> list[Array]:
    """How likely the selector chooses each clip, for `expected`: per prompt [budgets, m]."""
    return [np.array([best_of_n_weights(pool, n) for n in budgets]) for pool in selector]


def expected(chosen: Sequence[Array], measure: Pools) -> Array:
    """Best-of-n of each prompt's pool: [prompts, budgets]. chosen: of `chances`."""
    if len(chosen) != len(measure):
        raise StatsError(f"{len(chosen)} pools of scores, but {len(measure)} of measures")
    return np.array([w @ finite(pool) for w, pool in zip(chosen, measure, strict=True)])


def best_of_n(selector: Pools, measure: Pools, budgets: Sequence[int]) -> Array:
    """Expected measure of the clip with the best score of n: [prompts, budgets]."""
    return expected(chances(selector, budgets), measure)


@functools.cache
def expected_maximum(n: int) -> float:
    """E_n, the expected maximum of n standard normals: the abscissa on which best-of-n is straight.

    Integral of x * n * pdf(x) * cdf(x)^(n-1) over the real line.
    """
    if n < 1:
        raise StatsError(f"n must be 1 or more, not {n}")

    def density(x: float) -> float:
        return float(x * n * np.exp(norm.logpdf(x) + (n - 1) * norm.logcdf(x)))

    return 0.0 if n == 1 else float(integrate.quad(density, -12, 12, epsabs=1e-12, limit=200)[0])


def kl_bound(n: int) -> float:
    """KL(best-of-n || base) in nats is at most this: ln n - (n-1)/n.

    Source: Beirami et al., arXiv 2401.01879.
    """
    if n < 1:
        raise StatsError(f"n must be 1 or more, not {n}")
    return math.log(n) - (n - 1) / n


def fit(values: Array, budgets: Sequence[int]) -> Fit:
    """The line over E_n: straight for normal scores. values: best-of-n, [prompts, budgets].

    Raises StatsError for fewer than three budgets.
    """
    if len(set(budgets)) < MIN_BUDGETS:
        raise StatsError(f"a line needs {MIN_BUDGETS} budgets or more")
    x, y = np.array([expected_maximum(n) for n in budgets]), values.mean(0)
    a, b, r2 = _line(x, y)
    x = x - x.mean()
    slope = bootstrap(len(values)).interval(values @ (x / (x @ x)))
    return Fit(a, slope._replace(mean=b), r2, _line(np.log2(budgets), y)[2])


def _line(x: Array, y: Array) -> tuple[float, float, float]:
    """Intercept, slope and R2 of least squares."""
    b, a = np.polyfit(x, y, 1)
    left, whole = ((y - a - b * x) ** 2).sum(), ((y - y.mean()) ** 2).sum()
    varies = np.ptp(y) > 1e-12 * np.abs(y).max()  # else R2 would be that of rounding
    return float(a), float(b), float(1 - left / whole) if varies else math.nan


def within_prompt_std(pools: Pools) -> float:
    """Standard deviation of a score around its prompt's mean, pooled over prompts (m - 1 each)."""
    freedom = sum(len(finite(pool)) - 1 for pool in pools)
    if freedom < 1:
        raise StatsError("a standard deviation within prompts needs two clips of some prompt")
    return math.sqrt(_squares(pools).sum() / freedom)


def standardised(gains: Array, measure: Pools) -> Interval | None:
    """Mean gain in within-prompt standard deviations of the measure.

    gains: [prompts]. Gains and deviations are resampled together. None for a constant measure.
    """
    spread = _squares(measure)
    if not spread.any():
        return None
    freedom = np.array([len(finite(pool)) - 1.0 for pool in measure])
    means = bootstrap(len(gains)).means(np.stack([gains, spread, freedom], axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        resampled = means[:, 0] / np.sqrt(means[:, 1] / means[:, 2])
    return interval(float(gains.mean()) / within_prompt_std(measure), resampled, len(gains))


def transfer(own: Array, seen: Array, selector: Pools, measure: Pools) -> Transfer:
    """The measure's gain over the selector's, each in its within-prompt standard deviations.

    own, seen: best-of-n of the selector's own number and of the measure's, [prompts, budgets], the
    first budget being 1; both higher where better. 1: the measure gains what the selector gains.
    Falling with n: the search finds what the selector alone likes (over-optimisation). Prompts are
    resampled with both gains and both deviations together.
    """
    draws = bootstrap(len(own))
    squares = np.stack([_squares(selector), _squares(measure)], axis=1)
    constant = not squares[:, 1].any()
    resampled_squares = draws.means(squares)
    ratios: list[Interval | None] = []
    known: list[tuple[float, Array]] = []
    for at in range(1, own.shape[1]):
        gains = np.stack([own[:, at] - own[:, 0], seen[:, at] - seen[:, 0]], axis=1)
        resampled = draws.means(gains)
        of_selector = interval(float(gains[:, 0].mean()), resampled[:, 0], len(own))
        if constant or of_selector.side <= 0:
            ratios.append(None)
            continue
        known.append(
            (
                float(_standard_ratio(gains.mean(0), squares.mean(0))),
                _standard_ratio(resampled, resampled_squares),
            )
        )
        ratios.append(interval(*known[-1], len(own)))
    change = None
    if len(known) > 1:
        (first, first_resampled), *_, (last, last_resampled) = known
        change = interval(last - first, last_resampled - first_resampled, len(own))
    reason = (CONSTANT if constant else NO_GAIN) if None in ratios else ""
    return Transfer(tuple(ratios), change, reason)


def _standard_ratio(gains: Array, squares: Array) -> Array:
    """Of the second gain to the first, each over the root of its sum of squares: [..., 2] ->
    [...]."""
    return _ratio(gains[..., 1], gains[..., 0]) * np.sqrt(_ratio(squares[..., 0], squares[..., 1]))


def _ratio(a: Array, b: Array) -> Array:
    """a / b where b is above zero, else NaN."""
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=np.asarray(b) > 0)


def _squares(pools: Pools) -> Array:
    """Of each pool the sum of squares around its mean, exactly 0 if it is constant: [prompts]."""
    arrays = [finite(pool) for pool in pools]
    return np.array([((p - p.mean()) ** 2).sum() if np.ptp(p) > 0 else 0.0 for p in arrays])
