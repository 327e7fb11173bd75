"""Every code block of the documents runs, or parses as what it is; output has no language."""

import json
import re
import shlex
import subprocess
from typing import Any

import pytest
from pydantic import TypeAdapter

from src.experiments.calibration import CalibrationSettings
from src.experiments.scaling_settings import ExperimentSettings
from src.experiments.settings import LatencySettings
from src.models.adapter import Adapter
from src.protocol import EmbeddedScore, NoScore, Score, ScoreResponse, VerifierRequest
from src.runs.settings import parse
from src.weights.musicgen import model_parts
from tests.generator.test_guides import DOCUMENTS, EXTENDING, ROOT, blocks, commands

POOL = "results/builtin/pool-builtin-m32-56d9a212"
CHECKED = (  # programs of shell blocks: looked at here or in test_guides.py, but for the last two
    r"seq \d+ \| xargs -P \d+ -I\{\} python \w+\.py .*--shard \{\}/\d+$",
    *("make ", r"\S*python [\w/]+\.py", r"\S*python -m (?:src|pytest)", r"envs/setup\.sh "),
    *(
        r"source envs/\w+/\.venv/bin/activate$",
        "curl ",
        "hf download ",
        "conda ",
        "docker run ",
        "ffmpeg ",
        "ray start ",
    ),
)


def test_every_block_is_of_a_language_that_is_checked() -> None:
    """Diffs and the Python of docs/extending.md are carried out by test_extending.py."""
    text = "\n".join(path.read_text("utf-8") for path in DOCUMENTS)
    opened = re.findall(r"^ *```(\w*)$", text, re.M)[::2]
    assert set(opened) == {"", "bash", "python", "json", "mermaid", "diff"}
    # A block without a language cannot be told from what lies between two others.
    for language in {*opened} - {""}:
        assert opened.count(language) == len(blocks(language)), language


@pytest.mark.parametrize("code", blocks("python", [d for d in DOCUMENTS if d != EXTENDING]))
def test_python_blocks_run(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {"__name__": "block"}
    exec(re.sub(r"results/pool-[\w-]+", POOL, code), names)
    for kind in (k for k in names.values() if isinstance(k, type) and k.__module__ == "block"):
        assert issubclass(kind, Adapter)
        assert "loudness.pt" in str(kind("loudness").missing())


@pytest.mark.parametrize("code", blocks("bash"))
def test_shell_blocks_parse_and_every_command_is_checked(code: str) -> None:
    assert subprocess.run(["bash", "-n"], input=code, text=True).returncode == 0
    if "sbatch" in code:  # of their commands the scripts' own are looked at, in test_guides.py
        return
    for line in code.replace("\\\n", " ").splitlines():
        command = re.sub(r"^(\w+=\S+ )+|\s*(^|  )#.*", "", line)
        assert not command or any(re.match(program, command) for program in CHECKED), line


EXPERIMENTS = {
    "verifier_experiment.py": ExperimentSettings,
    "latency_experiment.py": LatencySettings,
    "-m src.experiments.calibration": CalibrationSettings,
}


@pytest.mark.parametrize("program", EXPERIMENTS)
def test_commands_of_the_experiments_are_right_usage(program: str) -> None:
    found = commands(f"python {re.escape(program)}")
    assert found
    for command in found:
        parse(EXPERIMENTS[program], shlex.split(command.partition(program)[2]))


def test_environments_and_test_files_that_commands_name_are_there() -> None:
    for command in [*commands(r"envs/setup\.sh"), *commands(r"source envs/")]:
        name = command.replace("envs/setup.sh ", "source envs/").split("/")[1]
        assert (ROOT / "envs" / name / "requirements.lock").exists(), command
    for command in commands(r"\S*python -m pytest"):
        assert all((ROOT / w).exists() for w in command.split() if w.startswith("tests/")), command


def test_downloads_by_hand_are_of_the_files_that_the_model_needs() -> None:
    needed: dict[str, set[str]] = {}
    for file in (f for part in model_parts("facebook/musicgen-small") for f in part.files):
        needed.setdefault(file.repository, set()).add(file.name)
    found = [shlex.split(command)[2:] for command in commands("hf download")]
    assert {repository for repository, *_ in found} == set(needed)
    for repository, *names in found:
        assert set(names) == needed[repository]


def test_the_request_and_the_answer_of_the_protocol_are_of_its_form() -> None:
    command, embedding = commands("curl")
    sent, other = (
        VerifierRequest.model_validate_json(word.removeprefix("request="))
        for line in (command, embedding)
        for word in shlex.split(line)
        if word.startswith("request=")
    )
    answer, unscored, embedded = blocks("json")
    result = ScoreResponse.model_validate(json.loads(answer)).results["tags"]
    assert len(sent.prompts) == len(result.scores) == command.count("files=@")
    shown = [*json.loads(unscored)["scores"], *json.loads(embedded)["scores"]]
    scores = TypeAdapter(list[EmbeddedScore | Score | NoScore]).validate_python(shown)
    assert [type(score) for score in scores] == [Score, NoScore, EmbeddedScore]
    assert other.embeddings == other.verifiers == ["tags"]
