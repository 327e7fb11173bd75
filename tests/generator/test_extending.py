"""docs/extending.md, carried out: its changes are made in a copy, and its tests run there.

A block of the page begins with the path it belongs to: `python` blocks are whole files; of `diff`
blocks, the lines with a blank and a minus must stand in the file, once, as they are.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "extending.md"
PYTHON = {
    "generator": Path(sys.executable),
    "verifier": ROOT / "envs" / "verifier" / ".venv" / "bin" / "python",
}


def blocks(kind: str) -> list[tuple[str, str]]:
    """(path, text) of the page's blocks of a kind."""
    found = re.findall(rf"^```{kind}\n# (\S+\.py)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert len(found) == PAGE.read_text().count(f"```{kind}\n"), f"a {kind} block without a path"
    return found


def change(file: Path, diff: str) -> None:
    lines = diff.splitlines()
    old = "\n".join(line[1:] for line in lines if line[:1] in {" ", "-"})
    new = "\n".join(line[1:] for line in lines if line[:1] in {" ", "+"})
    text = file.read_text()
    assert text.count(old) == 1, f"{file.name} has no longer, once, what the page changes:\n{old}"
    file.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as it is after the page's changes."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "builtin").symlink_to(ROOT / "builtin")
    for path, text in blocks("python"):
        assert not (folder / path).exists()
        (folder / path).write_text(text)
    for path, text in blocks("diff"):
        change(folder / path, text)
    return folder


def run(copy: Path, python: Path, *arguments: str) -> None:
    done = subprocess.run(
        [str(python), "-m", *arguments],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("environment", PYTHON)
def test_the_examples_pass_their_own_tests(copy: Path, environment: str) -> None:
    folder = f"tests/{environment}/"
    tests = [path for path, _ in blocks("python") if path.startswith(folder)]
    assert tests
    run(copy, PYTHON[environment], "pytest", "-q", *tests)


def test_the_methods_that_there_are_still_find_what_they_should(copy: Path) -> None:
    run(copy, PYTHON["generator"], "pytest", "-q", "-x", "tests/generator/test_search.py")


def test_the_examples_are_written_as_the_repository_is(copy: Path) -> None:
    changed = [path for path, _ in (*blocks("python"), *blocks("diff"))]
    run(copy, PYTHON["generator"], "ruff", "check", *changed)
    run(copy, PYTHON["generator"], "ruff", "format", "--check", *changed)
