"""Frechet distance between two sets of embeddings, each taken as a Gaussian. numpy and scipy.

    distance(embeddings, references)   # [n, D], [m, D] -> squared distance

d^2 = |mu1 - mu2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2)), after Dowson and Landau (1982); on the
embeddings of an audio network it is the Frechet audio distance (Kilgour et al., arXiv 1812.08466).

With S1 = A'A and S2 = B'B the trace of the root is the sum of the singular values of AB'. No
covariance is inverted, and none has its root taken where a smaller matrix does, so that the
distance is exact too where there are fewer vectors than dimensions and covariances are singular.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigvalsh, qr, svdvals

from src.stats.intervals import StatsError

Array = NDArray[np.float64]


class References:
    """A set of vectors [m, D] to measure distances to; what depends on it alone is done once.

    Raises StatsError for fewer than two vectors or for values that are not finite.
    """

    def __init__(self, vectors: ArrayLike) -> None:
        self.mean, deviations = _gaussian(vectors)
        if len(deviations) > deviations.shape[1]:
            deviations = qr(deviations, mode="r")[0][: deviations.shape[1]]  # the same S2
        self.root = deviations
        self.trace = float((deviations**2).sum())

    def distance(self, vectors: ArrayLike) -> float:
        """Squared Frechet distance of vectors [n, D]. Raises StatsError, as for references."""
        mean, deviations = _gaussian(vectors)
        if mean.shape != self.mean.shape:
            raise StatsError(f"vectors of {len(mean)} and of {len(self.mean)} dimensions")
        shift = float(((mean - self.mean) ** 2).sum())
        traces = float((deviations**2).sum()) + self.trace
        return shift + traces - 2 * _nuclear_norm(deviations @ self.root.T)


def distance(vectors: ArrayLike, references: ArrayLike) -> float:
    """Squared Frechet distance of vectors [n, D] and [m, D]. Raises StatsError."""
    return References(references).distance(vectors)


def _gaussian(vectors: ArrayLike) -> tuple[Array, Array]:
    """Mean [D], and deviations A [n, D] with A'A the (unbiased) covariance."""
    array = np.asarray(vectors, dtype=np.float64)
    if array.ndim != 2 or len(array) < 2:
        raise StatsError(f"a Frechet distance needs two vectors or more [n, D], not {array.shape}")
    if not np.isfinite(array).all():
        raise StatsError(f"{(~np.isfinite(array)).sum()} of {array.size} values are not finite")
    mean = array.mean(0)
    return mean, (array - mean) / np.sqrt(len(array) - 1)


def _nuclear_norm(matrix: Array) -> float:
    rows, columns = matrix.shape
    if rows > columns:  # eigenvalues of the Gram matrix cost less than singular values
        return float(np.sqrt(eigvalsh(matrix.T @ matrix).clip(0)).sum())
    return float(svdvals(matrix).sum())
