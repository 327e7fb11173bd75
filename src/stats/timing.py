"""Statistics of repeated timings: curves and lines. numpy alone.

Medians are resampled in src/stats/intervals.py.
"""

from collections.abc import Sequence

import numpy as np

from src.stats.intervals import Array, Interval, interval

QUIET_LOAD = 0.25  # of one core, for a minute: what the system itself does stays below


def crossing(y: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """The x at which the line through the points is y; NaN where there is none, or several."""
    found = set()
    for left, right in zip(range(len(xs) - 1), range(1, len(xs)), strict=True):
        low, high = sorted((ys[left], ys[right]))
        if low <= y <= high and low < high:
            part = (y - ys[left]) / (ys[right] - ys[left])
            found.add(round(xs[left] + part * (xs[right] - xs[left]), 12))
    return found.pop() if len(found) == 1 else float("nan")


def fit(frames: Array, medians: Array, resampled: Array) -> tuple[Interval, Interval, float]:
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
