"""How well two measures rank the clips of a prompt alike: Kendall's tau, within prompts only.

With the score of a clip's beginning for one of them it says how early a search may prune. Arrays
and intervals are as in src/stats/best_of_n.py.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from src.stats.best_of_n import Pools
from src.stats.intervals import Interval, bootstrap, finite


def tau(a: Pools, b: Pools) -> NDArray[np.float64]:
    """Kendall's tau-b of two scores within each prompt's pool: [prompts].

    NaN for a pool in which a score is constant, or of one clip: it ranks nothing.
    """
    pairs = [(finite(x), finite(y)) for x, y in zip(a, b, strict=True)]
    return np.array([kendalltau(x, y).statistic if len(x) > 1 else math.nan for x, y in pairs])


def mean_tau(a: Pools, b: Pools) -> tuple[Interval, int]:
    """Mean of `tau` over the prompts that have one, and how many these are; NaN where none has."""
    found = tau(a, b)
    found = found[np.isfinite(found)]
    if not found.size:
        return Interval(math.nan, math.nan, math.nan), 0
    return bootstrap(len(found)).interval(found), len(found)


def even_tau(part: float) -> float:
    """The tau of beginnings with whole clips if all seconds counted alike and independently.

    part: of the clip, 0 to 1. A mean of the first part of independent terms correlates with the
    mean of all by sqrt(part); for normal ones tau = 2/pi * arcsin(correlation).
    """
    return 2 / math.pi * math.asin(math.sqrt(part))
