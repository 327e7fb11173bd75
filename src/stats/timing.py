"""Statistics of repeated timings: interpolation and lines. numpy alone.

Medians are resampled in src/stats/intervals.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.stats.intervals import Array, Interval, interval

QUIET_LOAD = 0.25  # of one core, for a minute: what the system itself does stays below


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
