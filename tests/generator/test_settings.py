"""The command line: flags, profiles, wrong usage, what decides a run's results; its parts."""

import json
import shlex
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from src.data.prompts import Prompt
from src.experiments.scaling_settings import ExperimentSettings
from src.experiments.settings import BenchmarkSettings, LatencySettings
from src.protocol import Checkpoint
from src.runs import build
from src.runs.build import Parts, checkpoints_of, connect, identity, load, where
from src.runs.settings import Settings, UsageError, parse, server_token
from tests.generator.fake_search import FakeGenerator, FakeJudge, FakeVerifier

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


def test_the_profile_decides_model_and_prompts() -> None:
    paper, builtin = settings(), settings("--profile", "builtin")
    assert (paper.model, paper.prompts) == ("facebook/musicgen-small", "musiccaps")
    assert (builtin.model, builtin.prompts) == ("builtin", "builtin")
    assert builtin.judges is None
    written = ("--model", "builtin", "--prompts", "builtin")  # the same run
    assert builtin.decisive() == settings("--profile", "builtin", *written).decisive()


def test_what_is_said_wins_over_the_profile() -> None:
    s = settings("--profile", "builtin", "--model", "here", "--prompts", "a.csv", "--judges", "j")
    assert (s.model, s.prompts, s.judges) == ("here", "a.csv", ("j",))
    assert settings("--profile", "builtin", "--judges", "none").judges == ()


def test_flags_have_several_values_and_either_spelling() -> None:
    s = settings("--method", "baseline", "sbs", "--beam-width", "2", "--samples", "3")
    assert s == settings("--method", "baseline", "sbs", "--beam_width", "2", "--num_samples", "3")
    assert s.method == ("baseline", "sbs")


@pytest.mark.parametrize(
    "args",
    [("--prompts", ""), ("--prompts", " "), ("--output=",), ("--judges", "kld_pq", "")]
    + [(flag, "") for flag in ("--model", "--server", "--data_dir", "--ids", "--verifier")],
)
def test_an_empty_value_is_wrong_usage_and_not_a_default(
    capsys: pytest.CaptureFixture[str], args: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        settings("--profile", "builtin", *args)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith(f"benchmark.py: {args[0].rstrip('=')} is empty")


# kind of settings: flags and what is said about them
BENCHMARK, LATENCY, EXPERIMENT = BenchmarkSettings, LatencySettings, ExperimentSettings
WRONG: list[tuple[type[Settings], str, str]] = [
    (BENCHMARK, "--method sbs --candidates 6", "--beam_width must divide --candidates"),
    (BENCHMARK, "--method lookahead --lookahead_k -1", "--lookahead_k must be 0 or more"),
    (BENCHMARK, "--method halving --keep 2", "--keep must be 1 or less, not 2"),
    (BENCHMARK, "--method sbs --step_size 0.013", "--step_size 0.013 s is not a whole number"),
    (BENCHMARK, "--verifier tags+pmi --guidance 1", "take a --guidance other than 1"),
    (BENCHMARK, "--method", "--method needs at least one value"),
    (BENCHMARK, "--candidates 0", "--candidates must be 1 or more"),
    (BENCHMARK, "--duration 0.013", "not a whole number of frames"),
    (BENCHMARK, "--method sbs sbs", "names something twice"),
    (BENCHMARK, "--num_samples 0", "--num_samples must be 1 or more"),
    (BENCHMARK, "--max_rows 0", "--max_rows must be 1 or more"),
    (BENCHMARK, "--temperature 0", "--temperature must be more than 0"),
    (BENCHMARK, "--top_k -1", "--top_k must be 0 or more"),
    (BENCHMARK, "--guidance -1", "--guidance must be 0 or more"),
    (BENCHMARK, "--server localhost:8000", "--server must be 'auto' or begin with http://"),
    (BENCHMARK, "--method mcts", "mcts"),
    (BENCHMARK, "--no_such_flag 1", "no_such_flag"),
    (LATENCY, "--repetitions 0", "--repetitions must be 1 or more"),
    (LATENCY, "--batch 0", "--batch must be 1 or more"),
    (LATENCY, "--beam_width 0", "beam_width must be 1 or more"),
    (LATENCY, "--budgets 0", "--budgets must be 1 or more, not 0"),
    (LATENCY, "--budgets", "--budgets needs at least one value"),
    (LATENCY, "--verifier pmi --guidance 1", "take a --guidance other than 1"),
    (LATENCY, "--lookahead_k -1", "lookahead_k must be 0 or more"),
    (LATENCY, "--duration 0.015", "not a whole number of frames"),
    (LATENCY, "--duration 0.015", "not a whole number of frames"),
    (LATENCY, "--method sbs --budgets 6", "nothing to measure: sbs N=6 M=4 cannot run"),
    (LATENCY, "--method", "--method needs at least one value"),
    (EXPERIMENT, "--pool_size 4", "less than the largest of --budgets"),
    (EXPERIMENT, "--pool_size 0", "name searches with --method"),
    (EXPERIMENT, "--pool_size 0 --pool x --method sbs", "neither --sums nor --pool"),
    (EXPERIMENT, "--judges fad_clap", "compares sets of clips"),
    (EXPERIMENT, "--verifiers tags+perplexity", "name the parts"),
    (EXPERIMENT, "--sums tags", "a sum has two parts or more"),
    (EXPERIMENT, "--sums tags+", "'tags+' is not a verifier or an expr"),
    (EXPERIMENT, "--sums tags+pmi --pool_size 0 --method sbs", "neither --sums nor --pool"),
    (EXPERIMENT, "--sums tags+pmi --guidance 1", "pmi: how likely a clip is without its text"),
    (EXPERIMENT, "--sweep_verifiers pmi --guidance 1", "known under guidance only"),
    (EXPERIMENT, "--prefixes soon", "are seconds"),
    (EXPERIMENT, "--prefixes 10", "must end before the clip does"),
    (EXPERIMENT, "--prefixes 0.01", "whole number of frames"),
    (EXPERIMENT, "--step_sizes 0.01", "whole number of frames"),
    (EXPERIMENT, "--budgets 0", "--budgets must be 1 or more"),
    (EXPERIMENT, "--budgets 2 2", "names something twice"),
    (EXPERIMENT, "--budgets 0", "--budgets must be 1 or more"),
    (EXPERIMENT, "--lookahead_ks -1", "--lookahead_ks must be 0 or more"),
    (EXPERIMENT, "--keeps 0.5 2", "--keeps must be 1 or less, not 2"),
    (EXPERIMENT, "--pool x --method sbs", "--sweep_verifiers"),
]


@pytest.mark.parametrize(("kind", "flags", "complaint"), WRONG)
def test_wrong_usage_exits_2_and_says_what_is_wrong(
    kind: type[Settings], flags: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(kind, ("--profile", "builtin", *flags.split()), prog="script.py")
    assert ended.value.code == 2
    assert complaint in " ".join("".join(capsys.readouterr()).split())


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


def test_the_stride_of_windows_decides_where_a_clip_has_several() -> None:
    strides = (settings(), settings("--extend_stride", "12"))
    assert strides[0].decisive() == strides[1].decisive()
    generator: Any = FakeGenerator()
    assert where(generator, 30.0) == {"device": "cpu", "dtype": "float32"}
    assert where(generator, 30.02) == where(generator, 1.0) | {"window": 30, "extend_stride": 18}


def test_settings_are_json_and_hashable() -> None:
    s = settings("--method", "sbs", "lookahead")
    assert json.loads(json.dumps(s.as_record()))["method"] == ["sbs", "lookahead"]
    assert hash(s) == hash(settings("--method", "sbs", "lookahead"))


def test_the_servers_token_is_kept_out_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CURATOR_TOKEN", "secret")
    assert server_token() == "secret"
    assert "secret" not in json.dumps(settings().as_record())


@pytest.mark.parametrize("token", ["two words", "clé", "line\n", "tab\t", " ", "=x", "\udcff"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("CURATOR_TOKEN", token)
    with pytest.raises(UsageError, match="CURATOR_TOKEN") as refused:
        Settings().check()
    assert token not in str(refused.value).replace(" ", "")


@pytest.mark.parametrize("token", ["", "secret", "a-._~+/Z9=="])
def test_other_tokens_are_sent_as_they_are(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("CURATOR_TOKEN", token)
    Settings().check()
    assert server_token() == (token or None)


def test_command_lines_records_and_the_list_of_judges_need_no_torch() -> None:
    kinds = ", ".join(sorted({kind.__module__ for kind in SCRIPTS.values()}))
    modules = f"{kinds}, src.data.prompts, src.judges.registry, src.runs.records"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


LATENCIES = LatencySettings(profile="builtin", budgets=(2, 4), beam_width=2)  # type: ignore[call-arg]


def test_latency_cells_are_methods_times_budgets_and_the_baseline_once() -> None:
    asked = replace(LATENCIES, budgets=(4, 6, 8), beam_width=4, lookahead_k=2)  # type: ignore[call-arg]
    cells, skipped = asked.cells()
    assert [cell.name for cell in cells] == [
        *("baseline", "best_of_n N=4", "best_of_n N=6", "best_of_n N=8"),
        *("sbs N=4 M=4", "sbs N=8 M=4", "lookahead N=4 M=4 k=2", "lookahead N=8 M=4 k=2"),
    ]
    assert [cell.name for cell in skipped] == ["sbs N=6 M=4", "lookahead N=6 M=4 k=2"]


def test_latencies_are_those_of_every_method_at_four_budgets_by_default() -> None:
    found = parse(LatencySettings, ())
    assert (found.budgets, found.num_samples) == ((4, 8, 16, 32), 5)
    cells, skipped = found.cells()
    assert (len(cells), skipped) == (13, [])


def test_what_changes_seconds_makes_another_latency_run_and_what_does_not_does_not() -> None:
    own = LATENCIES.decisive()
    for change in ({"max_rows": 8}, {"repetitions": 9}, {"batch": 2}, {"verifier": "tags"}):
        assert replace(LATENCIES, **change).decisive() != own  # type: ignore[arg-type]
    assert replace(LATENCIES, log_level="error").decisive() == own
    assert replace(LATENCIES, server="auto").decisive() == own  # perplexity asks no server
    served = replace(LATENCIES, verifier="tags")
    assert replace(served, server="auto").decisive() != served.decisive()
    assert replace(served, server="http://there").decisive() == served.decisive()


PROMPT = Prompt(id="a", text="a slow piano", key="a")
SETTINGS = settings("--profile", "builtin")
PARTS = Parts(FakeGenerator(), FakeVerifier(), [FakeJudge("far")])  # type: ignore[arg-type]


def identified(prompt: Prompt = PROMPT, parts: Parts = PARTS) -> dict:
    return identity("benchmark", SETTINGS.decisive(), [prompt], checkpoints_of(parts))


def test_other_weights_or_an_edited_prompt_are_another_run() -> None:
    other = FakeGenerator()
    other.checkpoint = Checkpoint(name="fake", sha256="f" * 64)
    first = identified()
    assert first == identified()
    assert first != identified(replace(PROMPT, text="a fast piano"))
    assert first != identified(parts=replace(PARTS, generator=other))  # type: ignore[arg-type]
    assert first != identified(parts=replace(PARTS, judges=[]))


def test_a_device_that_this_machine_has_not_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such(*_: object) -> None:
        raise ValueError("there is no cuda:7")

    monkeypatch.setattr(build, "load_generator", no_such)
    with pytest.raises(UsageError, match="cuda:7"):
        load(SETTINGS)


def test_a_server_is_started_on_the_runs_device_only_where_something_is_asked_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[tuple[list[str], str]] = []

    def server(names: list[str], device: str) -> ExitStack:
        started.append((names, device))
        return ExitStack()

    monkeypatch.setattr(build, "local_server", server)
    monkeypatch.setattr(build, "ServerClient", lambda url, token: SimpleNamespace(url=url))
    with ExitStack() as stack:
        auto = replace(SETTINGS, server="auto", device="cuda:1")
        assert connect(auto, [], stack) is None
        assert started == []
        connect(auto, ["tags", "clap", "tags"], stack)
        assert started == [(["tags", "clap"], "cuda:1")]
        there = connect(SETTINGS, ["tags"], stack)
        assert there is not None
        assert there.url == SETTINGS.server
        assert len(started) == 1
