"""What a run is made of: its parts, and the identity after which its folder is named."""

from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace

import pytest

from src.data.prompts import Prompt
from src.experiments.settings import BenchmarkSettings
from src.protocol import Checkpoint
from src.runs import build
from src.runs.build import Parts, checkpoints_of, connect, identity, load
from src.runs.settings import UsageError, parse
from tests.generator.fake_judges import FakeJudge
from tests.generator.fake_search import FakeGenerator, FakeVerifier

PROMPT = Prompt(id="a", text="a slow piano", key="a")
SETTINGS = parse(BenchmarkSettings, ("--profile", "builtin"), prog="benchmark.py")
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


def test_a_server_is_started_only_where_something_is_asked_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[list[str]] = []

    def server(names: list[str]) -> ExitStack:
        started.append(names)
        return ExitStack()

    monkeypatch.setattr(build, "local_server", server)
    monkeypatch.setattr(build, "ServerClient", lambda url, token: SimpleNamespace(url=url))
    with ExitStack() as stack:
        auto = replace(SETTINGS, server="auto")
        assert connect(auto, [], stack) is None
        assert started == []
        connect(auto, ["tags", "clap", "tags"], stack)
        assert started == [["tags", "clap"]]
        there = connect(SETTINGS, ["tags"], stack)
        assert there is not None
        assert there.url == SETTINGS.server
        assert len(started) == 1
