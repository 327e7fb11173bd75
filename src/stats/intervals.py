"""What chance would do: intervals and p of means over prompts, and p of what has no mean.

Prompts are what is drawn at random, so they are what is resampled: never the clips of a prompt.
The draws are made once for a number of prompts and shared by everything that is computed over so
many, so that hundreds of intervals take seconds. A ratio of means has the interval of the mean of
its linear terms, a number for each prompt (src/stats/best_of_n.py).

Of timings, repetitions are resampled as well (`resampled_medians`); `crossing` and
`line_of_seconds` read their curves.

Arrays are float64.
"""

import functools
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]

RESAMPLES = 10_000
LEVEL = 0.95
ALPHA = 0.05  # what p has to be at most, as LEVEL has it
TIMING_RESAMPLES = 2_000
RESAMPLED_AT_ONCE = 4_000_000  # counts: bounds memory
PERMUTATIONS = 200  # p down to 0.005; a Frechet distance of thousands of clips takes 0.1 s


class StatsError(ValueError):
    """Numbers from which the asked-for statistic does not follow; the message says why."""


class Interval(NamedTuple):
    """An estimate and the ends of its interval; the ends are NaN where there are none."""

    mean: float
    low: float
    high: float

    @property
    def side(self) -> int:
        """1 or -1 where all of it is above or below zero; 0 where neither, or without ends."""
        return int(self.low > 0) - int(self.high < 0)


def mean_interval(values: ArrayLike) -> Interval:
    """Mean over prompts with its 95% interval: Student's and the bootstrap-t's taken together.

    values: [prompts]: a measure, or the difference of two methods on each prompt (then it is
    paired). Student's t is right for values that lie evenly around their mean. Skewed ones, such as
    ratios and exponentials, need the bootstrap-t: the same t with quantiles from resampled prompts,
    longer on the side of the tail. From a few prompts one cannot tell which they are, so an end is
    the farther of the two. Without ends for fewer than two prompts. Raises StatsError for none, or
    for values that are not finite.

    Source of the bootstrap-t: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, 12.5.
    """
    mean, error, resampled = _studentised(values)
    if math.isnan(error):
        return Interval(mean, math.nan, math.nan)
    reach = stats.t.ppf((1 + LEVEL) / 2, np.size(values) - 1)
    beyond = int(len(resampled) * (1 - LEVEL) / 2)  # of the resamples, on either side
    ends = [beyond, len(resampled) - 1 - beyond]
    low, high = np.partition(resampled, ends)[ends] if len(resampled) else (0.0, 0.0)
    return Interval(mean, mean - max(reach, high) * error, mean + max(reach, -low) * error)


def mean_p(values: ArrayLike) -> float:
    """p, two-sided, of a mean of 0: 0.05 at most exactly where `mean_interval` excludes 0.

    The larger of Student's and the bootstrap-t's. NaN for fewer than two prompts. Raises
    StatsError, as `mean_interval`.
    """
    mean, error, resampled = _studentised(values)
    if math.isnan(error):
        return math.nan
    if not error:
        return float(mean == 0)
    t = mean / error
    beyond = np.mean(resampled * np.sign(t) >= abs(t)) if len(resampled) else 0.0
    return min(1.0, 2 * float(max(stats.t.sf(abs(t), np.size(values) - 1), beyond)))


def holm(ps: Sequence[float]) -> list[float]:
    """p of each of several comparisons, adjusted so that where 0.05 is the limit any one of them is
    falsely called clear in at most 5% of cases; in the order given.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
    Statistics 6(2), 1979.
    """
    order = np.argsort(ps)
    steps = np.asarray(ps, dtype=np.float64)[order] * np.arange(len(ps), 0, -1)
    adjusted = np.empty(len(ps))
    adjusted[order] = np.maximum.accumulate(steps).clip(max=1)
    return [float(p) for p in adjusted]


def _studentised(values: ArrayLike) -> tuple[float, float, Array]:
    """Mean; its standard error, NaN for one prompt; t of resampled prompts.

    A resample of one value has no t and is left out.
    """
    array = finite(values)
    if not array.size:
        raise StatsError("no mean of nothing: no prompt has both measures")
    mean, freedom = float(array.mean()), array.size - 1
    if not freedom:
        return mean, math.nan, np.empty(0)
    moments = np.stack([array - mean, (array - mean) ** 2], axis=1)
    drawn = (counts.astype(np.float64) @ moments for counts in _resamples(array.size))
    shifts, squares = np.concatenate([*drawn]).T / array.size
    variances, own = squares - shifts**2, moments[:, 1].mean()
    known = variances > 1e-12 * own  # else it is rounding
    t = shifts[known] / np.sqrt(variances[known] / freedom)
    return mean, math.sqrt(own / freedom), t


@functools.lru_cache(maxsize=4)
def _resamples(prompts: int) -> list[NDArray[np.uint16]]:
    """How often each prompt is drawn: [RESAMPLES, prompts], in parts; always the same draws."""
    random, at_once = np.random.default_rng(0), max(1, RESAMPLED_AT_ONCE // prompts)
    sizes = [min(at_once, RESAMPLES - start) for start in range(0, RESAMPLES, at_once)]
    even = np.full(prompts, 1 / prompts)
    return [random.multinomial(prompts, even, size=size).astype(np.uint16) for size in sizes]


def interval(estimate: float, resampled: Array) -> Interval:
    """The percentile interval of an estimate, for medians of repeated timings.

    resampled: NaN where a resample has no value; they are left out. Empty: no ends.
    """
    found = resampled[np.isfinite(resampled)]
    if not found.size or not math.isfinite(estimate):
        return Interval(estimate, math.nan, math.nan)
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(estimate, float(low), float(high))


def resampled_medians(seconds: Array) -> Array:
    """Medians of a table [repetitions, prompts] with both resampled, each with replacement:
    [TIMING_RESAMPLES]; empty when there is but one repetition.

    Tables of one shape are resampled alike. Source: Owen, The pigeonhole bootstrap, Annals of
    Applied Statistics 1(2), 2007.
    """
    repetitions, prompts = seconds.shape
    if repetitions < 2:
        return np.empty(0)
    random = np.random.default_rng(0)
    rows = random.integers(repetitions, size=(TIMING_RESAMPLES, repetitions, 1))
    columns = random.integers(prompts, size=(TIMING_RESAMPLES, 1, prompts))
    return np.median(seconds[rows, columns], axis=(1, 2))


def crossing(y: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """The x at which the line through the points is y; NaN where there is none, or several."""
    found = set()
    for (x0, y0), (x1, y1) in pairwise(zip(xs, ys, strict=True)):
        if min(y0, y1) <= y <= max(y0, y1) and y0 != y1:
            found.add(round(x0 + (y - y0) / (y1 - y0) * (x1 - x0), 12))
    return found.pop() if len(found) == 1 else float("nan")


def line_of_seconds(
    frames: Array, medians: Array, resampled: Array
) -> tuple[Interval, Interval, float]:
    """The line seconds = fixed + per_frame * frames, and the largest distance of a median from it,
    as a part of the median: (fixed, per_frame, worst).

    Weighted least squares of medians [cells] on frames [cells], weights 1/median^2: the spread of
    seconds grows with them. resampled: medians too, [resamples, cells].
    """
    fixed, slope = weighted_line(frames, medians)
    fixed_all, slope_all = weighted_line(frames, resampled)
    worst = float((np.abs(fixed + slope * frames - medians) / medians).max())
    return interval(float(fixed), fixed_all), interval(float(slope), slope_all), worst


def weighted_line(x: Array, y: Array) -> tuple[Array, Array]:
    """Intercepts and slopes of lines through y [.., points] over x [points]."""
    w = 1 / y**2
    w = w / w.sum(-1, keepdims=True)
    mean_x, mean_y = (w * x).sum(-1, keepdims=True), (w * y).sum(-1, keepdims=True)
    slope = (w * (x - mean_x) * (y - mean_y)).sum(-1) / (w * (x - mean_x) ** 2).sum(-1)
    return mean_y[..., 0] - slope * mean_x[..., 0], slope


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


def finite(values: ArrayLike) -> Array:
    """The values as float64 [n]. Raises StatsError unless they are finite and in one row."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise StatsError(f"expected one row of numbers, not an array {array.shape}")
    if not np.isfinite(array).all():
        raise StatsError(f"{(~np.isfinite(array)).sum()} of {array.size} values are not finite")
    return array
