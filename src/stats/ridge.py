"""Ridge regression within prompts: what tells a prompt's candidates apart, whatever its level.

    moments = moments_of(features, target)      # [m, features] and [m], one each a prompt
    weights = fit(moments, best_penalty(moments))

Features and target count as differences from their means over a prompt's candidates, all of them
in units of the spread of its target: least squares weighted by 1/variance, so that no prompt counts
for its wide scores, and one unit holds for all prompts. A candidate's prediction is a sum of its
own features (and a constant that no ranking within a prompt knows of). Numbers that are lacking are
NaN: such a candidate does not count, nor does a prompt whose target does not vary.

The penalty is on weights of features in units of their spread, as a part of the variance. It is
chosen by leaving out one prompt after the other, and what is said of held-out prompts is by weights
of other prompts, their penalty included. All follows from sums of products of each prompt, which
are made once. Source: Hoerl and Kennard, Ridge Regression, Technometrics 12(1), 1970.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

PENALTIES = (1.0, 0.3, 0.1, 0.03, 1e-2, 1e-3, 1e-4, 1e-6)  # the simplest first


class Moments(NamedTuple):
    """Mean products of differences, by prompt. gram: [prompts, features, features], of features;
    cross: [prompts, features], with the target; squares: [prompts], of the target: 1, or 0."""

    gram: Array
    cross: Array
    squares: Array


def moments_of(features: Iterable[ArrayLike], target: Iterable[ArrayLike]) -> Moments:
    """features: [m, features], target: [m], one each a prompt, with m of its own."""
    found = []
    for x, y in zip(features, target, strict=True):
        both = np.column_stack([x, y]).astype(np.float64)
        both = both[~np.isnan(both).any(1)]
        if len(both) and np.ptp(both[:, -1]) > 0:  # what does not vary is 0, not rounding
            both = np.where(np.ptp(both, axis=0) > 0, both - both.mean(0), 0.0) / both[:, -1].std()
        else:
            both = np.zeros((1, both.shape[1]))
        found.append(both.T @ both / len(both))
    all_of = np.array(found)
    return Moments(all_of[:, :-1, :-1], all_of[:, :-1, -1], all_of[:, -1, -1])


def fit(moments: Moments, penalty: float) -> Array:
    """Weights: [features], the target's units for one unit of each feature; 0 for one that is the
    same for all candidates of a prompt."""
    return _solve(moments.gram.sum(0), moments.cross.sum(0), penalty)


def best_penalty(moments: Moments) -> float:
    """That by which prompts that are left out are predicted best; of equal ones the first."""
    gram = moments.gram.sum(0) - moments.gram
    cross = moments.cross.sum(0) - moments.cross
    errors = [_errors(moments, _solve(gram, cross, penalty)).sum() for penalty in PENALTIES]
    return PENALTIES[int(np.argmin(np.round(errors, 12)))]


def held_out(moments: Moments, folds: NDArray[np.int64]) -> Array:
    """For each prompt the weights that prompts of other folds give: [prompts, features].

    folds: [prompts], two or more different ones.
    """
    weights = np.empty_like(moments.cross)
    for fold in np.unique(folds):
        others = Moments(*(x[folds != fold] for x in moments))
        weights[folds == fold] = fit(others, best_penalty(others))
    return weights


def explained(moments: Moments, weights: Array) -> Array:
    """R2 within each prompt, [prompts]: the part of the target's variance that is predicted; NaN
    where there is none. weights: [features], or [prompts, features]."""
    known = moments.squares > 0
    return np.where(known, 1 - _errors(moments, weights), np.nan)


def _errors(moments: Moments, weights: Array) -> Array:
    """Mean squares of what is left: [prompts]."""
    weights = np.broadcast_to(weights, moments.cross.shape)
    both = np.einsum("pf,pfg,pg->p", weights, moments.gram, weights)
    left: Array = moments.squares - 2 * (weights * moments.cross).sum(1) + both
    return left


def _solve(gram: Array, cross: Array, penalty: float) -> Array:
    """gram: [.., features, features], cross: [.., features] -> [.., features]."""
    scale = np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1))
    scale = np.where(scale > 0, scale, np.inf)
    scaled = gram / (scale[..., None] * scale[..., None, :])
    scaled += penalty * np.eye(gram.shape[-1])
    found: Array = np.linalg.solve(scaled, (cross / scale)[..., None])[..., 0] / scale
    return found
