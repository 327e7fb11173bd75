"""Advice can be taken: the flags, scripts and make targets that messages name are there."""

import ast
import dataclasses
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from src.data.downloads.settings import DownloadSettings
from src.experiments import critic, doctor
from src.experiments.calibration import CalibrationSettings
from src.experiments.scaling_settings import ExperimentSettings
from src.experiments.settings import BenchmarkSettings, LatencySettings
from src.protocol import Limits
from src.reports import __main__ as reports
from src.reports import comparison, plan
from src.reports.listening import __main__ as listening
from src.runs import compact
from src.server.settings import BatchSettings, ServerSettings

ROOT = Path(__file__).resolve().parents[2]
MODULES = [*ROOT.glob("*.py"), *(ROOT / "src").rglob("*.py")]


def names(*kinds: type) -> set[str]:
    return {f"--{field.name}" for kind in kinds for field in dataclasses.fields(kind)}


def flags_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9_.-]*[a-z0-9]", text))


def help_of(main: Callable[[list[str]], object]) -> str:
    with redirect_stdout(StringIO()) as shown, pytest.raises(SystemExit):
        main(["--help"])
    return shown.getvalue()


RUNS = names(BenchmarkSettings, ExperimentSettings, LatencySettings, CalibrationSettings)
RUNS |= {"--samples", "--continue", "--no_graphs", *flags_in(help_of(reports.main))}
DOWNLOADS = names(DownloadSettings)
SERVER = names(ServerSettings)
SERVER |= {f"--batch.{f.name}" for f in dataclasses.fields(BatchSettings)}
SERVER |= {f"--limits.{name}" for name in Limits.model_fields}
# Whose flags the messages of a module can name, by the beginning of its path; else a run's.
SPEAKERS = {
    "src/reports/listening/": flags_in(help_of(listening.main)) | RUNS,
    "download_data.py": DOWNLOADS,
    "verifier_server.py": SERVER,
    "src/data/downloads/": DOWNLOADS,
    "src/server/": SERVER,
    "src/experiments/critic.py": flags_in(help_of(critic.main)) | RUNS,
    "src/runs/critic.py": flags_in(help_of(critic.main)) | RUNS,
    "src/runs/compact.py": flags_in(help_of(compact.main)),
    "src/runs/fetch.py": SERVER,
    "src/runs/local_server.py": SERVER,
    "src/weights/": RUNS | SERVER,
    "src/models/": RUNS | SERVER,
    "src/experiments/doctor.py": flags_in(help_of(doctor.main)),
    "src/reports/comparison.py": flags_in(help_of(comparison.main)),
    "src/reports/plan": flags_in(help_of(plan.main)) | RUNS,
}
# What names another program: git's, yt-dlp's, the server's that a run asks for, the set-up's.
OTHERS = {"--porcelain", "--cookies-from-browser", "--name", "--help", "--extra"}
COMMANDS = {f"python {path.name}" for path in ROOT.glob("*.py")}
COMMANDS |= {
    f"python -m {'.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__main__')}"
    for path in MODULES
}
COMMANDS |= {
    f"make {target}" for target in re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
}
ON_THE_SERVER = re.compile(r"Start it with --models|verifier_server\.py .*--")


def messages(module: Path) -> Iterator[str]:
    """The text literals of a module; what an f-string fills in is {}."""
    tree = ast.parse(module.read_text("utf-8"))
    parts: set[ast.expr] = set()
    for node in ast.walk(tree):  # an f-string comes before its parts
        if isinstance(node, ast.JoinedStr):
            parts |= set(node.values)
            filled = (v.value if isinstance(v, ast.Constant) else "{}" for v in node.values)
            yield "".join(map(str, filled))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in parts:
            yield node.value


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_messages_name_flags_and_commands_that_are_there(module: Path) -> None:
    path = module.relative_to(ROOT).as_posix()
    own = next((known for start, known in SPEAKERS.items() if path.startswith(start)), RUNS)
    for text in messages(module):
        known = OTHERS | own | (SERVER if ON_THE_SERVER.search(text) else set())
        assert flags_in(text) <= known, text
        for command in re.findall(r"python (?:-m )?[\w.]+|^make [\w-]+$", text):
            assert command in COMMANDS, text
