"""The rule that stops best-of-n: the expected gain of one more sample, and what it is worth."""

import numpy as np
import pytest
from scipy import integrate, stats

from src.stats.stopping import expected_gain, is_enough

NAN = float("nan")


def by_integral(scores: np.ndarray) -> float:
    """Of what the predictive t lies above the best, in sample standard deviations."""
    n, best = len(scores), scores.max()
    scale = scores.std(ddof=1) * np.sqrt(1 + 1 / n)
    density = stats.t(n - 1, scores.mean(), scale).pdf
    return integrate.quad(lambda x: (x - best) * density(x), best, np.inf)[0] / scores.std(ddof=1)


@pytest.mark.parametrize("n", [3, 4, 8, 30])
def test_the_gain_is_the_integral_over_the_predictive_distribution(n: int) -> None:
    scores = np.random.default_rng(n).normal(7, 3, size=(5, n))
    assert expected_gain(scores) == pytest.approx([by_integral(x) for x in scores])
    missing = np.insert(scores, 1, NAN, axis=1)
    assert expected_gain(missing) == pytest.approx(expected_gain(scores))


def test_two_scores_say_too_little_and_equal_ones_enough() -> None:
    assert expected_gain([[1.0, 2.0], [1.0, NAN], [0.1, 0.1]]).tolist() == [np.inf, np.inf, 0]
    assert is_enough([0.1] * 3, 0.02)
    assert not is_enough([1.0, 2.0], 100.0)


def test_more_are_bought_at_a_lower_price_and_never_too_many_for_nothing() -> None:
    scores = np.random.default_rng(1).normal(size=(200, 8))
    stopped = [is_enough(scores, price).mean() for price in (0, 0.01, 0.05, 0.5)]
    assert stopped == sorted(stopped)
    assert (stopped[0], stopped[-1]) == (0, 1)
    assert not is_enough([0.1] * 3, 0)
    assert (is_enough(1000 * scores + 5, 0.05) == is_enough(scores, 0.05)).all()
