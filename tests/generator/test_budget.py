"""Budgets: what a plan allows, what it refuses, and a ledger that is held against it."""

import itertools

import pytest

from src.budget import BudgetError, Cost, Ledger, Plan, PlanError, timed
from src.methods import METHODS

RATE = 50.0


def plan(
    method: str = "sbs", candidates: int = 16, duration: float = 10, step_size: float = 2, **own
) -> Plan:
    parameters = {"beam_width": 4, "lookahead_k": 1} | own
    return METHODS[method].make_plan(candidates, duration, step_size, RATE, parameters)


@pytest.mark.parametrize("method", METHODS)
def test_a_duration_that_the_step_does_not_divide_ends_with_a_shorter_step(method: str) -> None:
    steps = plan(method, duration=5, step_size=2).steps
    assert steps == ((100, 100, 50) if METHODS[method].prunes else (250,))
    assert plan(method, duration=1.5, step_size=2).steps == (75,)


def test_expected_costs_of_the_four_methods() -> None:
    assert plan("baseline").expected() == Cost(500, 1)
    assert plan("best_of_n").expected() == Cost(16 * 500, 16)
    assert plan("sbs").expected() == Cost(16 * 500, 16 * 5)
    assert plan("lookahead").expected() == Cost(16 * 900, 16 * 5)


@pytest.mark.parametrize(("steps", "k"), itertools.product(range(1, 7), range(0, 8)))
def test_lookahead_costs_what_the_closed_form_says_for_equal_steps(steps: int, k: int) -> None:
    spent = plan("lookahead", duration=2 * steps, lookahead_k=k).expected().frames
    assert spent == 16 * 100 * (steps + sum(min(k, steps - j) for j in range(1, steps)))


def test_lookahead_with_a_shorter_last_step_rolls_out_to_the_end_and_not_beyond() -> None:
    p = plan("lookahead", duration=5, step_size=2, lookahead_k=2)
    assert [p.rollout(step) for step in range(3)] == [150, 50, 0]
    assert p.expected().frames == 16 * (250 + 150 + 50)


@pytest.mark.parametrize("method", ["sbs", "lookahead"])
def test_a_width_that_does_not_divide_the_budget_is_an_error_that_lists_those_that_do(
    method: str,
) -> None:
    with pytest.raises(PlanError, match=r"12 candidates.*families of 5.*1, 2, 3, 4, 6, 12"):
        plan(method, candidates=12, beam_width=5)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"candidates": 0}, "candidates must be 1 or more"),
        ({"beam_width": 0}, "beam_width must be 1 or more"),
        ({"lookahead_k": -1}, "lookahead_k must be 0 or more"),
        ({"lookahead_k": float("nan")}, "lookahead_k must be 0 or more"),
        ({"duration": 0}, "duration must be more than 0"),
        ({"duration": float("nan")}, "duration must be more than 0"),
        ({"step_size": -1}, "step_size must be more than 0"),
        ({"duration": 1.015}, "duration 1.015 s is not a whole number of frames"),
        ({"step_size": 0.001}, "step_size 0.001 s is not a whole number of frames"),
    ],
)
def test_settings_that_cannot_be_kept_are_refused(changes: dict, complaint: str) -> None:
    with pytest.raises(PlanError, match=complaint):
        plan("lookahead", **changes)


@pytest.mark.parametrize(("frames", "clips"), [(1, 0), (0, 1), (-1, 0)])
def test_a_ledger_that_differs_from_the_plan_is_a_budget_error(frames: int, clips: int) -> None:
    expected = plan().expected()
    Ledger(frames=expected.frames, clips=expected.clips).check(expected)
    with pytest.raises(BudgetError, match="defect"):
        Ledger(frames=expected.frames + frames, clips=expected.clips + clips).check(expected)


def test_seconds_of_a_group_are_shared_in_equal_parts() -> None:
    ledgers = {0: Ledger(), 5: Ledger()}
    with timed(ledgers, "render"):
        pass
    assert ledgers[0].seconds["render"] == ledgers[5].seconds["render"] > 0
