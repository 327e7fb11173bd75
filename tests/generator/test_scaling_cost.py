"""A sweep's cells beside best-of-n from a pool: over the same prompts, and at equal cost."""

from pathlib import Path

import numpy as np
import pytest

from src.reports.cost_cells import Cell
from src.reports.cost_study import CostPoint, CostStudy, cost_study, pareto
from src.runs.pool import Pool, load_pool
from src.runs.records import RunFolderError
from src.stats.best_of_n import best_of_n, paired_interval
from tests.generator.made_up_pool import CELLS, made_up_pool, made_up_sweep

BUDGETS = (1, 2, 4, 8)
SBS4, SBS8 = Cell("sbs", 4, 2, 0, 2.0), Cell("sbs", 8, 4, 0, 2.0)
LOOKAHEAD = Cell("lookahead", 4, 2, 1, 2.0)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return load_pool(made_up_pool(tmp_path_factory.mktemp("pool")))


def by_cell(costs: CostStudy, measure: str) -> dict[Cell, CostPoint]:
    return {point.cell: point for point in costs.points if point.measure == measure}


def test_cells_are_means_over_prompts_and_seeds(pool: Pool, tmp_path: Path) -> None:
    costs = cost_study(pool, made_up_sweep(tmp_path, noise=0.0), BUDGETS)
    found = by_cell(costs, "copy")
    for (search, n, m, k), (_, judged, frames, seconds) in CELLS.items():
        point = found[Cell(search, n, m, k, 2.0)]
        assert point.mean == pytest.approx(7 - 2 * judged)
        assert (point.frames, point.seconds) == (frames, seconds)  # judging is not a cost
        assert (point.prompts, point.seeds, point.own) == (12, 2, False)
        alone = np.array([g.mean() for g in pool.values("copy").values()])
        assert point.gain == pytest.approx(paired_interval(7 - 2 * judged - alone), abs=1e-12)
    assert all(point.own for point in by_cell(costs, "tags").values())
    assert not costs.notes


def test_best_of_n_comes_from_the_pool_with_the_cost_of_n_clips(pool: Pool, tmp_path: Path) -> None:
    costs = cost_study(pool, made_up_sweep(tmp_path), BUDGETS)
    for n in BUDGETS:
        cell = Cell("baseline" if n == 1 else "best_of_n", n, source="pool")
        point = by_cell(costs, "copy")[cell]
        expected = [best_of_n(s, g, n) for s, g in zip(*pool.pair("tags", "copy"), strict=True)]
        assert point.mean == pytest.approx(np.mean(expected))
        assert point.frames == 250 * n
        assert point.seconds == pytest.approx(1.5 * n)  # 1 s to generate, 0.5 s to score
    assert len(by_cell(costs, "copy")) == len(BUDGETS) + len(CELLS)


def test_a_tree_search_is_compared_with_best_of_n_of_as_many_frames(
    pool: Pool, tmp_path: Path
) -> None:
    found = by_cell(cost_study(pool, made_up_sweep(tmp_path, noise=0.0), BUDGETS), "copy")
    tags, copy = pool.pair("tags", "copy")
    for cell, n, judged in ((SBS4, 4, 1.5), (SBS8, 8, 0.5), (LOOKAHEAD, 7, 1.6)):
        expected = [7 - 2 * judged - best_of_n(s, g, n) for s, g in zip(tags, copy, strict=True)]
        assert found[cell].matched == n
        assert found[cell].over_matched == pytest.approx(paired_interval(expected), abs=1e-12)
    assert found[Cell("best_of_n", 4, source="pool")].over_matched is None


def test_without_a_pool_a_sweeps_own_baseline_and_best_of_n_are_compared_with(
    tmp_path: Path,
) -> None:
    sweep = made_up_sweep(tmp_path, more=("baseline", "best_of_n"), noise=0.0)
    found = by_cell(cost_study(None, sweep, BUDGETS), "copy")
    assert found[SBS4].gain == pytest.approx((-3, -3, -3))
    assert found[SBS4].matched == 4
    assert found[SBS4].over_matched == pytest.approx((-1, -1, -1))
    assert found[SBS8].matched is None  # no best-of-n of nearly as many frames was run
    alone = by_cell(cost_study(None, made_up_sweep(tmp_path), BUDGETS), "copy")
    assert {point.gain for point in alone.values()} == {None}


def test_prompts_that_a_sweep_lacks_are_left_out_of_the_pools_points_too(
    pool: Pool, tmp_path: Path
) -> None:
    costs = cost_study(pool, made_up_sweep(tmp_path, prompts=5), BUDGETS)
    assert {point.prompts for point in costs.points} == {5}
    point = by_cell(costs, "copy")[Cell("baseline", 1, source="pool")]
    first = [pool.values("copy")[f"p{number}"].mean() for number in range(5)]
    assert point.mean == pytest.approx(np.mean(first))
    assert costs.notes == (
        "tags, copy: over the 5 of 12 prompts that all of these have numbers for.",
    )


def test_a_cell_that_has_not_run_on_all_prompts_is_left_out_and_named(
    pool: Pool, tmp_path: Path
) -> None:
    costs = cost_study(pool, made_up_sweep(tmp_path, unfinished=[("sbs", 8, 4, 0)]), BUDGETS)
    assert SBS8 not in by_cell(costs, "tags")
    assert {point.prompts for point in costs.points} == {12}
    assert costs.notes == ("sbs N=8 M=4 is left out: it has run on 10 of 12 prompts.",)


def test_a_pool_of_other_clips_or_measures_is_not_set_beside_a_sweep(
    pool: Pool, tmp_path: Path
) -> None:
    longer = cost_study(pool, made_up_sweep(tmp_path, seconds=10.0), BUDGETS)
    assert longer.notes == (
        "Best-of-n of the pool is left out: its clips have 5 s, those of the sweep 10 s.",
    )
    assert {point.cell.source for point in longer.points} == {"sweep"}
    other = cost_study(pool, made_up_sweep(tmp_path, checkpoint="tags (fedcba98)"), BUDGETS)
    assert "tags was made with other weights: tags (01234567) in the pool" in other.notes[0]
    same = cost_study(pool, made_up_sweep(tmp_path, checkpoint="tags (01234567)"), BUDGETS)
    assert not same.notes
    unscored = load_pool(made_up_pool(tmp_path, measures=("tags", "kin")))
    found = cost_study(unscored, made_up_sweep(tmp_path), BUDGETS)
    assert "the pool has no scores of copy" in found.notes[0]


def test_the_front_holds_what_nothing_beats(pool: Pool, tmp_path: Path) -> None:
    found = by_cell(cost_study(pool, made_up_sweep(tmp_path), BUDGETS), "copy")
    fronts = {cell: point.on_front for cell, point in found.items()}
    assert fronts[SBS4] == fronts[LOOKAHEAD] == (True, True)
    assert fronts[SBS8] == (False, False)
    assert fronts[Cell("best_of_n", 4, source="pool")] == (False, False)
    assert fronts[Cell("best_of_n", 2, source="pool")] == (True, True)


def test_what_a_sweep_sampled_does_not_stand_on_the_front_beside_its_expectation(
    pool: Pool, tmp_path: Path
) -> None:
    sweep = made_up_sweep(tmp_path, more=("baseline", "best_of_n"))
    found = by_cell(cost_study(pool, sweep, BUDGETS), "tags")
    assert found[Cell("baseline", 1)].on_front == (False, False)
    assert found[Cell("baseline", 1, source="pool")].on_front == (True, True)


def test_pareto_keeps_ties_and_drops_what_is_beaten() -> None:
    assert pareto([1, 2, 2, 3, 1], [1, 3, 2, 3, 1]) == [True, True, False, False, True]


def test_an_empty_folder_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError):
        cost_study(None, tmp_path, BUDGETS)
