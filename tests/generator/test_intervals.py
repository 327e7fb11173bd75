"""Intervals and p against brute force: every resample, every exchange, simulated coverage."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from src.stats.intervals import (
    Bootstrap,
    Interval,
    StatsError,
    bootstrap,
    permutation_p,
)


def test_the_interval_is_that_of_all_resamples() -> None:
    values = np.array([0.0, 1.0, 5.0, 2.0])
    means = [np.mean(resample) for resample in itertools.product(values, repeat=4)]
    interval = Bootstrap(4, resamples=200_000).interval(values)
    assert interval.mean == 2.0
    expected = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose([interval.low, interval.high], expected, atol=0.26)


@pytest.mark.parametrize("prompts", [2, 64, 300, 3000])
def test_means_by_products_and_in_parts_are_those_of_the_prompts_drawn(prompts: int) -> None:
    values = np.random.default_rng(prompts).normal(size=prompts)
    drawn = np.random.default_rng(7).integers(prompts, size=(2000, prompts))
    expected = np.quantile(values[drawn].mean(1), [0.025, 0.975])
    found = Bootstrap(prompts, seed=7, resamples=2000).interval(values)
    assert found == pytest.approx((values.mean(), *expected), abs=1e-12)


def test_the_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    random = np.random.default_rng(2)
    samples = random.normal(1.0, 2.0, size=(300, 40))
    intervals = [Bootstrap(40, seed, 400).interval(row) for seed, row in enumerate(samples)]
    covered = np.mean([low <= 1.0 <= high for _, low, high in intervals])
    assert 0.90 < covered < 0.98


def test_resampled_means_keep_the_shape_of_what_they_are_of_and_are_always_the_same() -> None:
    values = np.random.default_rng(0).normal(size=(7, 3, 2))
    means = Bootstrap(7, resamples=50).means(values)
    assert means.shape == (50, 3, 2)
    assert means[:, 1, 1] == pytest.approx(Bootstrap(7, resamples=50).means(values[:, 1, 1]))
    assert not np.array_equal(means, Bootstrap(7, seed=1, resamples=50).means(values))


def test_a_single_prompt_has_an_estimate_without_ends_and_no_prompt_is_an_error() -> None:
    assert bootstrap(1).interval(np.array([2.0])) == pytest.approx(
        (2.0, math.nan, math.nan), nan_ok=True
    )
    with pytest.raises(StatsError, match="no prompt has both"):
        bootstrap(0)


@pytest.mark.parametrize(
    ("ends", "side"),
    [((0.1, 0.2), 1), ((-2, -1), -1), ((-1, 1), 0), ((0, 1), 0), ((math.nan, math.nan), 0)],
)
def test_an_interval_is_on_a_side_of_zero_only_as_a_whole(
    ends: tuple[float, float], side: int
) -> None:
    assert Interval(0.5, *ends).side == side


def mean_difference(differences: np.ndarray) -> Callable[[np.ndarray], float]:
    """As a function of which prompts are swapped, in the form that a permutation test takes."""
    return lambda swapped: float(np.where(swapped, -differences, differences).mean())


def test_p_is_the_share_of_all_exchanges_that_give_as_large_a_difference() -> None:
    differences = np.array([1.0, 0.5, -0.2, 2.0, 0.7])
    found = abs(differences.mean())
    signs = itertools.product((1, -1), repeat=5)
    exact = np.mean([abs((differences * s).mean()) >= found - 1e-12 for s in signs])
    p = permutation_p(mean_difference(differences), 5, permutations=20_000)
    assert p == pytest.approx(exact, abs=0.01)


def test_p_is_never_zero_and_one_where_nothing_differs() -> None:
    assert permutation_p(mean_difference(np.full(60, 3.0)), 60, permutations=99) == 0.01
    assert permutation_p(mean_difference(np.zeros(60)), 60, permutations=99) == 1.0


def test_p_is_as_small_as_it_says_as_often_as_it_says() -> None:
    random = np.random.default_rng(8)
    samples = random.normal(size=(400, 12))
    values = [permutation_p(mean_difference(row), 12, seed, 99) for seed, row in enumerate(samples)]
    assert 0.05 < np.mean(np.array(values) <= 0.1) < 0.15


def test_one_prompt_or_a_difference_that_is_not_finite_has_no_p() -> None:
    with pytest.raises(StatsError, match="two prompts"):
        permutation_p(mean_difference(np.ones(1)), 1)
    with pytest.raises(StatsError, match="not finite"):
        permutation_p(lambda swapped: math.nan, 4, permutations=3)
