"""The commands of the guides in docs/: the scripts take them as they stand there."""

import re
import shlex
from pathlib import Path

import pytest

from src.data.downloads import settings as download_settings
from src.runs.settings import BenchmarkSettings, parse

DOCS = Path(__file__).resolve().parents[2] / "docs"
GUIDES = ("musiccaps.md", "published.md")


def commands(script: str) -> list[list[str]]:
    """The arguments of each command of the guides that runs a script."""
    text = "\n".join((DOCS / name).read_text("utf-8") for name in GUIDES)
    blocks = "".join(re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S))
    found = re.findall(rf"{re.escape(script)}(.*)$", blocks, re.M)
    assert found, f"no guide runs {script}"
    return [shlex.split(line, comments=True) for line in found]


@pytest.mark.parametrize("arguments", commands("benchmark.py"))
def test_benchmark_takes_the_guides_commands(arguments: list[str]) -> None:
    settings = parse(BenchmarkSettings, arguments)
    assert settings.profile == "paper"
    assert settings.referenced


@pytest.mark.parametrize("arguments", commands("download_data.py"))
def test_the_downloader_takes_the_guides_commands(arguments: list[str]) -> None:
    download_settings.parse(arguments)
