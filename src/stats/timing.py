"""Statistics of repeated timings: medians with intervals, interpolation, lines. numpy alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from src.stats.intervals import LEVEL, Interval

Array = NDArray[np.float64]

RESAMPLES = 2_000
MIN_REPETITIONS = 2  # fewer have no spread


def resampled_medians(seconds: Array, seed: int = 0, resamples: int = RESAMPLES) -> Array:
    """Medians of a table [repetitions, prompts] with both resampled, each with replacement:
    [resamples]; empty when there is but one repetition.

    Tables of one shape are resampled alike. Source: Owen, The pigeonhole bootstrap, Annals of
    Applied Statistics 1(2), 2007.
    """
    repetitions, prompts = seconds.shape
    if repetitions < MIN_REPETITIONS:
        return np.empty(0)
    random = np.random.default_rng(seed)
    rows = random.integers(repetitions, size=(resamples, repetitions, 1))
    columns = random.integers(prompts, size=(resamples, 1, prompts))
    return np.median(seconds[rows, columns], axis=(1, 2))


def interval(estimate: float, resampled: ArrayLike) -> Interval:
    """95% percentile interval around an estimate; its ends are NaN without resamples, or where not
    every one of them has a value."""
    values = np.asarray(resampled, dtype=np.float64)
    if not values.size or not np.isfinite(values).all():
        return Interval(estimate, float("nan"), float("nan"))
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(estimate, float(low), float(high))


def interpolated(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """y at x, linearly between neighbours; NaN outside of what was measured. xs ascend."""
    if not xs[0] <= x <= xs[-1]:
        return float("nan")
    return float(np.interp(x, xs, ys))


def crossing(y: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """The x at which the line through the points is y; NaN where there is none, or several."""
    found = set()
    for left, right in zip(range(len(xs) - 1), range(1, len(xs)), strict=True):
        low, high = sorted((ys[left], ys[right]))
        if low <= y <= high and low < high:
            part = (y - ys[left]) / (ys[right] - ys[left])
            found.add(round(xs[left] + part * (xs[right] - xs[left]), 12))
    return found.pop() if len(found) == 1 else float("nan")


@dataclass(frozen=True)
class Line:
    """seconds = fixed + per_frame * frames. worst: the largest distance of a median from it, as a
    part of the median. cells: how many medians there are."""

    fixed: Interval
    per_frame: Interval
    worst: float
    cells: int


def fit(frames: Array, medians: Array, resampled: Array) -> Line:
    """Weighted least squares of medians [cells] on frames [cells], weights 1/median^2: the spread
    of seconds grows with them. resampled: medians too, [resamples, cells]."""
    fixed, slope = weighted_line(frames, medians)
    fixed_all, slope_all = weighted_line(frames, resampled)
    residuals = np.abs(fixed + slope * frames - medians) / medians
    return Line(
        fixed=interval(float(fixed), fixed_all),
        per_frame=interval(float(slope), slope_all),
        worst=float(residuals.max()),
        cells=len(frames),
    )


def weighted_line(x: Array, y: Array) -> tuple[Array, Array]:
    """Intercepts and slopes of lines through y [.., points] over x [points]."""
    w = 1 / y**2
    w = w / w.sum(-1, keepdims=True)
    mean_x, mean_y = (w * x).sum(-1, keepdims=True), (w * y).sum(-1, keepdims=True)
    slope = (w * (x - mean_x) * (y - mean_y)).sum(-1) / (w * (x - mean_x) ** 2).sum(-1)
    return mean_y[..., 0] - slope * mean_x[..., 0], slope
