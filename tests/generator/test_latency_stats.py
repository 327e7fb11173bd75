"""Statistics of repeated timings, on numbers with known answers."""

import math

import numpy as np
import pytest

from src.stats.intervals import interval, resampled_medians
from src.stats.timing import crossing, fit, weighted_line


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


def test_a_line_is_found_exactly_where_there_is_one() -> None:
    frames = np.array([100.0, 200.0, 400.0])
    fixed, slope, worst = fit(frames, 0.5 + 0.01 * frames, np.stack([0.5 + 0.01 * frames] * 10))
    assert fixed == pytest.approx((0.5, 0.5, 0.5))
    assert slope == pytest.approx((0.01, 0.01, 0.01))
    assert worst == pytest.approx(0, abs=1e-12)


def test_a_lines_interval_is_that_of_the_resampled_lines() -> None:
    frames = np.array([100.0, 200.0, 400.0])
    resampled = np.stack([fixed + 0.01 * frames for fixed in np.linspace(0, 1, 1001)])
    fixed, slope, _ = fit(frames, 0.5 + 0.01 * frames, resampled)
    assert fixed == pytest.approx((0.5, 0.025, 0.975))
    assert slope == pytest.approx((0.01, 0.01, 0.01))


def test_a_line_minimises_relative_errors() -> None:
    x, y = np.array([1.0, 2.0, 10.0]), np.array([1.0, 2.5, 9.0])
    fixed, slope = weighted_line(x, y)
    expected = np.polyfit(x, y, 1, w=1 / y)
    assert (slope, fixed) == (pytest.approx(expected[0]), pytest.approx(expected[1]))


def test_what_is_no_line_is_far_from_it() -> None:
    frames = np.array([100.0, 200.0, 400.0, 800.0])
    _, _, worst = fit(frames, np.array([1.0, 1.0, 1.0, 4.0]), np.empty((0, 4)))
    assert worst > 0.1
