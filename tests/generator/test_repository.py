"""What the repository says about itself holds: locks, the set-up, README's commands and flags."""

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src.experiments.scaling_preflight import needs_of
from src.runs import preflight
from src.runs.settings import BenchmarkSettings, parse

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ("generator", "verifier", "downloader", "training")

# Stands in for uv: environments are a link to this Python, and each call leaves a line in a log.
FAKE_UV = f"""#!/usr/bin/env bash
[[ $1 == --version ]] && exit
[[ $1 == python ]] && exit 1
echo "$*" >>"$UV_LOG"
[[ $1 == venv ]] && mkdir -p "${{@: -1}}/bin" && ln -s "{sys.executable}" "${{@: -1}}/bin/python"
[[ $1 == pip ]] && sleep "${{UV_SLEEP:-0}}" && exit "${{UV_FAILS:-0}}"
exit 0
"""


class Checkout:
    """A folder with envs/setup.sh, one environment named tiny, and a fake uv and python3.11."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin, self.log = folder, folder / "bin", folder / "uv.log"
        (folder / "envs" / "tiny").mkdir(parents=True)
        self.bin.mkdir()
        shutil.copy(ROOT / "envs" / "setup.sh", folder / "envs")
        self.lock = folder / "envs" / "tiny" / "requirements.lock"
        self.lock.write_text("tiny==1.0\n")
        (self.bin / "uv").write_text(FAKE_UV)
        (self.bin / "uv").chmod(0o755)
        (self.bin / "python3.11").symlink_to(sys.executable)

    def start(self, *names: str, **extra: str) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("UV_")}
        environment |= {"PATH": f"{self.bin}:/usr/bin:/bin", "UV_LOG": str(self.log), **extra}
        return subprocess.Popen(
            [str(self.folder / "envs" / "setup.sh"), *(names or ("tiny",))],
            cwd="/",
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def setup(self, *names: str, **extra: str) -> tuple[int, str]:
        process = self.start(*names, **extra)
        output, _ = process.communicate(timeout=30)
        return process.returncode, output

    def installs(self) -> int:
        return sum(line.startswith("pip") for line in self.log.read_text().splitlines())


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "a folder with spaces")


def test_setup_builds_once_and_then_does_nothing(checkout: Checkout) -> None:
    code, output = checkout.setup()
    assert code == 0, output
    assert checkout.installs() == 1
    assert checkout.setup() == (0, "setup: tiny: up to date\n")
    assert checkout.installs() == 1


def test_setup_follows_a_changed_lock(checkout: Checkout) -> None:
    checkout.setup()
    checkout.lock.write_text("tiny==2.0\n")
    code, output = checkout.setup()
    assert code == 0
    assert "the lock has changed" in output
    assert checkout.installs() == 2
    assert "up to date" in checkout.setup()[1]


def test_setup_starts_again_after_a_failed_build(checkout: Checkout) -> None:
    code, output = checkout.setup(UV_FAILS="1")
    assert code == 1
    assert "run it again" in output
    assert checkout.setup()[0] == 0
    assert checkout.installs() == 2


def test_setup_starts_again_after_a_kill(checkout: Checkout) -> None:
    process = checkout.start(UV_SLEEP="0.3")
    while not checkout.log.exists() or checkout.installs() == 0:
        assert process.poll() is None
    process.kill()
    process.wait()
    assert checkout.setup()[0] == 0
    assert checkout.installs() == 2


def test_two_setups_at_once_install_once(checkout: Checkout) -> None:
    both = [checkout.start(UV_SLEEP="0.3") for _ in range(2)]
    outputs = [process.communicate(timeout=30)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert checkout.installs() == 1
    assert any("waiting" in output for output in outputs)


def test_setup_without_python_311_says_how_to_get_it(checkout: Checkout) -> None:
    (checkout.bin / "python3.11").unlink()
    for name in ("python3.11", "python3", "python"):
        (checkout.bin / name).write_text("#!/bin/sh\nexit 1\n")
        (checkout.bin / name).chmod(0o755)
    code, output = checkout.setup()
    assert code == 1
    assert "Python 3.11 was not found" in output
    assert "conda create" in output


def test_setup_of_an_unknown_environment_names_those_there_are(checkout: Checkout) -> None:
    code, output = checkout.setup("nothing")
    assert code == 1
    assert "there is no environment 'nothing'; there are: tiny" in output


def test_another_torch_leaves_the_cuda_libraries_out(checkout: Checkout) -> None:
    checkout.lock.write_text("nvidia-nccl-cu12==2.18.1\ntorch==2.1.0\ntriton==2.1.0\n")
    assert checkout.setup(UV_TORCH_BACKEND="cpu")[0] == 0
    assert (checkout.lock.parent / ".venv" / "lock.txt").read_text() == "torch==2.1.0\n"


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_locks_name_versions_and_no_index(name: str) -> None:
    lines = (ROOT / "envs" / name / "requirements.lock").read_text().splitlines()
    pins = [line for line in lines if not line.lstrip().startswith("#")]
    odd = [line for line in pins if not re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*", line)]
    assert pins
    assert odd == []
    assert not any("://" in line for line in lines)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_locks_hold_what_the_requirements_ask_for(name: str) -> None:
    folder = ROOT / "envs" / name
    locked = dict(
        line.split("==")
        for line in (folder / "requirements.lock").read_text().splitlines()
        if not line.lstrip().startswith("#")
    )
    for line in (folder / "requirements.in").read_text().splitlines():
        requirement = line.split("#")[0].strip()
        if not requirement:
            continue
        package, _, version = requirement.partition("==")
        package = re.split(r"[<>=]", package)[0].lower().replace("_", "-")
        assert package in locked, f"make lock: {package} is not in the lock"
        assert version in ("", locked[package]), f"make lock: {package}"


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_tracked_files_name_no_path_of_a_machine() -> None:
    personal = re.compile(rb"(?<![\w.])/(?:root|work|home/\w+|Users/\w+)/")
    found = [
        f"{path.relative_to(ROOT)}: {match[0].decode()}"
        for path in tracked_files()
        if path != Path(__file__)
        and b"\0" not in (data := path.read_bytes())
        and (match := personal.search(data))
    ]
    assert found == []


def readme_commands(program: str) -> list[str]:
    """The command lines in README's shell blocks that run `program`, continuations joined."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:bash|sh|shell)\n(.*?)^```", text, re.M | re.S)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line.split("  #")[0].strip() for line in lines if re.search(program, line)]


def test_every_make_target_in_the_readme_is_there() -> None:
    targets = {word for line in readme_commands(r"^make ") for word in shlex.split(line)[1:]}
    known = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M))
    assert targets
    assert {t for t in targets if "=" not in t} <= known


BENCHMARKS = readme_commands(r"^python benchmark.py")


@pytest.mark.parametrize("command", BENCHMARKS)
def test_readme_benchmarks_get_to_the_preflight_and_the_builtin_ones_lack_nothing(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    arguments = [*shlex.split(command)[2:], "--output", str(tmp_path)]
    if arguments == ["--help", "--output", str(tmp_path)]:
        return
    settings = parse(BenchmarkSettings, arguments)
    ready = preflight.look(needs_of(settings))
    if settings.profile == "builtin":
        assert [item.what for item in ready.missing] == []
        assert ready.prompts


def test_the_readme_has_benchmarks_of_every_method_and_kind_of_prompt() -> None:
    assert len(BENCHMARKS) >= 6
    for word in ("baseline", "best_of_n", "sbs", "lookahead", ".csv", "facebook/", "*tags+"):
        assert any(word in command for command in BENCHMARKS), word


def test_the_readmes_flags_are_the_scripts_flags() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `--(\w+)`(?:, `--\w+`)* \| (\S+) \|", text, re.M)
    fields = {f.name: f.default for f in dataclasses.fields(BenchmarkSettings)}
    assert sorted(name for name, _ in rows) == sorted(fields)
    for name, shown in rows:
        default = fields[name]
        if shown.startswith("*"):
            assert default is None, name
        else:
            first = default[0] if isinstance(default, tuple) else default
            expected = f"{first:g}" if isinstance(first, float) else str(first)
            assert shown.strip("`") == expected, name


def test_the_readmes_exit_codes_are_the_scripts() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = [int(code) for code in re.findall(r"^\| (\d+) \| ", text, re.M)]
    shown = [code for code in shown if code < 400]  # from there on they are HTTP's
    assert shown == [int(code) for code in preflight.Exit]


@pytest.mark.parametrize("command", readme_commands(r"^python (?:-m src|perf/|\w+_experiment)"))
def test_the_readmes_other_commands_name_flags_that_are_there(command: str) -> None:
    words = shlex.split(command)
    program = words[1:3] if words[1] == "-m" else words[1:2]
    shown = subprocess.run(
        [sys.executable, *program, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    for flag in (word for word in words if word.startswith("--")):
        assert flag in shown.stdout


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text("utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
