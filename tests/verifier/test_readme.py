"""The server's command lines in README.md are ones that it takes."""

import re
import shlex
from pathlib import Path

import pytest
import tyro

from src.server.settings import ServerSettings
from src.verifier_core import VERIFIERS

README = Path(__file__).resolve().parents[2] / "README.md"
COMMANDS = re.findall(
    r"^(?:\w+=\S+ )?\S*python verifier_server\.py.*$", README.read_text("utf-8"), re.M
)


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_server_commands_parse_and_name_verifiers_that_there_are(command: str) -> None:
    arguments = shlex.split(command.split("  #")[0].split("verifier_server.py", 1)[1])
    settings = tyro.cli(ServerSettings, args=arguments, use_underscores=True)
    settings.check()
    assert {*settings.models, *(settings.fetch or ())} <= set(VERIFIERS)


def test_the_readme_starts_the_server() -> None:
    assert len(COMMANDS) >= 2
