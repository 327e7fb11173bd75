"""The server's commands and flags in README and docs/ are those that it has."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
import tyro

from src.judges.registry import JUDGES
from src.protocol import Limits
from src.server.settings import BatchSettings, ServerSettings
from src.verifier_core import VERIFIERS

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")))
TEXT = "\n".join(path.read_text("utf-8") for path in DOCUMENTS)
COMMANDS = re.findall(r"^(?:\w+=\S+ )*\S*python verifier_server\.py.*$", TEXT, re.M)


@pytest.mark.parametrize("command", COMMANDS)
def test_server_commands_parse_and_name_verifiers_and_judges_that_there_are(command: str) -> None:
    arguments = shlex.split(command.split("  #")[0].split("verifier_server.py", 1)[1])
    settings = tyro.cli(ServerSettings, args=arguments, use_underscores=True)
    settings.check()
    assert set(settings.models) <= set(VERIFIERS)
    assert {*(settings.fetch or ())} <= {*VERIFIERS, *JUDGES}


def test_the_documents_start_the_server_and_fetch_weights() -> None:
    assert any("--models" in command for command in COMMANDS)
    assert any("--fetch" in command for command in COMMANDS)


def test_the_table_of_flags_has_the_servers_flags_and_defaults() -> None:
    """A default in italics is no value: it follows from something else."""
    text = (ROOT / "docs" / "server.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `--([\w.]+)` \| ([^|]+) \|", text, re.M))
    fields = {f.name: f.default for f in dataclasses.fields(ServerSettings)}
    del fields["batch"], fields["limits"]
    fields |= {f"batch.{f.name}": f.default for f in dataclasses.fields(BatchSettings)}
    fields |= {f"limits.{name}": f.default for name, f in Limits.model_fields.items()}
    assert sorted(rows) == sorted(fields)
    for name, shown in rows.items():
        default = fields[name]
        if shown.startswith("*"):
            assert default in (None, ()), name
        else:
            text = f"{default:.12g}" if isinstance(default, float) else str(default)
            assert shown.strip("`") == text, name
