"""Grids of searches: which cells there are, and that each runs once, whatever breaks it off."""

from pathlib import Path

import pytest

from src.budget import make_plan
from src.experiments.sweep import Cell, grid, open_sweep, search_cells
from src.runs.records import RECORDS, Run
from src.search import search
from tests.generator.fake_judges import FakeJudge
from tests.generator.fake_pool import PROMPTS, PoolGenerator, settings_for, told
from tests.generator.fake_search import RATE, FakeVerifier


def cells_of(**changed) -> list[Cell]:
    return grid(settings_for(Path(), **{"duration": 2.0, "prefixes": None} | changed))[0]


def test_cells_whose_width_does_not_divide_the_budget_are_listed_and_left_out() -> None:
    asked = settings_for(
        Path(), budgets=(2, 4, 6), beam_widths=(2, 4), method=("sbs",), pool_size=12, duration=2.0
    )
    cells, skipped = grid(asked)
    assert [(c.candidates, c.beam_width) for c in cells] == [(2, 2), (4, 2), (4, 4), (6, 2)]
    assert skipped == ["sbs n=2 m=4: 4 does not divide 2", "sbs n=6 m=4: 4 does not divide 6"]


def test_what_is_the_same_search_by_definition_runs_once() -> None:
    many = cells_of(
        method=("sbs", "lookahead"), budgets=(1, 4), beam_widths=(2,), lookahead_ks=(0, 1, 9, 10)
    )
    assert [c.name for c in many] == [
        "baseline n=1 m=1 k=0 step=2 seed=42",
        "sbs n=4 m=2 k=0 step=0.2 seed=42",
        "lookahead n=4 m=2 k=1 step=0.2 seed=42",
        "lookahead n=4 m=2 k=9 step=0.2 seed=42",  # ten steps: nine come after the first
    ]
    whole = cells_of(method=("sbs", "best_of_n"), budgets=(4,), step_sizes=(2.0, 5.0))
    assert [c.name for c in whole] == ["best_of_n n=4 m=1 k=0 step=2 seed=42"]


def test_seeds_and_steps_are_part_of_the_grid() -> None:
    found = cells_of(
        method=("sbs",), budgets=(4,), beam_widths=(4,), seeds=(1, 2), step_sizes=(0.5, 1.0)
    )
    assert {(c.seed, c.step_size) for c in found} == {(1, 0.5), (1, 1.0), (2, 0.5), (2, 1.0)}


def sweep(output: Path, generator=None, verifier=None, **changed) -> tuple[Run, int]:
    asked = settings_for(output, **{"method": ("sbs",), "budgets": (1, 4)} | changed)
    generator, verifier = generator or PoolGenerator(), verifier or FakeVerifier()
    judges = [FakeJudge("far")]
    with open_sweep(asked, PROMPTS, generator, verifier, judges) as run:
        cells = grid(asked)[0]
        failed = search_cells(
            run, cells, PROMPTS, generator, verifier, judges, asked.duration, max_rows=8
        )
    return run, failed


def test_a_cells_record_is_that_of_its_search(tmp_path: Path) -> None:
    run, failed = sweep(tmp_path, beam_widths=(2,))
    assert failed == 0
    assert {r["method"] for r in run.records} == {
        "baseline n=1 m=1 k=0 step=0.4 seed=42",
        "sbs n=4 m=2 k=0 step=0.2 seed=42",
    }
    record = run.latest("sbs n=4 m=2 k=0 step=0.2 seed=42", "jig")
    assert record is not None
    names = ("search", "candidates", "beam_width", "lookahead_k", "step_size", "seed")
    assert [record[name] for name in names] == ["sbs", 4, 2, 0, 0.2, 42]
    plan = make_plan(
        "sbs",
        candidates=4,
        beam_width=2,
        lookahead_k=0,
        duration=0.4,
        step_size=0.2,
        frame_rate=RATE,
    )
    (alone,) = search(plan, [PROMPTS[1]], PoolGenerator(), FakeVerifier(), 42)
    own = alone.as_record()
    assert (record["winner"], record["tree"]) == (own["winner"], own["tree"])
    assert record["ledger"]["frames"] == plan.expected().frames
    assert list(record["judges"]) == ["far"]


def test_a_sweep_broken_off_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole, _ = sweep(tmp_path / "whole")
    broken, _ = sweep(tmp_path / "broken")
    path = broken.folder / RECORDS
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]) + lines[4][:99])
    generator = PoolGenerator()
    resumed, _ = sweep(tmp_path / "broken", generator)
    assert told(resumed.records) == told(whole.records)
    assert ("key waltz", "key jig") in generator.begun  # in the group of the unbroken run
    assert len(path.read_bytes().splitlines()) == len(lines)


def test_a_larger_grid_adds_to_the_folder_and_repeats_nothing(tmp_path: Path) -> None:
    first, _ = sweep(tmp_path, beam_widths=(2,))
    more, _ = sweep(tmp_path, beam_widths=(2, 4), seeds=(42, 43))
    assert more.folder == first.folder
    assert more.records[: len(first.records)] == first.records
    assert len(more.records) == (2 * 2 + 2) * len(PROMPTS)


@pytest.mark.parametrize("changed", [{"duration": 0.6}, {"temperature": 0.5}])
def test_what_decides_every_cell_makes_another_folder(tmp_path: Path, changed: dict) -> None:
    assert sweep(tmp_path)[0].folder != sweep(tmp_path, **changed)[0].folder


def test_a_refused_prompt_fails_in_its_cell_and_is_taken_up_again(tmp_path: Path) -> None:
    picky = FakeVerifier(lambda item: "no words" if item.prompt == "a jig" else None)
    run, failed = sweep(tmp_path, verifier=picky, beam_widths=(2,))
    assert failed == 2
    record = run.latest("sbs n=4 m=2 k=0 step=0.2 seed=42", "jig")
    assert record is not None
    assert (record["status"], record["reason"]) == ("failed", "no words")
    assert record["candidates"] == 4
    again, failed = sweep(tmp_path, beam_widths=(2,))
    assert failed == 0
    assert all(r["status"] == "ok" for r in again.records)
