"""Statistics against brute force: every subset of a pool, every resample, published figures."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from src.stats.best_of_n import (
    agreement,
    best_of_n,
    best_of_n_weights,
    expected_maximum,
    kl_bound,
    paired_interval,
    permutation_p,
    within_prompt_std,
)
from src.stats.intervals import StatsError


def best_of_all_subsets(scores: np.ndarray, measure: np.ndarray, n: int) -> float:
    """What best-of-n means: the average over subsets of the measure of the best, ties by a coin."""
    values = []
    for subset in itertools.combinations(range(len(scores)), n):
        chosen = list(subset)
        best = [i for i in chosen if scores[i] == scores[chosen].max()]
        values.append(np.mean(measure[best]))
    return float(np.mean(values))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("levels", [2, 4, 1000], ids=["many ties", "some ties", "no ties"])
def test_best_of_n_is_the_average_over_all_subsets(seed: int, levels: int) -> None:
    random = np.random.default_rng(seed)
    m = int(random.integers(1, 9))
    scores = random.integers(levels, size=m).astype(float)
    measure = random.normal(size=m)
    for n in range(1, m + 1):
        expected = best_of_all_subsets(scores, measure, n)
        assert best_of_n(scores, measure, n) == pytest.approx(expected, abs=1e-12)


def test_best_of_one_is_the_mean_and_best_of_all_the_maximum() -> None:
    scores = np.random.default_rng(0).normal(size=40)
    assert best_of_n(scores, scores, 1) == pytest.approx(scores.mean())
    assert best_of_n(scores, scores, 40) == pytest.approx(scores.max())


def test_weights_sum_to_one_and_rise_with_the_score() -> None:
    scores = np.array([0.3, -1.0, 0.3, 2.0, 0.1])
    for n in range(1, 6):
        weights = best_of_n_weights(scores, n)
        assert weights.sum() == pytest.approx(1)
        assert weights[0] == weights[2]
        assert (np.diff(weights[np.argsort(scores)]) >= -1e-15).all()


def test_a_pool_in_which_all_scores_tie_selects_nothing() -> None:
    measure = np.array([1.0, 2.0, 6.0])
    assert best_of_n(np.zeros(3), measure, 3) == pytest.approx(3)


def test_large_pools_do_not_overflow() -> None:
    scores = np.arange(2000.0)
    assert best_of_n(scores, scores, 1000) == pytest.approx(1998.0, abs=0.1)


def test_best_of_n_is_unbiased_for_fresh_samples() -> None:
    random = np.random.default_rng(1)
    pools = random.normal(size=(4000, 16))
    mean = np.mean([best_of_n(pool, pool, 4) for pool in pools])
    assert mean == pytest.approx(expected_maximum(4), abs=0.02)


@pytest.mark.parametrize(("n", "size"), [(0, 4), (5, 4), (1, 0)])
def test_a_pool_too_small_is_an_error(n: int, size: int) -> None:
    with pytest.raises(StatsError, match="pool"):
        best_of_n_weights(np.zeros(size), n)


@pytest.mark.parametrize(
    ("n", "expected"), [(1, 0), (2, 0.5642), (4, 1.0294), (8, 1.4236), (16, 1.7660), (32, 2.0697)]
)
def test_expected_maximum_of_normals_is_as_tabulated(n: int, expected: float) -> None:
    assert expected_maximum(n) == pytest.approx(expected, abs=5e-5)


def test_expected_maximum_is_exact_where_a_closed_form_is_known() -> None:
    assert expected_maximum(2) == pytest.approx(1 / math.sqrt(math.pi), abs=1e-9)
    assert expected_maximum(3) == pytest.approx(1.5 / math.sqrt(math.pi), abs=1e-9)
    assert 3.2 < expected_maximum(1000) < 3.3


def test_the_kl_bound_starts_at_nothing_and_grows_like_a_logarithm() -> None:
    assert kl_bound(1) == 0
    assert kl_bound(2) == pytest.approx(math.log(2) - 0.5)
    assert kl_bound(1024) - kl_bound(512) == pytest.approx(math.log(2), abs=0.002)


def test_the_interval_is_that_of_all_resamples() -> None:
    values = np.array([0.0, 1.0, 5.0, 2.0])
    means = [np.mean(resample) for resample in itertools.product(values, repeat=4)]
    interval = paired_interval(values, resamples=200_000)
    assert interval.mean == 2.0
    expected = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose([interval.low, interval.high], expected, atol=0.26)


def test_the_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    random = np.random.default_rng(2)
    samples = random.normal(1.0, 2.0, size=(300, 40))
    intervals = [paired_interval(values, seed, 400) for seed, values in enumerate(samples)]
    covered = np.mean([low <= 1.0 <= high for _, low, high in intervals])
    assert 0.90 < covered < 0.98


def test_pairing_narrows_the_interval_of_a_difference() -> None:
    random = np.random.default_rng(3)
    prompt_effect = random.normal(0, 10, size=50)
    base = prompt_effect + random.normal(size=50)
    better = prompt_effect + 1 + random.normal(size=50)
    _, low, high = paired_interval(better - base)
    assert 0 < low < 1 < high < 2
    assert paired_interval(better).high - paired_interval(better).low > 4


def test_an_interval_is_the_same_every_time_and_another_with_another_seed() -> None:
    values = np.random.default_rng(4).normal(size=30)
    assert paired_interval(values, seed=7) == paired_interval(list(values), seed=7)
    assert paired_interval(values, seed=7) != paired_interval(values, seed=8)


def test_many_prompts_are_resampled_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(5).normal(size=20)
    whole = paired_interval(values)
    monkeypatch.setattr("src.stats.best_of_n.RESAMPLED_AT_ONCE", 999)
    assert paired_interval(values) == whole


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan], [1.0, math.inf], [[1.0, 2.0]]])
def test_what_has_no_interval_is_an_error(values: list[float]) -> None:
    with pytest.raises(StatsError):
        paired_interval(values)


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


def test_p_is_the_same_every_time_and_another_with_another_seed() -> None:
    difference = mean_difference(np.random.default_rng(9).normal(0.3, 1, size=20))
    assert permutation_p(difference, 20, seed=1) == permutation_p(difference, 20, seed=1)
    assert permutation_p(difference, 20, seed=1) != permutation_p(difference, 20, seed=2)


def test_one_prompt_or_a_difference_that_is_not_finite_has_no_p() -> None:
    with pytest.raises(StatsError, match="two prompts"):
        permutation_p(mean_difference(np.ones(1)), 1)
    with pytest.raises(StatsError, match="not finite"):
        permutation_p(lambda swapped: math.nan, 4, permutations=3)


def test_agreement_is_taken_within_prompts_only() -> None:
    first = [[1.0, 2.0, 3.0], [101.0, 102.0, 103.0]]
    second = [[3.0, 2.0, 1.0], [103.0, 101.0, 102.0]]
    np.testing.assert_allclose(agreement(first, second), [-1, -1 / 3])


def test_agreement_counts_ties_as_tau_b_does() -> None:
    a, b = np.array([1.0, 1.0, 2.0, 3.0]), np.array([1.0, 2.0, 2.0, 3.0])
    signs = [
        (np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in itertools.combinations(range(4), 2)
    ]
    both = sum(x * y for x, y in signs)
    expected = both / math.sqrt(sum(x != 0 for x, _ in signs) * sum(y != 0 for _, y in signs))
    assert agreement([a], [b])[0] == pytest.approx(expected)


def test_agreement_with_a_constant_score_is_not_a_number() -> None:
    assert math.isnan(agreement([[1.0, 1.0, 1.0]], [[1.0, 2.0, 3.0]])[0])


def test_the_spread_within_prompts_leaves_out_what_differs_between_them() -> None:
    random = np.random.default_rng(6)
    pools = [100 * prompt + random.normal(0, 0.5, size=50) for prompt in range(40)]
    assert within_prompt_std(pools) == pytest.approx(0.5, rel=0.05)
    assert within_prompt_std([[1.0, 3.0]]) == pytest.approx(math.sqrt(2))
    with pytest.raises(StatsError, match="two clips"):
        within_prompt_std([[1.0], [2.0]])
