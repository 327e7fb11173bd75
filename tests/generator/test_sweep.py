"""Sweeps: every cell is searched once on each prompt, whatever breaks it off."""

from pathlib import Path

import pytest

from src.experiments.scaling import open_sweep, search_cells
from src.methods import SearchCell
from src.runs.build import Parts
from src.runs.records import RECORDS, Run, search_key
from src.search import search
from tests.generator.fake_judges import FakeJudge
from tests.generator.fake_pool import PROMPTS, settings_for, without_clock
from tests.generator.fake_search import RATE, FakeGenerator, FakeVerifier

SBS = SearchCell("sbs", 4, {"beam_width": 2}, step_size=0.2, seed=42)
KEY = search_key("sbs", SBS)


def sweep(output: Path, generator=None, verifier=None, **changed) -> tuple[Run, int]:
    """A run of sbs with N = 1 and 4, and how many searches failed."""
    grid = {"method": ("sbs",), "budgets": (1, 4), "beam_widths": (2,)}
    asked = settings_for(output, **grid | changed)
    generator, verifier = generator or FakeGenerator(), verifier or FakeVerifier()
    parts = Parts(generator, verifier, [FakeJudge("far")])
    with open_sweep(asked, PROMPTS, parts) as run:
        cells, _ = asked.cells()
        failed = search_cells(run, cells, PROMPTS, parts, asked)
    return run, failed


def test_a_cells_record_is_that_of_its_search(tmp_path: Path) -> None:
    run, failed = sweep(tmp_path)
    assert failed == 0
    cells = [SearchCell.from_record(record["cell"]) for record in run.records]
    assert set(cells) == {SearchCell("baseline", 1, seed=42), SBS}
    record = run.latest(KEY, "jig")
    assert record is not None
    assert (record["method"], record["cell"]) == ("sbs", SBS.as_record())
    plan = SBS.plan(0.4, 0.2, RATE)
    (alone,) = search(plan, [PROMPTS[1]], FakeGenerator(), FakeVerifier(), 42)
    own = alone.as_record()
    assert (record["winner"], record["tree"]) == (own["winner"], own["tree"])
    assert record["ledger"]["frames"] == plan.expected().frames
    assert list(record["judges"]) == ["far"]


def test_a_sweep_broken_off_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole, _ = sweep(tmp_path / "whole", beam_widths=(2, 4), max_rows=8)
    broken, _ = sweep(tmp_path / "broken", beam_widths=(2, 4), max_rows=8)
    path = broken.folder / RECORDS
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]) + lines[4][:99])
    generator = FakeGenerator()
    resumed, _ = sweep(tmp_path / "broken", generator, beam_widths=(2, 4), max_rows=8)
    assert without_clock(resumed.records) == without_clock(whole.records)
    assert ("key waltz", "key jig") in [
        keys for keys, *_ in generator.begun
    ]  # in the group of the unbroken run
    assert len(path.read_bytes().splitlines()) == len(lines)


def test_a_larger_grid_adds_to_the_folder_and_repeats_nothing(tmp_path: Path) -> None:
    first, _ = sweep(tmp_path)
    more, _ = sweep(tmp_path, beam_widths=(2, 4), seeds=(42, 43))
    assert more.folder == first.folder
    assert more.records[: len(first.records)] == first.records
    assert len(more.records) == (2 * 2 + 2) * len(PROMPTS)


@pytest.mark.parametrize("changed", [{"duration": 0.6}, {"temperature": 0.5}])
def test_what_decides_every_cell_makes_another_folder(tmp_path: Path, changed: dict) -> None:
    assert sweep(tmp_path)[0].folder != sweep(tmp_path, **changed)[0].folder


def test_a_refused_prompt_fails_in_its_cell_and_is_taken_up_again(tmp_path: Path) -> None:
    picky = FakeVerifier(lambda item: "no words" if item.prompt == "a jig" else None)
    run, failed = sweep(tmp_path, verifier=picky)
    assert failed == 2
    record = run.latest(KEY, "jig")
    assert record is not None
    assert (record["status"], record["reason"]) == ("failed", "no words")
    again, failed = sweep(tmp_path)
    assert failed == 0
    assert all(r["status"] == "ok" for r in again.records)
