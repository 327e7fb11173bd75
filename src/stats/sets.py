"""Measures of sets of clips, from the clips' embeddings. numpy and scipy.

    measure = STATISTICS["kernel"](references)   # of each prompt [windows, D]
    measure(clips)                               # of the same prompts in the same order
    null("kernel", clips, references)            # what chance gives

frechet    squared Frechet distance between all windows of clips and references (frechet.py). Biased
           upwards: with few windows nearly all of it is bias, and less varied clips get less of it
kernel     100 times the unbiased squared maximum mean discrepancy (MMD) between clips and
           references, under a Gaussian kernel as wide as the median distance between references:
           the kernel audio distance (KAD; Chung et al., arXiv 2502.15602). About 0, of either sign,
           where the two do not differ, however few they are
spread     mean Euclidean distance between clips of different prompts; references play no part

For kernel and spread a clip is one vector, the mean of its windows: windows of one clip are not
independent, and only independent vectors make an unbiased estimate. These two raise StatsError for
fewer than two prompts, frechet for fewer than two windows.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist, pdist

from src.stats import frechet
from src.stats.intervals import LEVEL, PERMUTATIONS, Interval, StatsError, permutation_p

Array = NDArray[np.float64]
Clips = Sequence[ArrayLike]  # by prompt, [windows, D]
Measure = Callable[[Clips], float]

SCALE = 100.0  # of the kernel distance


def frechet_to(references: Clips) -> Measure:
    """The Frechet distance to these references."""
    to = frechet.References(np.concatenate([np.asarray(x) for x in references]))
    return lambda clips: to.distance(np.concatenate([np.asarray(x) for x in clips]))


def kernel_to(references: Clips) -> Measure:
    """The kernel distance to these references. Raises StatsError where they are all the same."""
    theirs = means(references)
    bandwidth = median_distance(theirs)
    if not bandwidth > 0:
        raise StatsError("most references are the same: a kernel distance needs different ones")

    def distance(clips: Clips) -> float:
        own = means(clips)
        cross = gaussian(own, theirs, bandwidth)
        within = gaussian(own, own, bandwidth) + gaussian(theirs, theirs, bandwidth)
        return SCALE * float(mean_of_pairs(within - cross - cross.T))

    return distance


def spread(clips: Clips) -> float:
    """Mean distance between the clips of two prompts."""
    return float(pdist(means(clips)).mean())


STATISTICS: Mapping[str, Callable[[Clips], Measure]] = {
    "frechet": frechet_to,
    "kernel": kernel_to,
    "spread": lambda references: spread,  # noqa: ARG005
}


def null(
    statistic: str, clips: Clips, references: Clips, permutations: int = PERMUTATIONS
) -> Interval:
    """What the measure would be if the clips were no different from the references: mean and 95%
    range over random exchanges of each prompt's clip and reference.

    So both sets keep their prompts and their size, on which a Frechet distance depends (halves of
    the references would be half as large). A measure beyond the range is no accident. Where clips
    and references are far apart, a part of it that falls with the number of prompts is left in the
    null. Of `spread` it is that of the references, without a range.
    """
    if statistic == "spread":
        return Interval(spread(references), math.nan, math.nan)
    swaps = np.random.default_rng(0).integers(2, size=(permutations, len(clips)), dtype=np.bool_)
    sets = (exchanged(clips, references, swapped) for swapped in swaps)
    found = [STATISTICS[statistic](second)(first) for first, second in sets]
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(np.mean(found)), float(low), float(high))


def p_of_difference(
    method: Clips, baseline: Clips, measure: Measure, permutations: int = PERMUTATIONS
) -> float:
    """Whether a method's number differs from the baseline's: p of a paired permutation test.

    method, baseline: of the same prompts in the same order. Where the two do not differ, a prompt's
    two clips could as well be exchanged. (A bootstrap would not do: it repeats vectors, which
    changes what sets give.)
    """

    def difference(swapped: NDArray[np.bool_]) -> float:
        first, second = exchanged(method, baseline, swapped)
        return measure(first) - measure(second)

    return permutation_p(difference, len(method), permutations=permutations)


def exchanged(first: Clips, second: Clips, swapped: NDArray[np.bool_]) -> tuple[Clips, Clips]:
    """The two sets with those prompts that are `swapped`, bool [prompts], changed over."""
    pairs = [(b, a) if s else (a, b) for a, b, s in zip(first, second, swapped, strict=True)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def means(clips: Clips) -> Array:
    """A vector for each clip, the mean of its windows: [clips, D]. Raises StatsError."""
    found = np.array([np.asarray(x, dtype=np.float64).mean(0) for x in clips])
    if len(found) < 2:
        raise StatsError(f"a measure of sets needs two clips or more, not {len(found)}")
    return found


def median_distance(vectors: Array) -> float:
    """Between two of the vectors [n, D]."""
    return float(np.median(pdist(vectors)))


def gaussian(a: Array, b: Array, bandwidth: float) -> Array:
    """exp(-|a - b|^2 / (2 bandwidth^2)) of vectors [n, D] and [m, D]: [n, m]."""
    return np.exp(-cdist(a, b, "sqeuclidean") / (2 * bandwidth**2))


def mean_of_pairs(values: Array) -> Array:
    """The mean over pairs of different prompts: [.., prompts, prompts] -> [..].

    Of k(x, x') + k(y, y') - k(x, y') - k(x', y) it is the unbiased squared MMD of Gretton et al.
    (JMLR 13, 2012, equation 4). A clip x and its own prompt's reference y are not independent, and
    are left out with the other pairs of one prompt.
    """
    prompts = values.shape[-1]
    off = values.sum((-2, -1)) - np.trace(values, axis1=-2, axis2=-1)
    return np.asarray(off / (prompts * (prompts - 1)))


def expected_pairs(
    weights: Array, vectors: Array, function: Callable[[Array, Array], Array]
) -> Array:
    """Expectation of function(x, x') for the clips of two prompts, each drawn by its weights.

    weights: [selections, prompts, m]; vectors: [prompts, m, D]; function: of [n, D] and [k, D],
    [n, k]. Returns [selections, prompts, prompts], whose diagonal means nothing.
    """
    selections, prompts, m = weights.shape
    flat, found = vectors.reshape(prompts * m, -1), np.empty((selections, prompts, prompts))
    for at in range(prompts):
        rows = weights[:, at] @ function(vectors[at], flat)
        found[:, at] = (rows.reshape(selections, prompts, m) * weights).sum(-1)
    return found
