"""How scripts end: an exit code and a message for what may go wrong, a traceback for a defect."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from src.budget import BudgetError
from src.connection import ServerError, ServerUnreachable
from src.decoding.transformer import UnsupportedModel
from src.generator import GeneratorError
from src.runs.ending import Ending, Exit, ending
from src.runs.records import RunFolderError
from src.runs.settings import UsageError
from src.scoring import VerifierError
from src.verifier import CalibrationError
from src.weights.files import WeightsError

ROOT = Path(__file__).parents[2]


def fail(end: Ending, error: BaseException, kept: str | None = None) -> None:
    if kept is not None:
        end.kept = lambda: kept
    raise error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("--n"), 2),
        (UnsupportedModel("its norm"), 2),
        (torch.cuda.OutOfMemoryError("--max_rows"), 2),
        (GeneratorError("no weights"), 3),
        (CalibrationError("no constants"), 3),
        (WeightsError("damaged"), 3),
        (VerifierError("no number"), 4),
        (ServerError("other weights"), 4),
        (ServerUnreachable("it is gone"), 4),
        (RunFolderError("in use"), 5),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
@pytest.mark.parametrize("kept", [None, "3 of 9 are kept in here"])
def test_what_ends_a_run_becomes_a_message_and_an_exit_code(
    error: BaseException, code: int, kept: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, ending("benchmark.py") as end:
        fail(end, error, kept)
    assert ended.value.code == Exit(code)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"benchmark.py: {str(error) or 'interrupted'}"
    assert said[1:] == ([f"{kept}; the same command goes on from there."] if kept else [])


@pytest.mark.parametrize("defect", [BudgetError("spent 9"), ValueError("x"), AssertionError()])
def test_a_defect_keeps_its_traceback(
    defect: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(type(defect)), ending("benchmark.py"):
        raise defect
    assert capsys.readouterr().err == ""


def test_what_ends_well_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with ending("benchmark.py") as end:
        end.kept = lambda: "all of it"
    assert "".join(capsys.readouterr()) == ""


def test_torch_is_not_imported_for_an_ending() -> None:
    code = (
        "import sys\n"
        "from src.runs.ending import ending\n"
        "try:\n"
        "    with ending('benchmark.py'):\n"
        "        raise KeyboardInterrupt\n"
        "except SystemExit as ended:\n"
        "    sys.exit(9 if 'torch' in sys.modules else ended.code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (Exit.INTERRUPTED, "benchmark.py: interrupted\n")
