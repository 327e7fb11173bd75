"""The command line: flags, profiles, wrong usage, and what decides a run's results."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from src.experiments.benchmark_settings import BenchmarkSettings
from src.experiments.latency_settings import LatencySettings
from src.experiments.scaling_settings import ExperimentSettings
from src.runs.settings import PROFILE_JUDGES, Settings, parse, server_token

SCRIPTS: dict[str, type[Settings]] = {
    "benchmark.py": BenchmarkSettings,
    "latency_experiment.py": LatencySettings,
    "verifier_experiment.py": ExperimentSettings,
}


def settings(*args: str) -> BenchmarkSettings:
    return parse(BenchmarkSettings, args, prog="benchmark.py")


def test_defaults_are_the_documented_ones() -> None:
    s = settings()
    assert (s.method, s.verifier) == (("baseline",), "perplexity")
    assert (s.candidates, s.beam_width, s.lookahead_k) == (16, 4, 1)
    assert (s.duration, s.step_size, s.num_samples, s.seed) == (10, 2, 10, 42)
    assert s.server == "http://127.0.0.1:8000"
    assert s.data_dir == Path("music_data")
    assert (s.temperature, s.top_k, s.guidance) == (1, 250, 3)


def test_the_profile_decides_model_and_prompts_and_the_preflight_the_judges() -> None:
    paper, builtin = settings(), settings("--profile", "builtin")
    assert (paper.model, paper.prompts) == ("facebook/musicgen-small", "musiccaps")
    assert (builtin.model, builtin.prompts) == ("builtin", "builtin")
    assert PROFILE_JUDGES["builtin"] == ("msd_kld", "mtt_vgg", "msd_vgg_kld")
    assert builtin.judges is None


def test_what_is_said_wins_over_the_profile() -> None:
    s = settings("--profile", "builtin", "--model", "here", "--prompts", "a.csv", "--judges", "j")
    assert (s.model, s.prompts, s.judges) == ("here", "a.csv", ("j",))
    assert settings("--profile", "builtin", "--judges", "none").judges == ()


def test_several_methods_and_flags_in_either_spelling() -> None:
    s = settings("--method", "baseline", "sbs", "--beam-width", "2", "--beam_width", "8")
    assert s.method == ("baseline", "sbs")
    assert s.beam_width == 8


def test_samples_is_the_same_as_num_samples() -> None:
    assert settings("--samples", "3") == settings("--num_samples", "3")


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("--method", "sbs", "--candidates", "6"), "--beam_width must divide --candidates"),
        (("--method", "lookahead", "--lookahead_k", "-1"), "lookahead_k must be 0 or more"),
        (("--verifier", "tags+pmi", "--guidance", "1"), "take a --guidance other than 1"),
        (("--method",), "--method needs at least one method"),
        (("--candidates", "0"), "candidates must be 1 or more"),
        (("--duration", "0.013"), "not a whole number of frames"),
        (("--method", "sbs", "sbs"), "names something twice"),
        (("--num_samples", "0"), "--num_samples must be 1 or more"),
        (("--max_rows", "0"), "--max_rows must be 1 or more"),
        (("--temperature", "0"), "--temperature must be more than 0"),
        (("--top_k", "-1"), "--top_k must be 0 or more"),
        (("--guidance", "-1"), "--guidance must be 0 or more"),
        (("--server", "localhost:8000"), "--server must be 'auto' or begin with http://"),
        (("--method", "mcts"), "mcts"),
        (("--no_such_flag", "1"), "no_such_flag"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_is_wrong(
    refused: Callable[..., str], args: tuple[str, ...], complaint: str
) -> None:
    assert complaint in refused(BenchmarkSettings, *args)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_teaches_with_examples_that_parse(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(SCRIPTS[script], ("--help",), prog=script)
    assert exit_.value.code == 0
    text = capsys.readouterr().out.replace("\\\n", " ")
    commands = [x for x in text.splitlines() if x.strip().startswith(f"python {script}")]
    assert len(commands) >= 4
    for command in commands:
        parse(SCRIPTS[script], shlex.split(command)[2:], prog=script)
    flags = [f"--{field.name}" for field in fields(SCRIPTS[script])]
    for words in ("Examples:", "Exit codes", "M: children of each kept parent", *flags):
        assert words in text


def test_what_does_not_decide_results_is_not_in_the_identity() -> None:
    one = settings("--server", "auto", "--output", "elsewhere", "--log_level", "debug")
    assert one.decisive() == settings("--max_rows", "4", "--data_dir", "elsewhere").decisive()
    for args in (("--seed", "1"), ("--method", "sbs"), ("--prompts", "a"), ("--guidance", "1")):
        assert settings(*args).decisive() != settings().decisive()


def test_the_profile_written_out_is_the_same_run_as_its_defaults() -> None:
    short = settings("--profile", "builtin")
    long = settings("--profile", "builtin", "--model", "builtin", "--prompts", "builtin")
    assert short.decisive() == long.decisive()


def test_settings_are_json_and_hashable() -> None:
    s = settings("--method", "sbs", "lookahead")
    assert json.loads(json.dumps(s.as_record()))["method"] == ["sbs", "lookahead"]
    assert hash(s) == hash(settings("--method", "sbs", "lookahead"))


def test_the_servers_token_is_kept_out_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CURATOR_TOKEN", "secret")
    assert server_token() == "secret"
    assert "secret" not in json.dumps(settings().as_record())


def test_the_command_lines_need_no_torch() -> None:
    kinds = ", ".join(sorted({kind.__module__ for kind in SCRIPTS.values()}))
    modules = f"{kinds}, src.data.prompts, src.runs.records"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
