"""The command line of verifier_experiment.py."""

from pathlib import Path

import pytest

from src.experiments.scaling_preflight import look
from src.experiments.scaling_settings import ExperimentSettings
from src.runs.settings import UsageError, parse


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


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--pool_size", "4"), "less than the largest of --budgets"),
        (("--pool_size", "0"), "name searches with --method"),
        (("--pool_size", "0", "--pool", "x", "--method", "sbs"), "asks for no pool"),
        (("--judges", "fad_clap"), "compares sets of clips"),
        (("--verifiers", "tags+perplexity"), "name the parts"),
        (("--sums", "tags"), "a sum has two parts or more"),
        (("--sums", "tags+"), "--sums 'tags+' is not a verifier or a sum"),
        (("--sums", "tags+pmi", "--pool_size", "0", "--method", "sbs"), "--pool_size 0 makes none"),
        (("--sums", "tags+pmi", "--guidance", "1"), "pmi: how likely a clip is without its text"),
        (("--sweep_verifiers", "pmi", "--guidance", "1"), "known under guidance only"),
        (("--prefixes", "soon"), "are seconds"),
        (("--prefixes", "10"), "must end before the clip does"),
        (("--prefixes", "0.01"), "whole number of frames"),
        (("--step_sizes", "0.01"), "whole number of frames"),
        (("--budgets", "0"), "numbers of 1 or more"),
        (("--budgets", "2", "2"), "names something twice"),
        (("--lookahead_ks", "-1"), "numbers of 0 or more"),
        (("--pool", "x", "--method", "sbs"), "--sweep_verifiers"),
    ],
)
def test_settings_that_cannot_work_are_said_before_anything_is_loaded(
    args: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        settings(*args)
    assert exit_info.value.code == 2
    assert said in capsys.readouterr().err


def test_sums_select_in_searches_and_what_they_need_is_looked_for() -> None:
    found = settings("--method", "sbs", "--verifiers", "tags", "--sweep_verifiers", "tags+clap")
    assert found.selectors == ("tags", "tags+clap")
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
