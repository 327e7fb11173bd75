"""A sweep's cells beside best-of-n from a pool: over the same prompts, and at equal cost."""

from pathlib import Path

import numpy as np
import pytest

from src.cells import SearchCell
from src.reports.sweep_study import Sweep, cell_of, front, study_sweep
from src.reports.table import Row, interval_of
from src.runs.pool import Pool, load_pool
from src.runs.records import RunFolderError
from src.stats.best_of_n import best_of_n
from src.stats.intervals import StatsError, mean_interval
from tests.generator.made_up_pool import (
    BASELINE,
    BEST_OF_4,
    CELLS,
    LOOKAHEAD,
    SBS4,
    SBS8,
    SINGLES,
    made_up_pool,
    made_up_sweep,
)

BUDGETS = (1, 2, 4, 8)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return load_pool(made_up_pool(tmp_path_factory.mktemp("pool")))


def by_cell(study: Sweep, measure: str, source: str = "sweep") -> dict[SearchCell, Row]:
    rows = [r for r in study.rows if (r["measure"], r["source"]) == (measure, source)]
    return {cell_of(row): row for row in rows}


def of_pool(study: Sweep, measure: str) -> dict[int, Row]:
    return {cell.candidates: row for cell, row in by_cell(study, measure, "pool").items()}


@pytest.fixture(scope="module")
def study(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Without noise."""
    return study_sweep(made_up_sweep(tmp_path_factory.mktemp("s"), noise=0.0), pool, BUDGETS)


def test_cells_are_means_over_prompts_and_seeds(pool: Pool, study: Sweep) -> None:
    assert list(by_cell(study, "copy")) == sorted(CELLS, key=lambda cell: (cell.method, cell.name))
    for cell, row in by_cell(study, "copy").items():
        _, judged, frames, seconds = CELLS[cell]
        assert row["mean"] == pytest.approx(7 - 2 * judged)
        assert (row["frames"], row["seconds"]) == (frames, seconds)  # judging is not a cost
        assert (row["prompts"], row["seeds"], row["role"]) == (12, 2, "primary judge")
        alone = np.array([g.mean() for g in pool.values("copy").values()])
        expected = mean_interval(7 - 2 * judged - alone)
        assert interval_of(row, "gain") == pytest.approx(expected, abs=1e-12)
    assert {row["role"] for row in by_cell(study, "tags").values()} == {"selector"}
    assert not study.notes


def test_best_of_n_comes_from_the_pool_with_the_cost_of_n_clips(pool: Pool, study: Sweep) -> None:
    found = of_pool(study, "copy")
    assert tuple(found) == BUDGETS
    for n, row in found.items():
        assert row["method"] == ("baseline" if n == 1 else "best_of_n")
        assert row["mean"] == pytest.approx(best_of_n(*pool.pair("tags", "copy"), [n]).mean())
        assert row["frames"] == 250 * n
        assert row["seconds"] == pytest.approx(1.5 * n)  # 1 s to generate, 0.5 s to score
        assert (row["best_of_n"], row["verdict"]) == (None, None)


def test_a_tree_search_is_compared_with_best_of_n_of_as_many_frames(
    pool: Pool, study: Sweep
) -> None:
    for cell, n, judged in ((SBS4, 4, 1.5), (SBS8, 8, 0.5), (LOOKAHEAD, 7, 1.6)):
        expected = 7 - 2 * judged - best_of_n(*pool.pair("tags", "copy"), [n])[:, 0]
        row = by_cell(study, "copy")[cell]
        assert row["best_of_n"] == n
        difference = interval_of(row, "over_best_of_n", "over_")
        assert difference == pytest.approx(mean_interval(expected), abs=1e-12)
    verdicts = {cell: row["verdict"] for cell, row in by_cell(study, "copy").items()}
    assert verdicts == {SBS4: "better", SBS8: "worse", LOOKAHEAD: "better"}
    assert {row["verdict"] for row in by_cell(study, "tags").values()} == {"not independent"}


def test_without_a_pool_a_sweeps_own_baseline_and_best_of_n_are_compared_with(
    tmp_path: Path,
) -> None:
    sweep = made_up_sweep(tmp_path, cells=CELLS | SINGLES, noise=0.0)
    found = by_cell(study_sweep(sweep, None, BUDGETS), "copy")
    assert interval_of(found[SBS4], "gain") == pytest.approx((-3, -3, -3))
    assert found[SBS4]["best_of_n"] == 4
    assert interval_of(found[SBS4], "over_best_of_n", "over_") == pytest.approx((-1, -1, -1))
    assert found[SBS8]["best_of_n"] is None  # no best-of-n of nearly as many frames was run
    alone = by_cell(study_sweep(made_up_sweep(tmp_path), None, BUDGETS), "copy")
    assert {row["gain"] for row in alone.values()} == {None}


def test_prompts_that_a_sweep_lacks_are_left_out_everywhere(pool: Pool, tmp_path: Path) -> None:
    study = study_sweep(made_up_sweep(tmp_path, prompts=5), pool, BUDGETS)
    assert {row["prompts"] for row in study.rows} == {5}
    first = [pool.values("copy")[f"p{number}"].mean() for number in range(5)]
    assert of_pool(study, "copy")[1]["mean"] == pytest.approx(np.mean(first))
    starts = [f"{measure}: over the 5 of 12 prompts" for measure in ("tags", "copy")]
    assert [note.startswith(start) for note, start in zip(study.notes, starts, strict=True)]


def test_a_cell_that_has_not_run_on_all_prompts_is_left_out_and_named(tmp_path: Path) -> None:
    study = study_sweep(made_up_sweep(tmp_path, unfinished=[SBS8]), None, BUDGETS)
    assert set(by_cell(study, "tags")) == {SBS4, LOOKAHEAD}
    assert {row["prompts"] for row in study.rows} == {12}
    assert study.notes == ["sbs N=8 M=4 is left out: it has run on 10 of 12 prompts."]


@pytest.mark.parametrize(
    ("kind", "measures", "reason"),
    [
        ({"seconds": 10.0}, ("tags", "copy"), "its clips have 5 s, those of the sweep 10 s"),
        ({"checkpoint": "tags (fedcba98)"}, ("tags", "copy"), "tags was made with other weights"),
        (
            {"checkpoint": "tags (01234567)", "definition": "loud"},
            ("tags", "copy"),
            "another definition: tags (01234567) in the pool, tags (01234567), loud in the sweep",
        ),
        ({}, ("tags", "kin"), "the pool has no scores of copy"),
        ({"checkpoint": "tags (01234567)"}, ("tags", "copy"), ""),
    ],
)
def test_a_pool_of_other_clips_or_measures_is_not_set_beside_a_sweep(
    tmp_path: Path, kind: dict, measures: tuple[str, ...], reason: str
) -> None:
    pool = load_pool(made_up_pool(tmp_path, measures=measures))
    study = study_sweep(made_up_sweep(tmp_path, **kind), pool, BUDGETS)
    assert [reason in note for note in study.notes] == [True] * bool(reason)
    assert {row["source"] for row in study.rows} == ({"sweep"} if reason else {"sweep", "pool"})


def test_the_front_holds_what_nothing_beats(study: Sweep) -> None:
    rows = by_cell(study, "copy")
    fronts = {cell: (row["front_frames"], row["front_seconds"]) for cell, row in rows.items()}
    assert fronts == {SBS4: (True, True), LOOKAHEAD: (True, True), SBS8: (False, False)}
    exact = {n: row["front_frames"] for n, row in of_pool(study, "copy").items()}
    assert exact == {1: True, 2: True, 4: False, 8: False}
    points = [(1, 1), (2, 3), (2, 2), (3, 3), (1, 1)]  # ties stay
    rows = [{"frames": cost, "mean": -score} for cost, score in points]
    assert front(rows, "frames", sign=-1) == [rows[0], rows[1], rows[4]]


def test_what_a_sweep_sampled_does_not_stand_on_the_front_beside_its_expectation(
    pool: Pool, tmp_path: Path
) -> None:
    study = study_sweep(made_up_sweep(tmp_path, cells=CELLS | SINGLES), pool, BUDGETS)
    sampled = by_cell(study, "tags")
    assert not any(sampled[cell]["front_frames"] for cell in (BASELINE, BEST_OF_4))
    assert of_pool(study, "tags")[1]["front_frames"]


def test_a_method_that_is_not_registered_is_reported_as_a_search(
    pool: Pool, tmp_path: Path
) -> None:
    cell = SearchCell("annealing", 4, step_size=1.0)
    study = study_sweep(made_up_sweep(tmp_path, cells={cell: (1.5, 1.5, 1000, 4.0)}), pool, BUDGETS)
    assert by_cell(study, "copy")[cell]["best_of_n"] == 4


def test_an_empty_folder_is_no_sweep_and_a_sweep_without_searches_has_no_study(
    tmp_path: Path,
) -> None:
    with pytest.raises(RunFolderError):
        study_sweep(tmp_path, None, BUDGETS)
    with pytest.raises(StatsError, match="no finished search"):
        study_sweep(made_up_sweep(tmp_path, cells={}), None, BUDGETS)
