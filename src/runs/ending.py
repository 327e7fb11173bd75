"""How a script ends: an exit code, and for what went wrong a message instead of a traceback.
In the wrong environment it ends at once, so only the standard library is imported at the top.

    with ending("benchmark.py") as end:
        run = ...
        end.kept = lambda: f"12 of 64 clips are kept in {run.folder}"

Whatever is raised inside and is listed here becomes a message on stderr and a SystemExit; a defect
keeps its traceback. Torch is not imported for it.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from src.data.files import ROOT

GENERATOR_PACKAGES = ("torch", "audiocraft", "tyro", "soundfile", "requests", "matplotlib")


class Exit(IntEnum):
    """Exit codes of every script."""

    DONE = 0
    PROMPTS_FAILED = 1  # some; the same command takes them up again
    USAGE = 2
    MISSING = 3  # and listed
    SERVER = 4  # the verifier server was lost; the same command resumes
    FOLDER = 5  # the run's folder is in use or damaged
    INTERRUPTED = 130


def check_environment(
    name: str = "generator", packages: Sequence[str] = GENERATOR_PACKAGES
) -> None:
    """Exit 3, saying what to run or to activate, when this Python lacks an environment's
    packages."""
    lacks = [package for package in packages if importlib.util.find_spec(package) is None]
    if not lacks:
        return
    python, script = f"envs/{name}/.venv/bin/python", Path(sys.argv[0]).name
    build = "" if (ROOT / python).exists() else f"It is not built yet: envs/setup.sh {name}\n"
    sys.stderr.write(
        f"{script} runs in the {name} environment. {sys.executable} lacks {', '.join(lacks)}.\n"
        f"{build}Run it as   {python} {script} ..\n"
        f"or first    source envs/{name}/.venv/bin/activate\n"
    )
    raise SystemExit(Exit.MISSING)


@dataclass
class Ending:
    """kept: what is there already when a run is cut short, as a sentence; None: nothing is."""

    kept: Callable[[], str] | None = None


@contextmanager
def ending(script: str) -> Iterator[Ending]:
    """Turn the errors that end a run into messages and exit codes (SystemExit)."""
    end = Ending()
    try:
        yield end
    except SystemExit:
        raise
    except tuple(ends := _ends()) as error:
        code = next(code for kind, code in ends.items() if isinstance(error, kind))
        sys.stderr.write(f"{script}: {str(error) or 'interrupted'}\n")
        if end.kept is not None:
            sys.stderr.write(f"{end.kept()}; the same command goes on from there.\n")
        raise SystemExit(code) from error


def _ends() -> dict[type[BaseException], Exit]:
    from src.client import VerifierError
    from src.runs.records import RunFolderError
    from src.runs.settings import UsageError
    from src.verifier import CalibrationError
    from src.weights.files import WeightsError

    ends: dict[type[BaseException], Exit] = {
        UsageError: Exit.USAGE,
        CalibrationError: Exit.MISSING,
        WeightsError: Exit.MISSING,
        VerifierError: Exit.SERVER,
        RunFolderError: Exit.FOLDER,
        KeyboardInterrupt: Exit.INTERRUPTED,
    }
    if "torch" in sys.modules:  # else none of these can have been raised
        import torch

        from src.decoding.device import OutOfMemory
        from src.decoding.transformer import UnsupportedModel
        from src.generator import GeneratorError

        ends |= {
            UnsupportedModel: Exit.USAGE,
            OutOfMemory: Exit.USAGE,
            torch.cuda.OutOfMemoryError: Exit.USAGE,
            GeneratorError: Exit.MISSING,
        }
    return ends
