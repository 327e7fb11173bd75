"""The settings of verifier_experiment.py: pools, grids, what an old pool fixes, what is missing."""

from pathlib import Path

import pytest

from src.experiments.scaling_offline import announcement, look, of_pool, prompts_of
from src.experiments.scaling_settings import ExperimentSettings
from src.methods import SearchCell
from src.runs.pool import load_pool
from src.runs.settings import UsageError, parse
from tests.generator.fake_pool import PROMPTS, made_pool, settings_for


def settings(*args: str) -> ExperimentSettings:
    return parse(ExperimentSettings, ("--profile", "builtin", *args), prog="verifier_experiment.py")


def test_a_pool_is_twice_the_largest_budget_and_is_heard_at_every_step() -> None:
    found = settings("--samples", "10", "--duration", "10")
    assert found.budgets == (1, 2, 4, 8)
    assert found.candidates == 16
    assert found.prefix_seconds == (2.0, 4.0, 6.0, 8.0)
    assert (found.step_sizes, found.seeds, found.method) == ((2.0,), (42,), ())
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
    said = announcement(settings("--pool_size", "0", "--duration", "2", *grid), ())
    assert said[1:] == [
        "Left out: sbs N=2 M=4: M does not divide N.",
        "Left out: sbs N=6 M=4: M does not divide N.",
    ]


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
    found, _ = look(settings("--server", "auto", "--output", str(tmp_path)))
    assert found.verifiers is not None
    assert {"perplexity", "pmi", "tags", "tags_msd"} <= set(found.verifiers)
    assert found.judges == ("msd_kld", "mtt_vgg", "msd_vgg_kld")


def test_without_guidance_nobody_asks_for_pmi(tmp_path: Path) -> None:
    ask = ("--server", "auto", "--output", str(tmp_path), "--guidance", "1")
    assert "pmi" not in (look(settings(*ask))[0].verifiers or ())


def test_without_a_server_the_preflight_says_that_it_is_missing(tmp_path: Path) -> None:
    _, ready = look(settings("--server", "http://127.0.0.1:9", "--output", str(tmp_path)))
    assert ["server" in missing.what for missing in ready.missing] == [True]


def test_an_old_pools_settings_need_not_be_repeated_and_cannot_be_changed(tmp_path: Path) -> None:
    made_pool(tmp_path, seed=5).close()
    (folder,) = tmp_path.iterdir()
    pool = load_pool(folder)
    asked = settings_for(tmp_path, pool=folder, pool_size=None, duration=10.0, prefixes=None)
    found = of_pool(asked, pool)
    assert (found.duration, found.seed, found.seeds, found.candidates) == (0.4, 5, (5,), 4)
    assert found.prefix_seconds == (0.1, 0.2)
    with pytest.raises(UsageError, match="--duration 3"):
        of_pool(settings_for(tmp_path, pool=folder, duration=3.0), pool)
    with pytest.raises(UsageError, match="--budgets 8"):
        of_pool(settings_for(tmp_path, pool=folder, budgets=(8,), pool_size=None), pool)
    with pytest.raises(UsageError, match=r"0\.4 s is too long"):
        of_pool(settings_for(tmp_path, pool=folder, prefixes=("0.4",)), pool)


def test_an_old_pools_prompts_are_those_it_was_made_for(tmp_path: Path) -> None:
    made_pool(tmp_path).close()
    (folder,) = tmp_path.iterdir()
    found = prompts_of(load_pool(folder), tmp_path)
    assert [(p.id, p.text, p.key) for p in found] == [(p.id, p.text, p.key) for p in PROMPTS]
