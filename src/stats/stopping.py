"""When one more sample is not worth its price: stopping best-of-n by what it has seen so far.

One more is a fresh draw from the distribution that the scores so far suggest. Under a normal one of
unknown mean and variance that is a Student t, wide for few scores (Gelman et al., Bayesian Data
Analysis, 3.2). To stop where the expected gain is no more than the price is Pandora's rule
(Weitzman, Optimal Search for the Best Alternative, 1979); for language models: arXiv 2510.01394.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student


def expected_gain(scores: ArrayLike) -> NDArray[np.float64]:
    """What one more sample is expected to add to the best so far, in units of s: [...].

    scores: [..., n], higher is better; NaN is none. With s their sample standard deviation, the
    next is mean + scale * t of nu = n - 1 degrees of freedom, scale = s * sqrt(1 + 1/n); at
    z = (best - mean) / scale, and f, F of that t, in the scores' unit:

        gain = scale * ((nu + z^2) / (nu - 1) * f(z) - z * (1 - F(z)))

    Infinite for fewer than three scores; 0 where all of two or more are equal.
    """
    values = np.asarray(scores, dtype=np.float64)
    known = ~np.isnan(values)
    n = known.sum(-1)
    best = np.max(values, axis=-1, keepdims=True, initial=-np.inf, where=known)
    below = np.where(known, best - values, 0.0)  # exactly 0 where all are equal
    mean = below.sum(-1) / np.maximum(n, 1)
    squares = np.where(known, np.square(below - mean[..., None]), 0.0).sum(-1)
    std = np.sqrt(squares / np.maximum(n - 1, 1))
    spread, nu = np.sqrt(1 + 1 / np.maximum(n, 1)), np.maximum(n - 1.0, 2.0)
    z = mean / np.where(std > 0, std * spread, 1.0)
    gain = spread * ((nu + z**2) / (nu - 1) * student.pdf(z, nu) - z * student.sf(z, nu))
    return np.select([n < 2, std == 0, n == 2], [np.inf, 0.0, np.inf], gain)


def is_enough(scores: ArrayLike, price: float | NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether one more is not worth its price: [...]. price: in units of s; at 0 never enough."""
    return (expected_gain(scores) <= price) & np.greater(price, 0)
