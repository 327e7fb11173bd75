"""Methods, their cells as grids and records have them, and the budgets that they keep to."""

import itertools
from dataclasses import replace

import pytest

from src.budget import BudgetError, Cost, Ledger, Plan, PlanError, timed
from src.cells import SearchCell, grid
from src.methods import METHODS, colour_of, parameters_of


def cell(method: str, n: int = 4, m: int | None = None, k: int | None = None, **more) -> SearchCell:
    own = {"beam_width": m, "lookahead_k": k}
    return SearchCell(method, n, {name: v for name, v in own.items() if v is not None}, **more)


@pytest.mark.parametrize(
    "written",
    [
        cell("baseline", 1),
        cell("best_of_n", 8, seed=3),
        cell("sbs", 8, 4),
        cell("lookahead", 8, 4, 2, step_size=0.5, seed=7),
    ],
)
def test_a_cells_record_gives_the_cell_back_and_has_nothing_else(written: SearchCell) -> None:
    record = written.as_record()
    found = SearchCell.from_record(record)
    assert (found, hash(found)) == (written, hash(written))
    budget = {"candidates", "step_size", "seed"}
    had = {name for name in budget if getattr(written, name) is not None}
    assert record.keys() == {"method", *had, *written.parameters}
    unused = {"beam_width": 1, "lookahead_k": 0, "step_size": 2.0}  # of earlier versions
    assert SearchCell.from_record(unused | record) == (
        written if written.step_size or not written.prunes else replace(written, step_size=2.0)
    )


def test_a_cell_of_a_method_that_is_not_registered_any_more_is_kept_as_it_is() -> None:
    record = {"method": "mcts", "candidates": 8, "rollouts": 3}
    found = SearchCell.from_record(record)
    assert (found.name, found.prunes, found.as_record()) == ("mcts N=8 rollouts=3", False, record)
    assert colour_of("mcts") not in {method.colour for method in METHODS.values()}


def test_names_have_the_budget_and_the_methods_own_parameters() -> None:
    assert cell("baseline", 1).name == "baseline"
    assert cell("best_of_n", 8).name == "best_of_n N=8"
    assert cell("lookahead", 8, 4, 2, step_size=2.0, seed=42).name == "lookahead N=8 M=4 k=2"
    assert [p.name for p in parameters_of(["baseline", "sbs"])] == ["beam_width"]
    assert [p.name for p in parameters_of(["sbs", "lookahead"])] == ["beam_width", "lookahead_k"]


@pytest.mark.parametrize(
    ("asked", "simplest"),
    [
        (cell("sbs", 1, 1), cell("baseline", 1)),
        (cell("best_of_n", 1, seed=3), cell("baseline", 1, seed=3)),
        (cell("sbs", 4, 2, step_size=2.0), cell("best_of_n")),
        (cell("lookahead", 4, 2, 1, step_size=5.0, seed=3), cell("best_of_n", seed=3)),
        (cell("lookahead", 4, 2, 0), cell("sbs", 4, 2)),
        (cell("lookahead", 4, 2, 9), cell("lookahead", 4, 2, 9)),
        (cell("lookahead", 4, 2, 10), cell("lookahead", 4, 2, 9)),  # ten steps: nine follow one
        (cell("lookahead", 4, 2, 9, step_size=0.3), cell("lookahead", 4, 2, 6, step_size=0.3)),
        (cell("sbs", 4, 2), cell("sbs", 4, 2)),
        (cell("dvts", 4, 2), cell("dvts", 4, 2)),
        (cell("dvts", 4, 4), cell("sbs", 4, 4)),
    ],
)
def test_a_search_is_its_simplest_definition(asked: SearchCell, simplest: SearchCell) -> None:
    assert asked.simplest(duration=2.0, step_size=0.2) == simplest


def test_a_grid_has_every_method_with_all_values_of_its_own_parameters_and_no_others() -> None:
    values = {"beam_width": (2, 4), "lookahead_k": (1, 2), "keep": (0.25,), "start": (0, 6)}
    values |= {"soften": (0.5,), "wave": (2, 4), "price": (0.1,), "temper": (2,), "draw": (0, 1)}
    values |= {"alpha": (1.01,), "tilt": (0, 0.2)}
    assert [c.name for c in grid(METHODS, (4, 8), values)] == [
        *("baseline", "best_of_n N=4", "best_of_n N=8"),
        *("sbs N=4 M=2", "sbs N=4 M=4", "sbs N=8 M=2", "sbs N=8 M=4"),
        *("lookahead N=4 M=2 k=1", "lookahead N=4 M=2 k=2"),
        *("lookahead N=4 M=4 k=1", "lookahead N=4 M=4 k=2"),
        *("lookahead N=8 M=2 k=1", "lookahead N=8 M=2 k=2"),
        *("lookahead N=8 M=4 k=1", "lookahead N=8 M=4 k=2"),
        *("dvts N=4 M=2", "dvts N=4 M=4", "dvts N=8 M=2", "dvts N=8 M=4"),
        *("halving N=4 keep=0.25", "halving N=4 keep=0.25 N0=6"),
        *("halving N=8 keep=0.25", "halving N=8 keep=0.25 N0=6"),
        *("soft_best_of_n N=4 lambda=0.5", "soft_best_of_n N=8 lambda=0.5"),
        *("waves N=4 wave=2 price=0.1", "waves N=4 wave=4 price=0.1"),
        *("waves N=8 wave=2 price=0.1", "waves N=8 wave=4 price=0.1"),
        *("smc N=4 temper=2", "smc N=4 temper=2 draw=1"),
        *("smc N=8 temper=2", "smc N=8 temper=2 draw=1"),
        *("power N=4 alpha=1.01", "power N=4 alpha=1.01 draw=1"),
        *("power N=4 alpha=1.01 tilt=0.2", "power N=4 alpha=1.01 tilt=0.2 draw=1"),
        *("power N=8 alpha=1.01", "power N=8 alpha=1.01 draw=1"),
        *("power N=8 alpha=1.01 tilt=0.2", "power N=8 alpha=1.01 tilt=0.2 draw=1"),
    ]
    swept = list(grid(["best_of_n", "sbs"], (4,), {"beam_width": (2,)}, (0.5, 1.0), (1, 2)))
    assert [(c.method, c.step_size, c.seed) for c in swept] == [
        *(("best_of_n", None, 1), ("best_of_n", None, 2)),
        *(("sbs", 0.5, 1), ("sbs", 0.5, 2), ("sbs", 1.0, 1), ("sbs", 1.0, 2)),
    ]


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


def test_expected_costs_of_the_methods() -> None:
    assert plan("baseline").expected() == Cost(500, 1)
    assert plan("best_of_n").expected() == Cost(16 * 500, 16)
    assert plan("sbs").expected() == plan("dvts").expected() == Cost(16 * 500, 16 * 5)
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
