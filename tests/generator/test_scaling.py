"""Statistics of pools against brute force, closed forms and published figures."""

import itertools
import math
import warnings

import numpy as np
import pytest

from src.stats.best_of_n import expected_maximum, paired_interval, within_prompt_std
from src.stats.intervals import Bootstrap, Interval, StatsError, bootstrap
from src.stats.scaling import (
    CONSTANT,
    NO_GAIN,
    Point,
    curve,
    even_tau,
    expectations,
    fit,
    slope,
    standardised,
    tau,
    transfer,
)

BUDGETS = (1, 2, 4, 8, 16)
NOTHING = Interval(0.0, 0.0, 0.0)
# Rewards of MusicGen-medium, best of n = 1, 2, 4, .. 32, as published.
PUBLISHED = (0.3145, 0.5698, 0.8214, 0.9992, 1.1882, 1.3321)


def normal_pools(prompts: int, size: int, scale: float = 1.0, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(random.normal(0, 5), scale, size) for _ in range(prompts)]


def on_line(means: tuple[float, ...], budgets: tuple[int, ...]) -> list[Point]:
    return [Point(n, mean, NOTHING) for n, mean in zip(budgets, means, strict=True)]


@pytest.mark.parametrize("prompts", [2, 64, 300, 3000])
def test_the_shared_bootstrap_gives_the_interval_of_the_plain_one(prompts: int) -> None:
    values = np.random.default_rng(prompts).normal(size=prompts)
    found = Bootstrap(prompts, resamples=2000).interval(values)
    assert found == pytest.approx(paired_interval(values, resamples=2000), abs=1e-12)


def test_resampled_means_keep_the_shape_of_what_they_are_of() -> None:
    values = np.random.default_rng(0).normal(size=(7, 3, 2))
    means = Bootstrap(7, resamples=50).means(values)
    assert means.shape == (50, 3, 2)
    assert means[:, 1, 1] == pytest.approx(Bootstrap(7, resamples=50).means(values[:, 1, 1]))


def test_a_single_prompt_has_an_estimate_without_ends_and_no_prompt_is_an_error() -> None:
    found = bootstrap(1).interval(np.array([2.0]))
    assert found.mean == 2.0
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    with pytest.raises(StatsError, match="no prompt has both"):
        bootstrap(0)


def test_a_curve_is_the_mean_over_all_subsets_of_each_pool() -> None:
    selector, measure = normal_pools(3, 7, seed=1), normal_pools(3, 7, seed=2)
    for point in curve(selector, measure, [1, 3, 5]):
        by_prompt = [
            np.mean(
                [
                    g[max(subset, key=lambda i: s[i])]
                    for subset in itertools.combinations(range(7), point.n)
                ]
            )
            for s, g in zip(selector, measure, strict=True)
        ]
        alone = [g.mean() for g in measure]
        assert point.mean == pytest.approx(np.mean(by_prompt))
        assert point.gain.mean == pytest.approx(np.mean(by_prompt) - np.mean(alone))
        expected = paired_interval(np.array(by_prompt) - np.array(alone))
        assert point.gain == pytest.approx(expected, abs=1e-12)


def test_independent_normals_gain_the_expected_maximum_in_deviations() -> None:
    pools = normal_pools(200, 100, scale=3.0)
    for point in curve(pools, pools, BUDGETS):
        assert point.gain.mean == pytest.approx(3 * expected_maximum(point.n), abs=0.08)
        gains = expectations(pools, pools, [point.n, 1])
        found = standardised(gains[:, 0] - gains[:, 1], pools)
        assert found is not None
        assert found.mean == pytest.approx(point.gain.mean / within_prompt_std(pools))
        assert found.mean == pytest.approx(expected_maximum(point.n), abs=0.03)


def test_nothing_is_gained_at_one_sample() -> None:
    (point,) = curve(normal_pools(5, 8), normal_pools(5, 8, seed=1), [1])
    assert point.gain == pytest.approx(NOTHING, abs=1e-12)


def test_different_numbers_of_pools_are_an_error() -> None:
    with pytest.raises(StatsError, match="2 pools of scores, but 3 of measures"):
        curve(normal_pools(2, 8), normal_pools(3, 8), [2])


def test_a_budget_larger_than_the_pool_is_an_error() -> None:
    with pytest.raises(StatsError, match="needs a pool of 16"):
        curve(normal_pools(2, 8), normal_pools(2, 8), [16])


def test_points_on_the_line_have_an_r2_of_one() -> None:
    found = fit(on_line(tuple(2 - 3 * expected_maximum(n) for n in BUDGETS), BUDGETS))
    assert (found.a, found.b, found.r2) == pytest.approx((2, -3, 1))
    assert found.r2_log2 < 0.995


def test_musicgens_published_rewards_are_straight_over_the_expected_maximum() -> None:
    found = fit(on_line(PUBLISHED, (1, 2, 4, 8, 16, 32)))
    assert found.r2 == pytest.approx(0.9993, abs=5e-5)
    assert found.r2_log2 == pytest.approx(0.9889, abs=5e-5)


def test_the_slope_is_that_of_the_fit_with_its_interval() -> None:
    selector, measure = normal_pools(20, 32), normal_pools(20, 32, seed=3)
    values = expectations(selector, measure, BUDGETS)
    found = slope(values, BUDGETS)
    assert found.mean == pytest.approx(fit(curve(selector, measure, BUDGETS)).b)
    assert found.low < found.mean < found.high


def test_a_line_of_two_budgets_is_refused_and_what_does_not_vary_has_no_r2() -> None:
    with pytest.raises(StatsError, match="3 budgets"):
        fit(on_line((0.0, 1.0), (1, 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flat = fit(on_line((0.1,) * 5, BUDGETS))
    assert math.isnan(flat.r2)
    assert flat.b == pytest.approx(0, abs=1e-12)


def test_a_judge_equal_to_the_selector_has_a_transfer_of_one() -> None:
    pools = normal_pools(10, 32)
    for scale, higher in ((1.0, True), (100.0, True), (-7.0, False)):
        for found in transfer(pools, [scale * p + 4 for p in pools], BUDGETS, higher):
            assert found.ratio == pytest.approx(Interval(1, 1, 1))


def test_a_judge_of_the_other_direction_has_the_opposite_transfer() -> None:
    pools = normal_pools(10, 32)
    judge = [p + q for p, q in zip(pools, normal_pools(10, 32, seed=5), strict=True)]
    for up, down in zip(
        transfer(pools, judge, BUDGETS), transfer(pools, judge, BUDGETS, False), strict=True
    ):
        assert up.ratio is not None
        assert down.ratio is not None
        assert up.ratio.mean == -down.ratio.mean
        assert (up.ratio.low, up.ratio.high) == pytest.approx((-down.ratio.high, -down.ratio.low))


def test_an_independent_judge_has_a_transfer_of_zero_and_its_interval_says_so() -> None:
    found = [
        transfer(normal_pools(40, 16, seed=seed), normal_pools(40, 16, seed=1000 + seed), [4])
        for seed in range(100)
    ]
    ratios = [t.ratio for (t,) in found if t.ratio]
    assert np.mean([r.mean for r in ratios]) == pytest.approx(0, abs=0.02)
    covered = np.mean([r.low < 0 < r.high for r in ratios])
    assert 0.88 <= covered <= 0.99  # of 95%, with 100 draws and 40 prompts each


def test_a_judge_that_correlates_by_rho_has_a_transfer_of_rho() -> None:
    pools = normal_pools(300, 32)
    other = normal_pools(300, 32, seed=9)
    judge = [0.6 * p + 0.8 * q for p, q in zip(pools, other, strict=True)]
    for found in transfer(pools, judge, BUDGETS):
        assert found.ratio is not None
        assert found.ratio.mean == pytest.approx(0.6, abs=0.04)


def test_the_transfer_to_a_judge_that_turns_at_the_top_falls() -> None:
    random = np.random.default_rng(4)
    pools = [random.normal(size=32) for _ in range(30)]
    found = transfer(pools, [z - 4 * np.maximum(z - 0.8, 0) for z in pools], BUDGETS)
    assert [t.n for t in found] == [2, 4, 8, 16]
    ratios = [t.ratio for t in found if t.ratio]
    assert all(a.low > b.high for a, b in itertools.pairwise(ratios))
    assert found[-1].sqrt_kl == pytest.approx(math.sqrt(math.log(16) - 15 / 16))


@pytest.mark.parametrize(
    ("flat", "reason"), [("selector", NO_GAIN), ("measure", CONSTANT)], ids=["selector", "measure"]
)
def test_constant_scores_have_no_ratio_and_say_why(flat: str, reason: str) -> None:
    constant, pools = [np.full(16, 0.1)] * 6, normal_pools(6, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        selector, measure = (constant, pools) if flat == "selector" else (pools, constant)
        found = transfer(selector, measure, BUDGETS)
        assert standardised(np.zeros(6), constant) is None
    assert [(t.ratio, t.reason) for t in found] == [(None, reason)] * 4


def test_a_deviation_follows_the_measures_direction() -> None:
    gains, pools = np.array([1.0, 2.0, 3.0]), normal_pools(3, 8)
    up, down = standardised(gains, pools), standardised(gains, pools, higher_is_better=False)
    assert up is not None
    assert down is not None
    assert up.mean == -down.mean > 0
    assert up.low < up.mean < up.high


def test_tau_is_oriented_and_leaves_out_prompts_that_rank_nothing() -> None:
    pools = [*normal_pools(4, 8), np.zeros(8)]
    found = tau(pools, [-p for p in pools], b_sign=-1.0)
    assert found.tau == pytest.approx(Interval(1, 1, 1))
    assert found.prompts == 4
    assert tau(pools[4:], pools[4:]).prompts == 0
    assert math.isnan(tau(pools[4:], pools[4:]).tau.mean)


def test_the_tau_of_even_seconds_is_that_of_sums_of_independent_terms() -> None:
    random = np.random.default_rng(0)
    terms = random.normal(size=(400, 40, 10))
    whole = list(terms.sum(2))
    for seconds in (1, 3, 7):
        found = tau(list(terms[:, :, :seconds].sum(2)), whole).tau
        assert found.mean == pytest.approx(even_tau(seconds / 10), abs=0.01)
    assert (even_tau(0), even_tau(1)) == (0, 1)
