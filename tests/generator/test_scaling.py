"""verifier_experiment.py: its settings, what an old pool fixes, what is missing; and its sweeps.

In a sweep every cell is searched once on each prompt, whatever breaks it off.
"""

from pathlib import Path

import pytest

from src.cells import SearchCell
from src.experiments.scaling import open_sweep, search_cells
from src.experiments.scaling_offline import look, of_pool, prompts_of
from src.experiments.scaling_settings import ExperimentSettings
from src.judges.registry import all_three
from src.runs.build import Parts
from src.runs.pool import load_pool
from src.runs.records import RECORDS, search_key
from src.runs.run import Run
from src.runs.settings import PROFILE_JUDGES, UsageError, parse
from src.search import search
from tests.generator.fake_pool import PROMPTS, made_pool, settings_for, without_clock
from tests.generator.fake_search import RATE, FakeGenerator, FakeJudge, FakeVerifier, Narrow


def settings(*args: str) -> ExperimentSettings:
    return parse(ExperimentSettings, ("--profile", "builtin", *args), prog="verifier_experiment.py")


def test_a_pool_is_twice_the_largest_budget_and_is_heard_at_every_step() -> None:
    found = settings("--samples", "10", "--duration", "10")
    assert found.budgets == (1, 2, 4, 8)
    assert found.candidates == 16
    assert found.prefix_seconds == (2.0, 4.0, 6.0, 8.0)
    assert (found.step_sizes, found.seeds, found.method) == (None, None, ())
    assert settings("--prefixes", "none").prefix_seconds == ()
    assert settings("--prefixes", "2.5", "1").prefix_seconds == (1.0, 2.5)
    assert settings("--duration", "1", "--step_size", "0.3").prefix_seconds == (0.3, 0.6, 0.9)


def cells_of(*args: str) -> tuple[list[SearchCell], list[SearchCell]]:
    return settings("--pool_size", "0", "--duration", "2", *args).cells()


def test_cells_whose_width_does_not_divide_the_budget_are_left_out_and_listed_once() -> None:
    grid = ("--method", "sbs", "--budgets", "2", "4", "6", "--beam_widths", "2", "4")
    grid = (*grid, "--step_sizes", "0.5", "1", "--seeds", "1", "2")
    cells, left_out = cells_of(*grid)
    labels = ["N=2 M=2", "N=4 M=2", "N=4 M=4", "N=6 M=2"]
    assert list(dict.fromkeys(c.label for c in cells)) == labels
    assert {(c.step_size, c.seed) for c in cells} == {(0.5, 1), (0.5, 2), (1.0, 1), (1.0, 2)}
    assert {c.name for c in left_out} == {"sbs N=2 M=4", "sbs N=6 M=4"}


def test_what_is_the_same_search_by_definition_runs_once() -> None:
    ahead = ("--method", "sbs", "lookahead", "--budgets", "1", "4", "--beam_widths", "2")
    many, _ = cells_of(*ahead, "--lookahead_ks", "0", "1", "9", "10", "--step_size", "0.2")
    assert [c.name for c in many] == [
        *("baseline", "sbs N=4 M=2", "lookahead N=4 M=2 k=1", "lookahead N=4 M=2 k=9")
    ]
    whole, _ = cells_of("--method", "sbs", "best_of_n", "--budgets", "4", "--step_sizes", "2", "5")
    assert whole == [SearchCell("best_of_n", 4, seed=42)]


def test_sums_select_in_searches_and_what_they_need_is_looked_for() -> None:
    found = settings("--method", "sbs", "--verifiers", "tags", "--sweep_verifiers", "tags+clap")
    assert found.scoring == ("tags", "tags+clap")
    assert found.selecting == ("tags+clap",)


def test_sums_are_of_what_the_pool_is_scored_by(tmp_path: Path) -> None:
    ask = ("--server", "auto", "--output", str(tmp_path), "--verifiers", "tags")
    assert look(settings(*ask, "--sums", "tags+pmi"))[0].sums == ("tags+pmi",)
    with pytest.raises(UsageError, match="no scores of tags_vgg; name what it lacks in --verif"):
        look(settings(*ask, "--sums", "tags+tags_vgg"))


def test_by_default_all_that_a_server_on_this_machine_could_have_score(tmp_path: Path) -> None:
    """But for pmi, which nobody asks for without guidance."""
    ask = ("--server", "auto", "--output", str(tmp_path))
    found, _ = look(settings(*ask))
    assert {"perplexity", "pmi", "tags", "tags_msd"} <= set(found.verifiers or ())
    assert found.judges == all_three(PROFILE_JUDGES["builtin"])
    assert "pmi" not in (look(settings(*ask, "--guidance", "1"))[0].verifiers or ("pmi",))


def test_without_a_server_the_preflight_says_that_it_is_missing(tmp_path: Path) -> None:
    _, ready = look(settings("--server", "http://127.0.0.1:9", "--output", str(tmp_path)))
    assert ["server" in missing.what for missing in ready.missing] == [True]


def test_an_old_pools_prompts_and_settings_need_not_be_repeated_and_cannot_be_changed(
    tmp_path: Path,
) -> None:
    made_pool(tmp_path, seed=5).close()
    (folder,) = tmp_path.iterdir()
    pool = load_pool(folder)
    prompts = prompts_of(pool, tmp_path)
    assert [(p.id, p.text, p.key) for p in prompts] == [(p.id, p.text, p.key) for p in PROMPTS]
    asked = settings_for(tmp_path, pool=folder, pool_size=None, duration=10.0, prefixes=None)
    found = of_pool(asked, pool)
    assert (found.duration, found.seed, found.seeds, found.candidates) == (0.4, 5, None, 4)
    assert found.prefix_seconds == (0.1, 0.2)
    with pytest.raises(UsageError, match="--duration 3"):
        of_pool(settings_for(tmp_path, pool=folder, duration=3.0), pool)
    with pytest.raises(UsageError, match="--budgets 8"):
        of_pool(settings_for(tmp_path, pool=folder, budgets=(8,), pool_size=None), pool)
    with pytest.raises(UsageError, match=r"0\.4 s is too long"):
        of_pool(settings_for(tmp_path, pool=folder, prefixes=("0.4",)), pool)


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
    cells = [SearchCell.from_record(record["cell"]) for record in run.records.values()]
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
    whole, _ = sweep(tmp_path / "whole", Narrow(), beam_widths=(2, 4))
    broken, _ = sweep(tmp_path / "broken", Narrow(), beam_widths=(2, 4))
    path = broken.folder / RECORDS
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]) + lines[4][:99])
    generator = Narrow()
    resumed, _ = sweep(tmp_path / "broken", generator, beam_widths=(2, 4))
    assert without_clock(resumed.records.values()) == without_clock(whole.records.values())
    assert ("key waltz", "key jig") in [
        keys for keys, *_ in generator.begun
    ]  # in the group of the unbroken run
    assert len(path.read_bytes().splitlines()) == len(lines)


def test_a_larger_grid_adds_to_the_folder_and_repeats_nothing(tmp_path: Path) -> None:
    first, _ = sweep(tmp_path)
    more, _ = sweep(tmp_path, beam_widths=(2, 4), seeds=(42, 43))
    assert more.folder == first.folder
    before = list(first.records.values())
    assert list(more.records.values())[: len(before)] == before
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
    assert all(r["status"] == "ok" for r in again.records.values())
