"""Successive halving, from a pool whose beginnings are scored: who would have won, at what cost.

N0 candidates of a prompt are begun; after each step the better part goes on, the others are
dropped, and of those that finish the best wins. Nothing branches, so that a candidate that goes on
is the pool's own clip, and a search of N0 is any N0 of the pool's m (Jamieson and Talwalkar,
arXiv 1502.07943; for language models: Sun et al., arXiv 2410.20290).

All N0-subsets are too many. Some are drawn without replacement within a subset, the same for every
schedule, and those of a smaller N0 lie within those of a larger one, so that schedules are compared
over the same draws.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from src.stats.intervals import StatsError

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
    worse than all, equal ones rank by slot. alive: in each step, N0 first. places: `draw_orders`.
    Draws of which no survivor has a score do not count, as a search that fails. Raises StatsError
    where N0 is more than m, or no draw has a winner.
    """
    whole, size = np.asarray(scores[-1], dtype=np.float64), places.shape[1]
    if alive[0] > size:
        raise StatsError(f"{alive[0]} candidates need as many in a pool, which has {size}")
    left = places < alive[0]
    for at, kept in zip(scores[:-1], alive[1:], strict=True):
        order = _best_first(at)
        ranked = left[:, order]
        left = np.empty_like(ranked)
        left[:, order] = ranked & (np.cumsum(ranked, axis=1) <= kept)
    order = _best_first(whole)
    counts = np.bincount(order[left[:, order].argmax(axis=1)], minlength=size)
    counts[np.isnan(whole)] = 0
    if not counts.any():
        raise StatsError("no candidate that is left has a score")
    weights: Array = counts / counts.sum()
    return weights


def expected(weights: Array, values: Array) -> Array:
    """What the winner has on average: [prompts]. weights, values: [prompts, m]; values that are NaN
    do not count, as searches whose winner the measure has no number for; NaN where none counts."""
    weights = np.where(np.isnan(values), 0.0, weights)
    with np.errstate(invalid="ignore"):
        found: Array = (weights * np.nan_to_num(values)).sum(1) / weights.sum(1)
    return found


def _best_first(scores: ArrayLike) -> NDArray[np.intp]:
    return np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
