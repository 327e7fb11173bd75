"""Searches without branches, on a pool's own clips: who would have won, at what cost.

Successive halving: N0 candidates are begun; after each step the better part goes on, the others are
dropped, and of those that finish the best wins (Jamieson and Talwalkar, arXiv 1502.07943; for
language models: Sun et al., arXiv 2410.20290). Waves: best-of-n until one more sample is not worth
its price (src/stats/stopping.py).

All orders of m clips are too many. Some are drawn, and a search of N takes the first N: settings
are compared over the same draws.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from src.stats.intervals import StatsError
from src.stats.stopping import is_enough

Array = NDArray[np.float64]


def draw_orders(size: int, draws: int, seed: int = 0) -> NDArray[np.int64]:
    """The place of each of a pool's m in each of `draws` random orders: [draws, m].

    Those with a place below n are a random subset of n.
    """
    orders = np.tile(np.arange(size), (draws, 1))
    return np.random.default_rng(seed).permuted(orders, axis=1)


def halving_weights(
    scores: Sequence[ArrayLike], alive: Sequence[int], places: NDArray[np.int64]
) -> Array:
    """How often each of a pool's m clips wins: [m], of sum 1.

    scores: [m] of the clips' beginnings at each cut, then of whole clips; higher is better, NaN is
    worse than all, from there on; equal ones rank by slot. alive: in each step, N0 first. places:
    `draw_orders`. Draws of which no survivor has a score do not count, as a search that fails.
    Raises StatsError where N0 is more than m, or no draw has a winner.
    """
    known, size = np.array(scores, dtype=np.float64), places.shape[1]
    known[np.logical_or.accumulate(np.isnan(known))] = np.nan  # who is out stays out
    if alive[0] > size:
        raise StatsError(f"{alive[0]} candidates need as many in a pool, which has {size}")
    left = places < alive[0]
    for at, kept in zip(known[:-1], alive[1:], strict=True):
        order = _best_first(at)
        ranked = left[:, order]
        left = np.empty_like(ranked)
        left[:, order] = ranked & (np.cumsum(ranked, axis=1) <= kept)
    return _share_of_wins(known[-1], left)


def stopped(
    scores: ArrayLike, wave: int, prices: Sequence[float], places: NDArray[np.int64]
) -> NDArray[np.int64]:
    """How many clips waves would take of a pool's m: [prices, draws].

    scores: [m]. wave: clips taken at once, after which it may stop. places: `draw_orders`.
    """
    taken = np.asarray(scores, dtype=np.float64)[np.argsort(places, axis=1)]
    counts = np.full((len(prices), len(places)), places.shape[1])
    for n in reversed(range(wave, places.shape[1], wave)):  # the first stop is written last
        counts[is_enough(taken[:, :n], np.reshape(prices, (-1, 1)))] = n
    return counts


def waves_weights(scores: ArrayLike, counts: NDArray[np.int64], places: NDArray[np.int64]) -> Array:
    """How often each of a pool's m clips is the best of those taken: [m], of sum 1.

    counts: [draws], as `stopped` has them. Otherwise as `halving_weights`.
    """
    return _share_of_wins(np.asarray(scores, dtype=np.float64), places < counts[:, None])


def expected(weights: Array, values: Array) -> Array:
    """What the winner has on average: [prompts]. weights, values: [prompts, m]; values that are NaN
    do not count, as searches whose winner the measure has no number for; NaN where none counts."""
    weights = np.where(np.isnan(values), 0.0, weights)
    with np.errstate(invalid="ignore"):
        found: Array = (weights * np.nan_to_num(values)).sum(1) / weights.sum(1)
    return found


def _best_first(scores: ArrayLike) -> NDArray[np.intp]:
    return np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")


def _share_of_wins(scores: Array, left: NDArray[np.bool_]) -> Array:
    """How often each is the best of those left: [m]. left: [draws, m]."""
    order = _best_first(scores)
    counts = np.bincount(order[left[:, order].argmax(axis=1)], minlength=len(scores))
    counts[np.isnan(scores)] = 0
    if not counts.any():
        raise StatsError("no candidate that is left has a score")
    weights: Array = counts / counts.sum()
    return weights
