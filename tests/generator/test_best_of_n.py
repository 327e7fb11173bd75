"""Best-of-n and agreement against brute force, closed forms and published figures."""

import itertools
import math
import warnings

import numpy as np
import pytest
from scipy.stats import kendalltau

from src.stats.best_of_n import (
    CONSTANT,
    NO_GAIN,
    Transfer,
    best_of_n,
    best_of_n_weights,
    even_tau,
    expected_maximum,
    fit,
    in_own_sd,
    in_sd,
    kl_bound,
    mean_tau,
    normal_scores,
    tau,
    transfer,
    within_prompt_std,
)
from src.stats.intervals import StatsError, mean_interval

BUDGETS = (1, 2, 4, 8, 16)
# Rewards of MusicGen-medium, best of n = 1, 2, 4, .. 32, as published.
PUBLISHED = (0.3145, 0.5698, 0.8214, 0.9992, 1.1882, 1.3321)


def normal_pools(prompts: int, size: int, scale: float = 1.0, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(random.normal(0, 5), scale, size) for _ in range(prompts)]


def best_of_all_subsets(scores: np.ndarray, measure: np.ndarray, n: int) -> float:
    """What best-of-n means: the average over subsets of the measure of the best, ties by a coin.

    Clips that are out (NaN) are never the best, and a subset of nothing else does not count.
    """
    values = []
    for subset in itertools.combinations(range(len(scores)), n):
        chosen = [i for i in subset if not np.isnan(scores[i])]
        if chosen:
            best = [i for i in chosen if scores[i] == scores[chosen].max()]
            values.append(np.mean(measure[best]))
    return float(np.mean(values))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("levels", [2, 4, 1000], ids=["many ties", "some ties", "no ties"])
def test_best_of_n_is_the_average_over_all_subsets(seed: int, levels: int) -> None:
    random = np.random.default_rng(seed)
    m = int(random.integers(1, 9))
    scores, measure = random.integers(levels, size=(2, m)), random.normal(size=(2, m))
    budgets = range(1, m + 1)
    expected = [
        [best_of_all_subsets(s, g, n) for n in budgets]
        for s, g in zip(scores, measure, strict=True)
    ]
    np.testing.assert_allclose(best_of_n(scores, measure, budgets), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_clips_that_are_out_are_never_the_best_and_no_spread_has_them(seed: int) -> None:
    random = np.random.default_rng(seed)
    m = int(random.integers(2, 9))
    scores, measure = random.integers(4, size=m).astype(float), random.normal(size=m)
    scores[random.permutation(m)[: random.integers(1, m)]] = np.nan
    known = ~np.isnan(scores)
    measure[~known] = np.nan
    budgets = range(1, m + 1)
    expected = [best_of_all_subsets(scores, measure, n) for n in budgets]
    np.testing.assert_allclose(best_of_n([scores], [measure], budgets)[0], expected, atol=1e-12)
    weights = best_of_n_weights(scores, budgets)
    np.testing.assert_allclose(weights.sum(1), 1)
    assert not weights[:, ~known].any()
    others = normal_pools(2, 5)
    whole, part = ([*others, pool] for pool in (measure, measure[known]))
    assert within_prompt_std(whole) == within_prompt_std(part)
    np.testing.assert_equal(tau(whole, whole), tau(part, part))


def test_a_pool_in_which_all_are_out_is_an_error() -> None:
    with pytest.raises(StatsError, match="pool"):
        best_of_n_weights([math.nan, math.nan], [1])


def test_large_pools_do_not_overflow() -> None:
    scores = np.arange(2000.0)
    assert best_of_n([scores], [scores], [1000])[0] == pytest.approx(1998.0, abs=0.1)


@pytest.mark.parametrize(("n", "size"), [(0, 4), (5, 4), (1, 0)])
def test_a_pool_too_small_is_an_error(n: int, size: int) -> None:
    with pytest.raises(StatsError, match="pool"):
        best_of_n_weights(np.zeros(size), [n])


@pytest.mark.parametrize(
    ("n", "expected"),
    [(1, 0), (2, 0.5642), (3, 0.8463), (4, 1.0294), (8, 1.4236), (16, 1.7660), (32, 2.0697)],
)
def test_expected_maximum_of_normals_is_as_tabulated(n: int, expected: float) -> None:
    assert expected_maximum(n) == pytest.approx(expected, abs=5e-5)


def test_the_kl_bound_starts_at_nothing_and_grows_like_a_logarithm() -> None:
    assert kl_bound(1) == 0
    assert kl_bound(2) == pytest.approx(math.log(2) - 0.5)
    assert kl_bound(1024) - kl_bound(512) == pytest.approx(math.log(2), abs=0.002)


def test_independent_normals_gain_the_expected_maximum_in_deviations() -> None:
    pools = normal_pools(200, 100, scale=3.0)
    values = best_of_n(pools, pools, BUDGETS)
    for n, at in zip(BUDGETS, values.T, strict=True):
        gains = at - values[:, 0]
        assert gains.mean() == pytest.approx(3 * expected_maximum(n), abs=0.08)
        terms = in_sd(gains, pools)
        assert terms is not None
        found = mean_interval(terms)
        assert found.mean == pytest.approx(gains.mean() / within_prompt_std(pools))
        assert found.mean == pytest.approx(expected_maximum(n), abs=0.03)
        assert n == 1 or found.low < found.mean < found.high


def test_a_ratios_terms_spread_as_the_ratio_does_over_resampled_prompts() -> None:
    """The delta method against a bootstrap of everything that the ratio is made of."""
    random = np.random.default_rng(3)
    pools = [random.lognormal(0, random.uniform(0.2, 0.5), 32) for _ in range(300)]
    seen = [pool + random.normal(0, random.uniform(0.5, 2), 32) for pool in pools]
    both = np.stack([best_of_n(pools, of, (1, 8)) for of in (pools, seen)])
    gains = both[..., 1] - both[..., 0]
    terms = in_sd(gains[1], seen)
    assert terms is not None
    drawn = random.integers(300, size=(2000, 300))
    stds = np.sqrt(np.array([[pool.var(ddof=1) for pool in of] for of in (pools, seen)]))
    pooled = np.sqrt((stds**2)[:, drawn].mean(-1))
    in_sds = gains[:, drawn].mean(-1) / pooled
    assert terms.mean() == pytest.approx(gains[1].mean() / within_prompt_std(seen))
    assert terms.std() / math.sqrt(300) == pytest.approx(in_sds[1].std(), rel=0.1)
    (ratio,) = transfer(pools, seen, (1, 8)).ratios
    assert ratio is not None
    resampled = in_sds[1] / in_sds[0]
    assert ratio.high - ratio.low == pytest.approx(2 * 1.97 * resampled.std(), rel=0.1)
    assert in_own_sd(gains[1], seen) == pytest.approx(gains[1] / stds[1])


def test_prompts_without_spread_have_no_gain_in_their_own_deviations() -> None:
    assert in_own_sd(np.array([1.0, 0.0]), [[0.0, 2.0], [3.0, 3.0]]) == pytest.approx([2**-0.5])


def test_normal_scores_are_those_of_ranks_whatever_the_unit() -> None:
    pool = np.random.default_rng(0).normal(size=2000)
    assert normal_scores(np.exp(3 * pool)) == pytest.approx(normal_scores(pool))
    assert np.corrcoef(normal_scores(pool), pool)[0, 1] > 0.998
    assert normal_scores(pool).std() == pytest.approx(1, abs=0.01)
    low, out, high, tied = normal_scores([1.0, math.nan, 5.0, 1.0])
    assert math.isnan(out)
    assert low == tied < 0 < high
    skewed = [np.exp(3 * p) for p in normal_pools(50, 100)]
    scores = [normal_scores(p) for p in skewed]
    gains = np.diff(best_of_n(skewed, scores, (1, 8)))
    assert gains.mean() == pytest.approx(expected_maximum(8), abs=0.02)


def test_the_spread_within_prompts_leaves_out_what_differs_between_them() -> None:
    random = np.random.default_rng(6)
    pools = [100 * prompt + random.normal(0, 0.5, size=50) for prompt in range(40)]
    assert within_prompt_std(pools) == pytest.approx(0.5, rel=0.05)
    assert within_prompt_std([[1.0, 3.0]]) == pytest.approx(math.sqrt(2))
    with pytest.raises(StatsError, match="two clips"):
        within_prompt_std([[1.0], [2.0]])


def test_what_is_straight_over_the_expected_maximum_has_an_r2_of_one() -> None:
    found = fit(np.array([[2 - 3 * expected_maximum(n) for n in BUDGETS]]), BUDGETS)
    assert (found.a, found.b.mean, found.r2) == pytest.approx((2, -3, 1))
    assert found.r2_log2 < 0.995
    published = fit(np.array([PUBLISHED]), (1, 2, 4, 8, 16, 32))
    assert (published.r2, published.r2_log2) == pytest.approx((0.9993, 0.9889), abs=5e-5)


def test_the_slope_has_the_interval_of_slopes_fitted_to_each_prompt() -> None:
    values = best_of_n(normal_pools(20, 32), normal_pools(20, 32, seed=3), BUDGETS)
    slopes = np.polyfit([expected_maximum(n) for n in BUDGETS], values.T, 1)[0]
    assert fit(values, BUDGETS).b == pytest.approx(mean_interval(slopes))


def test_a_line_of_two_budgets_is_refused_and_what_does_not_vary_has_no_r2() -> None:
    with pytest.raises(StatsError, match="3 budgets"):
        fit(np.array([[0.0, 1.0]]), (1, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flat = fit(np.full((1, 5), 0.1), BUDGETS)
    assert math.isnan(flat.r2)
    assert flat.b.mean == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("scale", "ratio"), [(1, 1), (100, 1), (-7, -1)])
def test_a_judge_equal_to_the_selector_has_a_transfer_of_one(scale: float, ratio: float) -> None:
    pools = normal_pools(10, 32)
    found = transfer(pools, [scale * p + 4 for p in pools], BUDGETS)
    assert len(found.ratios) == len(BUDGETS) - 1
    for one in found.ratios:
        assert one == pytest.approx((ratio, ratio, ratio))
    assert found.change == pytest.approx((0, 0, 0), abs=1e-12)
    assert found.reason == ""


def test_an_independent_judge_has_a_transfer_of_zero_and_its_interval_says_so() -> None:
    found = [
        transfer(normal_pools(40, 16, seed=seed), normal_pools(40, 16, seed=1000 + seed), (1, 4))
        for seed in range(100)
    ]
    ratios = [one for t in found for one in t.ratios if one]
    assert np.mean([one.mean for one in ratios]) == pytest.approx(0, abs=0.02)
    covered = np.mean([one.side == 0 for one in ratios])
    assert 0.9 <= covered <= 0.99  # of 95%, with 100 draws and 40 prompts each


def test_a_judge_that_correlates_by_rho_has_a_transfer_of_rho() -> None:
    pools, other = normal_pools(300, 32), normal_pools(300, 32, seed=9)
    judge = [0.6 * p + 0.8 * q for p, q in zip(pools, other, strict=True)]
    for found in transfer(pools, judge, BUDGETS).ratios:
        assert found is not None
        assert found.mean == pytest.approx(0.6, abs=0.04)


def test_the_transfer_to_a_judge_that_turns_at_the_top_falls() -> None:
    pools = list(np.random.default_rng(4).normal(size=(30, 32)))
    found = transfer(pools, [z - 4 * np.maximum(z - 0.8, 0) for z in pools], BUDGETS)
    ratios = [ratio for ratio in found.ratios if ratio]
    assert len(ratios) == 4
    assert all(a.low > b.high for a, b in itertools.pairwise(ratios))
    assert found.change is not None
    assert found.change.mean == pytest.approx(ratios[-1].mean - ratios[0].mean)
    assert found.change.side == -1


@pytest.mark.parametrize(
    ("flat", "reason"), [("selector", NO_GAIN), ("measure", CONSTANT)], ids=["selector", "measure"]
)
def test_constant_scores_have_no_ratio_and_say_why(flat: str, reason: str) -> None:
    constant, pools = [np.full(16, 0.1)] * 6, normal_pools(6, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        selector, measure = (constant, pools) if flat == "selector" else (pools, constant)
        assert transfer(selector, measure, BUDGETS) == Transfer((None,) * 4, None, reason)
        assert in_sd(np.zeros(6), constant) is None


def test_agreement_is_taken_within_prompts_only_and_counts_ties_as_tau_b_does() -> None:
    first = [[1.0, 2.0, 3.0], [101.0, 102.0, 103.0], [1.0, 1.0, 2.0, 3.0]]
    second = [[3.0, 2.0, 1.0], [103.0, 101.0, 102.0], [1.0, 2.0, 2.0, 3.0]]
    np.testing.assert_allclose(tau(first, second), [-1, -1 / 3, 4 / 5])
    tied = np.random.default_rng(0).integers(5, size=(2, 9, 12))
    expected = [kendalltau(x, y).statistic for x, y in zip(*tied, strict=True)]
    np.testing.assert_allclose(tau(*tied), expected)


def test_prompts_that_rank_nothing_are_left_out_of_the_mean() -> None:
    pools = [*normal_pools(4, 8), np.zeros(8), np.ones(1)]
    assert mean_tau(pools, pools) == ((pytest.approx(1),) * 3, 4)
    ties = [
        random.integers(5, size=(2, 12)).astype(float)
        for random in map(np.random.default_rng, range(9))
    ]
    expected = [kendalltau(x, y).statistic for x, y in ties]
    np.testing.assert_allclose(tau(*zip(*ties, strict=True)), expected)
    nothing, prompts = mean_tau(pools[4:], pools[4:])
    assert math.isnan(nothing.mean)
    assert prompts == 0


def test_the_tau_of_even_seconds_is_that_of_sums_of_independent_terms() -> None:
    terms = np.random.default_rng(0).normal(size=(400, 40, 10))
    whole = list(terms.sum(2))
    for seconds in (1, 3, 7):
        found, _ = mean_tau(list(terms[:, :, :seconds].sum(2)), whole)
        assert found.mean == pytest.approx(even_tau(seconds / 10), abs=0.01)
    assert (even_tau(0), even_tau(1)) == (0, 1)
