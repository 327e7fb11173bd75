"""What the scores of a run say: best-of-n from one pool, intervals and agreement. numpy and scipy.

A pool is m independent clips of one prompt, each with a selector's score s and a measure g. What
best-of-n would give on average, for every n up to m, follows from the pool exactly, without
sampling again: `best_of_n`. Prompts are what is drawn at random, so intervals resample prompts,
never the clips of a pool: `paired_interval`.

Everywhere: higher selector scores are better, arrays are float64, and a value that is not finite
is an error.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import integrate
from scipy.stats import kendalltau, norm

from src.stats.intervals import LEVEL, RESAMPLES, Interval, StatsError, finite

Array = NDArray[np.float64]

PERMUTATIONS = 200  # p down to 0.005; a Frechet distance of thousands of clips takes 0.1 s
RESAMPLED_AT_ONCE = 1_000_000  # values: bounds the memory of a bootstrap


def best_of_n_weights(scores: ArrayLike, n: int) -> Array:
    """How likely each of a pool's m clips is to be the best of n drawn from it: [m], sum 1.

    Drawn without replacement, so that the expectation is unbiased for n fresh clips. The clip of
    ascending rank i is the best of C(i-1, n-1) of the C(m, n) subsets; tied clips share the weights
    of their block, as a coin between them would.
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


def best_of_n(scores: ArrayLike, measure: ArrayLike, n: int) -> float:
    """Expected `measure` of the clip with the best score of n, from one pool ([m], [m])."""
    measure = finite(measure)
    weights = best_of_n_weights(scores, n)
    if measure.shape != weights.shape:
        raise StatsError(f"{weights.size} scores, but {measure.size} measures")
    return float(weights @ measure)


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


def paired_interval(
    values: ArrayLike, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval:
    """Mean over prompts with the percentile interval of a bootstrap over prompts.

    values: one per prompt, [prompts]: a measure, or the difference of two methods on that prompt
    (then the interval is paired). The same values and seed give the same interval.
    Raises StatsError for fewer than two prompts.
    """
    values = finite(values)
    prompts = len(values)
    if prompts < 2:
        raise StatsError(f"an interval over prompts needs two of them or more, not {prompts}")
    random = np.random.default_rng(seed)
    means = np.empty(resamples)
    at_once = max(1, RESAMPLED_AT_ONCE // prompts)
    for start in range(0, resamples, at_once):
        part = means[start : start + at_once]
        part[:] = values[random.integers(prompts, size=(len(part), prompts))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def permutation_p(
    difference: Callable[[NDArray[np.bool_]], float],
    prompts: int,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
) -> float:
    """p, two-sided, of a difference between two methods that has no value for a single prompt.

    difference: of the methods, once the clips of those prompts that are `swapped`, bool [prompts],
    have changed places between them. p = (1 + count) / (1 + permutations), where count is how often
    chance gives a difference as large as the one found, after Phipson and Smyth (2010). The same
    seed gives the same p. Raises StatsError for fewer than two prompts or a difference that is not
    finite.
    """
    if prompts < 2:
        raise StatsError(f"a permutation test needs two prompts or more, not {prompts}")
    random = np.random.default_rng(seed)
    swaps = random.integers(2, size=(permutations, prompts), dtype=np.bool_)
    found, *chance = np.abs(finite([difference(s) for s in (np.zeros_like(swaps[0]), *swaps)]))
    # What is equal but for rounding counts as equal.
    return float((1 + np.sum(np.array(chance) >= found * (1 - 1e-9))) / (1 + permutations))


def agreement(a: Sequence[ArrayLike], b: Sequence[ArrayLike]) -> Array:
    """Kendall's tau-b of two scores within each prompt's pool: [prompts].

    a, b: one array [m] per prompt. NaN for a pool in which a score is constant: it ranks nothing.
    The others can be averaged, or given to `paired_interval`.
    """
    taus = [kendalltau(finite(x), finite(y)).statistic for x, y in zip(a, b, strict=True)]
    return np.array(taus, dtype=np.float64)


def within_prompt_std(pools: Sequence[ArrayLike]) -> float:
    """Standard deviation of a score around its prompt's mean, pooled over prompts (m - 1 each)."""
    arrays = [finite(pool) for pool in pools]
    freedom = sum(len(pool) - 1 for pool in arrays)
    if freedom < 1:
        raise StatsError("a standard deviation within prompts needs two clips of some prompt")
    squares = sum(float(((pool - pool.mean()) ** 2).sum()) for pool in arrays)
    return math.sqrt(squares / freedom)
