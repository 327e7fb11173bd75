"""Intervals and p against brute force: every resample, every exchange, simulated coverage.

And statistics of repeated timings, on numbers with known answers.
"""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from src.stats.intervals import (
    Interval,
    StatsError,
    crossing,
    holm,
    interval,
    line_of_seconds,
    mean_interval,
    mean_p,
    permutation_p,
    resampled_medians,
    weighted_line,
)


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


@pytest.mark.parametrize("axis", [0, 1], ids=["prompts", "repetitions"])
def test_the_bootstraps_medians_spread_as_prompts_and_repetitions_do(axis: int) -> None:
    """What is the same in all prompts of a repetition does not average out over prompts."""
    levels = np.expand_dims(np.arange(1.0, 6.0), axis)
    found = interval(3.0, resampled_medians(np.repeat(levels, 1000, axis)))
    assert found.low <= 2
    assert found.high >= 4


def test_equal_seconds_have_an_interval_of_no_width() -> None:
    assert interval(2.0, resampled_medians(np.full((5, 3), 2.0))) == (2.0, 2.0, 2.0)


def test_tables_of_one_shape_are_resampled_alike_so_that_ratios_lose_the_drift() -> None:
    drift = np.array([[1.0], [1.5], [2.0], [3.0]]) * np.ones((1, 3))
    ratios = resampled_medians(2 * drift) / resampled_medians(drift)
    assert ratios == pytest.approx(2)


def test_one_repetition_has_no_interval() -> None:
    found = interval(1.0, resampled_medians(np.ones((1, 5))))
    assert found.mean == 1
    assert math.isnan(found.low)
    assert math.isnan(found.high)


@pytest.mark.parametrize(
    ("seconds", "n"), [(1.0, 4), (1.5, 6), (2.0, 8), (6.0, 12), (0.9, math.nan), (11, math.nan)]
)
def test_the_n_of_equal_seconds_is_where_the_curve_crosses(seconds: float, n: float) -> None:
    assert crossing(seconds, [4, 8, 16], [1.0, 2.0, 10.0]) == pytest.approx(n, nan_ok=True)


def test_a_curve_that_goes_up_and_down_has_no_single_n_of_equal_seconds() -> None:
    assert math.isnan(crossing(1.5, [4, 8, 16], [1.0, 2.0, 1.0]))
    assert crossing(1.5, [4, 8, 16], [1.0, 1.0, 2.0]) == 12


def test_a_lines_interval_is_that_of_the_resampled_lines() -> None:
    frames = np.array([100.0, 200.0, 400.0])
    resampled = np.stack([fixed + 0.01 * frames for fixed in np.linspace(0, 1, 1001)])
    fixed, slope, worst = line_of_seconds(frames, 0.5 + 0.01 * frames, resampled)
    assert fixed == pytest.approx((0.5, 0.025, 0.975))
    assert slope == pytest.approx((0.01, 0.01, 0.01))
    assert worst == pytest.approx(0, abs=1e-12)


def test_a_line_minimises_relative_errors() -> None:
    x, y = np.array([1.0, 2.0, 10.0]), np.array([1.0, 2.5, 9.0])
    fixed, slope = weighted_line(x, y)
    expected = np.polyfit(x, y, 1, w=1 / y)
    assert (slope, fixed) == (pytest.approx(expected[0]), pytest.approx(expected[1]))


def test_what_is_no_line_is_far_from_it() -> None:
    frames = np.array([100.0, 200.0, 400.0, 800.0])
    _, _, worst = line_of_seconds(frames, np.array([1.0, 1.0, 1.0, 4.0]), np.empty((0, 4)))
    assert worst > 0.1


def skewed(prompts: int) -> np.ndarray:
    return np.random.default_rng(prompts).lognormal(size=prompts)


@pytest.mark.parametrize("prompts", [2, 3, 16, 64])
def test_a_means_p_is_at_most_5_percent_exactly_where_its_interval_excludes_zero(
    prompts: int,
) -> None:
    random, seen = np.random.default_rng(prompts), []
    for shift in (0.5, -0.5) if prompts > 3 else (20, -20):
        for values in random.exponential(1, size=(60, prompts)) - 1 + shift:
            seen.append(mean_interval(values).side)
            assert (mean_p(values) <= 0.05) == (seen[-1] != 0)
    assert {0, 1, -1} == set(seen)


@pytest.mark.parametrize("prompts", [16, 300, 1000])
def test_an_end_is_the_farther_one_of_students_and_of_the_bootstraps_t(prompts: int) -> None:
    """Against scipy's t, and a bootstrap-t from other draws, written plainly."""
    values, random = skewed(prompts), np.random.default_rng(7)
    mean, error = values.mean(), stats.sem(values)
    drawn = random.choice(values, (4000, prompts))
    t = (drawn.mean(1) - mean) / stats.sem(drawn, axis=1)
    low, high = np.quantile(t, [0.025, 0.975])
    reach = stats.t.ppf(0.975, prompts - 1)
    found = mean_interval(values)
    assert found.mean == pytest.approx(mean)
    assert found.low == pytest.approx(mean - max(reach, high) * error, abs=0.15 * error)
    assert found.high == pytest.approx(mean + max(reach, -low) * error, rel=0.02, abs=0.3 * error)
    assert found.high - mean > 1.05 * (mean - found.low)  # longer on the side of the tail
    assert mean_interval(-values) == pytest.approx((-mean, -found.high, -found.low))
    assert found == mean_interval(values)


def test_two_prompts_have_students_interval_since_a_resample_of_two_tells_nothing() -> None:
    expected = stats.ttest_1samp([1.0, 4.0], 0)
    assert mean_interval([1.0, 4.0])[1:] == pytest.approx(tuple(expected.confidence_interval()))
    assert mean_p([1.0, 4.0]) == pytest.approx(expected.pvalue)


def test_a_single_prompt_has_an_estimate_without_ends_and_no_prompt_is_an_error() -> None:
    assert mean_interval([2.0]) == pytest.approx((2.0, math.nan, math.nan), nan_ok=True)
    assert math.isnan(mean_p([2.0]))
    with pytest.raises(StatsError, match="no prompt has both"):
        mean_interval([])


POPULATIONS: dict[str, tuple[Callable[..., np.ndarray], float, float]] = {
    # -> (draws, mean, the least that is covered at 16 prompts)
    "normal": (lambda random, size: random.normal(size=size), 0, 0.93),
    "t3": (lambda random, size: random.standard_t(3, size=size), 0, 0.93),
    "exponential": (lambda random, size: random.exponential(size=size), 1, 0.93),
    "lognormal": (
        lambda random, size: random.lognormal(sigma=0.5, size=size),
        math.exp(1 / 8),
        0.93,
    ),
    # Of so long a tail 16 prompts often show nothing.
    "long lognormal": (lambda random, size: random.lognormal(size=size), math.exp(1 / 2), 0.9),
}


@pytest.mark.slow
@pytest.mark.parametrize("prompts", [16, 64])
@pytest.mark.parametrize("population", POPULATIONS)
def test_95_percent_intervals_cover_93_or_more(population: str, prompts: int) -> None:
    draw, mean, least = POPULATIONS[population]
    samples = draw(np.random.default_rng(3), (800, prompts))
    found = [mean_interval(sample) for sample in samples]
    covered = np.mean([low <= mean <= high for _, low, high in found])
    students = 2 * stats.t.ppf(0.975, prompts - 1) * stats.sem(samples, axis=1)
    wider = np.median([high - low for _, low, high in found] / students)
    assert covered >= (least if prompts == 16 else 0.93)
    if population in ("normal", "t3"):  # what is even pays little for it
        assert covered < 0.975
        assert wider < 1.1


def test_what_does_not_differ_between_prompts_has_an_interval_of_no_width() -> None:
    assert mean_interval([0.0, 0.0, 0.0]) == (0, 0, 0)
    assert mean_p([0.0, 0.0, 0.0]) == 1
    assert mean_p([0.5, 0.5, 0.5]) == 0


def test_holm_steps_down_from_the_smallest_p_and_keeps_the_order_given() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1, 1]
    assert holm([]) == []
