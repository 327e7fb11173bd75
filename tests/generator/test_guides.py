"""README, CONTRIBUTING and docs/ agree with the code: commands, flags, exit codes, links."""

import dataclasses
import functools
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tyro

from src.cluster.settings import ClusterSettings
from src.data.downloads import settings as download_settings
from src.experiments.calibration import CalibrationSettings
from src.experiments.scaling_settings import ExperimentSettings
from src.experiments.settings import BenchmarkSettings, LatencySettings
from src.judges.registry import JUDGES
from src.methods import METHODS
from src.protocol import Limits
from src.runs import preflight
from src.runs.ending import Exit
from src.runs.settings import Settings, parse
from src.server.settings import BatchSettings, ServerSettings
from src.verifier_core import VERIFIERS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
DOCUMENTS = (*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md")))
GUIDES = (DOCS / "musiccaps.md", DOCS / "published.md")  # of the paper profile
EXTENDING = DOCS / "extending.md"  # its commands need what it adds; test_extending.py runs them


def blocks(language: str, documents: Sequence[Path] = DOCUMENTS) -> list[str]:
    """The code of the documents' blocks in this language, without their indentation."""
    text = "\n".join(path.read_text("utf-8") for path in documents)
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", text, re.M | re.S)
    return [textwrap.dedent(code) for _, code in found]


def commands(program: str, documents: tuple[Path, ...] = DOCUMENTS) -> list[str]:
    """The command lines of the documents' shell blocks that begin with `program`, without their
    comments, each once."""
    code = "\n".join(blocks("bash", [path for path in documents if path != EXTENDING]))
    lines = [line.split("  #")[0].strip() for line in code.replace("\\\n", " ").splitlines()]
    return list(dict.fromkeys(line for line in lines if re.match(program, line)))


BENCHMARKS = commands(r"python benchmark\.py")


def test_every_make_target_in_the_documents_is_there() -> None:
    lines = commands(r"(?:\w+=\S+ )*make ")
    named = {line.split("make ", 1)[1].split()[0] for line in lines}
    assert {"demo", "test", "setup", "lint", "results"} <= named
    assert named <= set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("command", BENCHMARKS)
def test_benchmarks_get_to_the_preflight_and_the_builtin_ones_lack_nothing(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    settings = parse(BenchmarkSettings, [*shlex.split(command)[2:], "--output", str(tmp_path)])
    verifier = settings.verifier
    ready = preflight.look(settings, (verifier,), settings.judges, selector=verifier)
    if settings.profile == "builtin":
        assert [item.what for item in ready.missing] == []
        assert ready.prompts


@pytest.mark.parametrize("command", commands(r"python benchmark\.py", GUIDES))
def test_the_guides_to_musiccaps_run_the_paper_profile_on_referenced_prompts(command: str) -> None:
    settings = parse(BenchmarkSettings, shlex.split(command)[2:])
    assert settings.profile == "paper"
    assert settings.referenced


PARTS = commands(r"(?:srun|seq \d+ \|) .*--shard")


@pytest.mark.parametrize("command", PARTS)
def test_commands_of_parts_parse_as_a_scheduler_fills_them_in(command: str) -> None:
    values = {"${SLURM_ARRAY_TASK_ID}": "1", "${SLURM_ARRAY_TASK_COUNT}": "8", "{}": "1"}
    values["$(cat server.url)"] = "http://10.0.0.5:8000"
    for name, value in values.items():
        command = command.replace(name, value)
    script, *arguments = shlex.split(command.split("python ")[1])
    kind = {"benchmark.py": BenchmarkSettings, "verifier_experiment.py": ExperimentSettings}[script]
    assert parse(kind, arguments).part is not None


@pytest.mark.parametrize("command", commands(r"\S*python download_data\.py"))
def test_the_downloader_takes_the_documents_commands(command: str) -> None:
    download_settings.parse(shlex.split(command)[2:])


SERVERS = commands(r"(?:\w+=\S+ )*\S*python verifier_server\.py")


@pytest.mark.parametrize("command", SERVERS)
def test_server_commands_parse_and_name_verifiers_and_judges_that_there_are(command: str) -> None:
    arguments = shlex.split(command.split("verifier_server.py", 1)[1])
    settings = tyro.cli(ServerSettings, args=arguments, use_underscores=True)
    settings.check()
    assert set(settings.models) <= set(VERIFIERS)
    assert {*(settings.fetch or ())} <= {*VERIFIERS, *JUDGES}


def test_there_are_commands_of_every_method_and_kind_of_prompt_and_for_the_server() -> None:
    for word in (*METHODS, ".csv", "facebook/", "*tags+"):
        assert any(word in command for command in BENCHMARKS), word
    for flag in ("--models", "--fetch"):
        assert any(flag in command for command in SERVERS), flag


@functools.cache
def help_of(*program: str) -> str:
    shown = subprocess.run(
        [sys.executable, *program, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


@pytest.mark.parametrize("command", commands(r"python (?:-m src|perf/|\w+_experiment)"))
def test_the_other_commands_name_flags_that_are_there(command: str) -> None:
    words = shlex.split(command)
    shown = help_of(*(words[1:3] if words[1] == "-m" else words[1:2]))
    for flag in (word for word in words if word.startswith("--")):
        assert flag in shown, flag


def section(heading: str) -> str:
    """A section of docs/usage.md, down to the next heading of its level."""
    text = (DOCS / "usage.md").read_text("utf-8")
    return text.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def defaults(kind: type) -> dict[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(kind)}


def flags(text: str) -> dict[str, str]:
    """A table's flags, with their defaults as they stand there."""
    return dict(re.findall(r"^\| `--([\w.]+)`(?:, `--\w+`)* \| ([^|]+) \|", text, re.M))


def expect_default(name: str, shown: str, default: Any) -> None:
    """A default in italics is no value: it follows from something else."""
    if shown.startswith("*"):
        assert default in (None, (), tuple(METHODS)), name
        return
    values = default if isinstance(default, tuple) else (default,)
    texts = (f"{v:.12g}" if isinstance(v, float) else str(v) for v in values)
    assert shown.strip("`") == " ".join(texts), name


COMMON, SHARED = defaults(Settings), defaults(ClusterSettings)  # of every script, and of most


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("Flags that every script shares", Settings),
        ("Flags for more than one machine", ClusterSettings),
        ("benchmark.py", BenchmarkSettings),
        ("verifier_experiment.py", ExperimentSettings),
        ("latency_experiment.py", LatencySettings),
        ("Calibration", CalibrationSettings),
    ],
)
def test_tables_of_flags_have_the_scripts_flags_and_defaults(
    heading: str, kind: type[Settings]
) -> None:
    """Another default of a shared flag stands below the table."""
    text = section(heading)
    rows = flags(text)
    shared = SHARED if issubclass(kind, ClusterSettings) and kind is not ClusterSettings else COMMON
    own = {name for name in defaults(kind) if kind is Settings or name not in shared}
    assert sorted(rows) == sorted(own)
    for name, shown in rows.items():
        expect_default(name, shown, defaults(kind)[name])
    for name, default in defaults(kind).items():
        if SHARED.get(name, default) != default:
            assert f"`--{name} {default}`" in text, name


def test_the_servers_table_has_its_flags_and_defaults() -> None:
    own = defaults(ServerSettings)
    del own["batch"], own["limits"]
    own |= {f"batch.{name}": default for name, default in defaults(BatchSettings).items()}
    own |= {f"limits.{name}": field.default for name, field in Limits.model_fields.items()}
    rows = flags((DOCS / "server.md").read_text("utf-8"))
    assert sorted(rows) == sorted(own)
    for name, shown in rows.items():
        expect_default(name, shown, own[name])


def test_the_exit_codes_are_the_scripts() -> None:
    shown = re.findall(r"^\| (\d+) \| ", section("Exit codes"), re.M)
    assert [int(code) for code in shown] == list(Exit)


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?://)([^)]+)\)", document.read_text("utf-8")):
            file, _, anchor = target.partition("#")
            path = document.parent / file if file else document
            assert path.exists(), f"{document.name}: {target}"
            if anchor:
                assert anchor in anchors(path), f"{document.name}: {target}"


def anchors(document: Path) -> set[str]:
    """What a link may name behind `#`: the headings, as GitHub makes them into ids."""
    headings = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_index_of_docs() -> None:
    index = (DOCS / "README.md").read_text("utf-8")
    pages = {path.name for path in DOCS.glob("*.md")} - {"README.md"}
    assert {name for name in pages if f"]({name})" not in index} == set()


def test_the_readme_has_at_most_260_lines() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 260
