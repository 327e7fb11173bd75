"""Pools of clips: best-of-n, exactly, and how well two measures rank the clips alike.

A pool is m independent clips of one prompt, each with a selector's score and a measure's number.
What best-of-n would give on average, for every n up to m, follows from the pool without sampling
again (`best_of_n`): then its straight line over E_n (`fit`), its gain in deviations (`in_sd`,
`in_own_sd`), and how much of the selector's gain another measure shows (`transfer`). All of it in
ranks: the same of `normal_scores`. With the score of a clip's beginning for one measure, `mean_tau`
says how early a search may prune.

Arrays: `selector`, `measure`: one [m] per prompt, the same prompts in the same order, float64;
higher selector scores are better. A candidate that is out, since one of the two has no number for
it, is NaN in both: it is never chosen, and where all of n are out there is no best, as in a search
that fails, so that means are over the other draws. Best-of-n is [prompts, budgets]. Intervals are
`mean_interval`'s, over prompts. A ratio's is that of its terms, [prompts]: linear in what each
prompt adds to the means of which it is a ratio, with the ratio as their mean (the delta method).
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import integrate
from scipy.special import ndtri
from scipy.stats import norm, rankdata

from src.stats.intervals import Interval, StatsError, finite, mean_interval

Array = NDArray[np.float64]
Pools = Sequence[ArrayLike]

MIN_BUDGETS = 3  # two points are always on a line
STEP = 0.4  # of log t in soft best-of-n's integral
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


def best_of_n_weights(scores: ArrayLike, budgets: Sequence[int]) -> Array:
    """How likely each of a pool's m clips is to be the best of n drawn from it: [budgets, m].

    Drawn without replacement, so that the expectation is unbiased for n fresh clips. The clip of
    ascending rank i is the best of C(i-1, n-1) of the C(m, n) subsets; tied clips share the weights
    of their block, as a coin between them would. The k clips that are out rank lowest: C(k, n)
    subsets have no best and do not count. Raises StatsError for a pool of fewer than n, or in which
    all are out.
    """
    scores = np.asarray(scores, dtype=np.float64)
    known = _scored(scores)
    m, out = len(scores), len(scores) - len(known)
    if not all(1 <= n <= m for n in budgets) or not len(known):
        raise StatsError(f"best-of-{max(budgets)} needs as many in a pool, which has {m}")
    by_rank = _weights_by_rank(m, out, tuple(budgets))
    _, block, sizes = np.unique(known, return_inverse=True, return_counts=True)
    sums = np.add.reduceat(by_rank, np.cumsum(sizes) - sizes, axis=1)
    weights = np.zeros((len(budgets), m))
    weights[:, ~np.isnan(scores)] = (sums / sizes)[:, block]
    return weights


def soft_best_of_n_weights(scores: ArrayLike, n: int, softness: float) -> Array:
    """How likely each of a pool's m clips is to be the winner of soft best-of-n: [m].

    Of n drawn without replacement, clip i wins with probability w_i / sum of the n's w, where
    w = exp(score / softness) (arXiv 2506.19248); softness 0 is best-of-n. With e_k the elementary
    symmetric polynomial, the sum of the products of all k-subsets, the mean over all n-subsets is

        integral over t > 0 of w_i exp(-t w_i) * e_(n-1)(exp(-t w_j), all j but i) / C(m, n),

    since 1 / s is the integral of exp(-t s). By the trapezoidal rule over log t: off by 1e-9. Clips
    that are out, and errors: as `best_of_n_weights`.
    """
    hard = best_of_n_weights(scores, (n,))[0]
    if not softness:
        return hard
    scores = np.asarray(scores, dtype=np.float64)
    m, out = len(scores), np.isnan(scores)
    logs = np.where(out, -np.inf, (scores - np.nanmax(scores)) / softness)
    near = np.arange(-70, 10)  # steps of log(t w_i) where the integrand is not 0
    log_t = STEP * np.unique(np.round(-logs[~out, None] / STEP) + near)
    log_rates = np.minimum(logs[:, None] + log_t, 9)  # exp(-exp(9)) is 0
    rates = np.exp(log_rates)

    def sums(terms: Array) -> Array:
        """e_k of the terms before each, k below n: [m, n, log_t]."""
        found = np.zeros((m, n, len(log_t)))
        found[0, 0] = 1
        for at in range(m - 1):
            found[at + 1] = found[at]
            found[at + 1, 1:] += terms[at] * found[at, :-1]
        return found

    before, after = sums(np.exp(-rates)), sums(np.exp(-rates)[::-1])[::-1]
    others = np.einsum("mkt,mkt->mt", before, after[:, ::-1])
    subsets = math.comb(m, n) - math.comb(int(out.sum()), n)
    weights: Array = STEP * (np.exp(log_rates - rates) * others).sum(1) / subsets
    return weights


@functools.cache
def _weights_by_rank(m: int, out: int, budgets: tuple[int, ...]) -> Array:
    """Of those in, from the lowest on: [budgets, m - out]."""
    return np.array(
        [
            [math.comb(i, n - 1) / (math.comb(m, n) - math.comb(out, n)) for i in range(out, m)]
            for n in budgets
        ]
    )


def best_of_n(selector: Pools, measure: Pools, budgets: Sequence[int]) -> Array:
    """Expected measure of the clip with the best score of n: [prompts, budgets]."""
    found = []
    for own, seen in zip(selector, measure, strict=True):
        weights = best_of_n_weights(own, budgets)
        found.append(weights[:, ~np.isnan(np.asarray(own, dtype=float))] @ _scored(seen))
    return np.array(found).reshape(len(found), len(budgets))


@functools.cache
def expected_maximum(n: int) -> float:
    """E_n, the expected maximum of n standard normals: the abscissa on which best-of-n is straight.

    Integral of x * n * pdf(x) * cdf(x)^(n-1) over the real line.
    """

    def density(x: float) -> float:
        return float(x * n * np.exp(norm.logpdf(x) + (n - 1) * norm.logcdf(x)))

    return 0.0 if n == 1 else float(integrate.quad(density, -12, 12, epsabs=1e-12, limit=200)[0])


def kl_bound(n: int) -> float:
    """KL(best-of-n || base) in nats is at most this: ln n - (n-1)/n.

    Source: Beirami et al., arXiv 2401.01879.
    """
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
    slope = mean_interval(values @ (x / (x @ x)))
    return Fit(a, slope._replace(mean=b), r2, _line(np.log2(budgets), y)[2])


def _line(x: Array, y: Array) -> tuple[float, float, float]:
    """Intercept, slope and R2 of least squares."""
    b, a = np.polyfit(x, y, 1)
    left, whole = ((y - a - b * x) ** 2).sum(), ((y - y.mean()) ** 2).sum()
    varies = np.ptp(y) > 1e-12 * np.abs(y).max()  # else R2 would be that of rounding
    return float(a), float(b), float(1 - left / whole) if varies else math.nan


def within_prompt_std(pools: Pools) -> float:
    """Standard deviation of a score around its prompt's mean, pooled over prompts (m - 1 each)."""
    freedom = sum(len(_scored(pool)) - 1 for pool in pools)
    if freedom < 1:
        raise StatsError("a standard deviation within prompts needs two clips of some prompt")
    return math.sqrt(_squares(pools).sum() / freedom)


def in_sd(gains: Array, measure: Pools) -> Array | None:
    """Terms of the mean gain over the measure's `within_prompt_std`: [prompts].

    gains: [prompts]. None for a constant measure.
    """
    squares = _squares(measure)
    if not squares.any():
        return None
    freedom = np.array([len(_scored(pool)) - 1.0 for pool in measure])
    std = math.sqrt(squares.sum() / freedom.sum())
    spread = squares / squares.mean() - freedom / freedom.mean()
    return gains / std - gains.mean() / std * spread / 2


def in_own_sd(gains: Array, measure: Pools) -> Array:
    """Each prompt's gain in its own standard deviations, without prompts in which there is none."""
    stds = [pool.std(ddof=1) if np.ptp(pool) > 0 else math.nan for pool in map(_scored, measure)]
    return (gains / stds)[np.isfinite(stds)]


def normal_scores(pool: ArrayLike) -> Array:
    """Its ranks as the normal deviates expected there, so that no tail counts more than another.

    Best-of-n by the measure itself then gains about E_n, whatever its unit. Ties share a rank.
    Source: Blom, Statistical Estimates and Transformed Beta-Variables, 1958.
    """
    ranks = rankdata(pool, nan_policy="omit")
    scores: Array = ndtri((ranks - 0.375) / (np.isfinite(ranks).sum() + 0.25))
    return scores


def transfer(selector: Pools, measure: Pools, budgets: Sequence[int]) -> Transfer:
    """The measure's gain over the selector's, each in its within-prompt standard deviations.

    Both are higher where better; the first budget is 1. A ratio of 1: the measure gains what the
    selector gains. Falling with n: the search finds what the selector alone likes
    (over-optimisation).
    """
    values = np.stack([best_of_n(selector, of, budgets) for of in (selector, measure)], axis=-1)
    own, seen = np.moveaxis(values[:, 1:] - values[:, :1], -1, 0)  # [prompts, n over 1] each
    squares = np.stack([_squares(selector), _squares(measure)], axis=-1)
    if not squares.any(0).all():
        reason = NO_GAIN if squares[:, 1].any() else CONSTANT
        return Transfer((None,) * own.shape[1], None, reason)
    known = [at for at, gains in enumerate(own.T) if mean_interval(gains).side > 0]
    means, spread = squares.mean(0), squares / squares.mean(0)
    scale = math.sqrt(means[0] / means[1])
    terms = {}  # of each ratio that there is
    for at in known:
        ratio = seen[:, at].mean() / own[:, at].mean()
        rest = (seen[:, at] - ratio * own[:, at]) / own[:, at].mean()
        terms[at] = scale * (rest + ratio * (1 + (spread[:, 0] - spread[:, 1]) / 2))
    ratios = tuple(mean_interval(terms[at]) if at in terms else None for at in range(own.shape[1]))
    change = mean_interval(terms[known[-1]] - terms[known[0]]) if len(known) > 1 else None
    return Transfer(ratios, change, NO_GAIN if None in ratios else "")


def tau(a: Pools, b: Pools) -> Array:
    """Kendall's tau-b of two scores within each prompt's pool: [prompts].

    NaN for a pool in which a score is constant, or of one clip: it ranks nothing. Source: Kendall,
    The treatment of ties in ranking problems, Biometrika 33(3), 1945.
    """

    def of_pool(x: Array, y: Array) -> float:
        x, y = np.sign(x[:, None] - x).ravel(), np.sign(y[:, None] - y).ravel()
        return float(x @ y) / math.sqrt((x @ x) * (y @ y)) if x.any() and y.any() else math.nan

    return np.array([of_pool(_scored(x), _scored(y)) for x, y in zip(a, b, strict=True)])


def mean_tau(a: Pools, b: Pools) -> tuple[Interval, int]:
    """Mean of `tau` over the prompts that have one, and how many these are; NaN where none has."""
    found = tau(a, b)
    found = found[np.isfinite(found)]
    if not found.size:
        return Interval(math.nan, math.nan, math.nan), 0
    return mean_interval(found), len(found)


def even_tau(part: float) -> float:
    """The tau of beginnings with whole clips if all seconds counted alike and independently.

    part: of the clip, 0 to 1. A mean of the first part of independent terms correlates with the
    mean of all by sqrt(part); for normal ones tau = 2/pi * arcsin(correlation).
    """
    return 2 / math.pi * math.asin(math.sqrt(part))


def _scored(pool: ArrayLike) -> Array:
    """Without the candidates that are out."""
    values = np.asarray(pool, dtype=np.float64)
    return finite(values[~np.isnan(values)])


def _squares(pools: Pools) -> Array:
    """Of each pool the sum of squares around its mean, exactly 0 if it is constant: [prompts]."""
    arrays = [_scored(pool) for pool in pools]
    return np.array([((p - p.mean()) ** 2).sum() if np.ptp(p) > 0 else 0.0 for p in arrays])
