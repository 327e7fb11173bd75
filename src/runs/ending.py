"""How a script ends: an exit code, and for what went wrong a message instead of a traceback.
In the wrong environment it ends at once, so only the standard library is imported at the top.

    with ending("benchmark.py") as end:
        run = ...
        end.kept = lambda: f"12 of 64 clips are kept in {run.folder}"
        say(report)

Whatever is raised inside and is listed here becomes a message on stderr and a SystemExit; a defect
keeps its traceback. Torch is not imported for it.
"""

import errno
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from src.data.files import ROOT, WriteError, writing

GENERATOR_PACKAGES = ("torch", "audiocraft", "tyro", "soundfile", "requests", "matplotlib")


class Exit(IntEnum):
    """Exit codes of every script."""

    DONE = 0
    PROMPTS_FAILED = 1  # some; the same command takes them up again
    USAGE = 2
    MISSING = 3  # and listed
    SERVER = 4  # the verifier server was lost; the same command resumes
    FOLDER = 5  # the run's folder is in use, is damaged or cannot be written
    INTERRUPTED = 130


def check_environment(
    name: str = "generator", packages: Sequence[str] = GENERATOR_PACKAGES
) -> None:
    """Exit 3, saying what to run or to activate, when this Python lacks an environment's
    packages."""
    lacks = [package for package in packages if importlib.util.find_spec(package) is None]
    if not lacks:
        return
    python, place = f"envs/{name}/.venv/bin/python", Path(sys.argv[0])
    script = place.name
    if place.is_relative_to(ROOT / "src"):
        script = f"-m {'.'.join(place.relative_to(ROOT).with_suffix('').parts)}"
    build = "" if (ROOT / python).exists() else f"It is not built yet: envs/setup.sh {name}\n"
    sys.stderr.write(
        f"{script} runs in the {name} environment. {sys.executable} lacks {', '.join(lacks)}.\n"
        f"{build}Run it as   {python} {script} ..\n"
        f"or first    source envs/{name}/.venv/bin/activate\n"
    )
    raise SystemExit(Exit.MISSING)


# A disk that is full, read-only or broken, a quota, a file that may not grow. They end a run in the
# same way where it is no file of its own: a library's scratch file, a log.
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


def say(text: str) -> None:
    """Print a script's result. Raises WriteError where stdout cannot be written."""
    try:
        with writing(Path("stdout")):
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()
    except WriteError:
        # Python tries again when it ends, and would end with a code of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


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
    except BaseException as error:
        code = _code_of(error)
        if code is None:
            raise
        with suppress(OSError):  # its file may lie on the disk that is full
            sys.stderr.write(f"{script}: {str(error) or 'interrupted'}\n")
            if end.kept is not None:
                sys.stderr.write(f"{end.kept()}; the same command goes on from there.\n")
        raise SystemExit(code) from error


def _code_of(error: BaseException) -> Exit | None:
    """None for a defect."""
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return Exit.FOLDER
    from src.budget import PlanError
    from src.runs.records import RunFolderError
    from src.runs.settings import UsageError
    from src.scoring import VerifierError
    from src.verifier import CalibrationError
    from src.weights.files import WeightsError

    ends: dict[type[BaseException], Exit] = {
        UsageError: Exit.USAGE,
        PlanError: Exit.USAGE,
        CalibrationError: Exit.MISSING,
        WeightsError: Exit.MISSING,
        VerifierError: Exit.SERVER,
        RunFolderError: Exit.FOLDER,
        WriteError: Exit.FOLDER,
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
    return next((code for kind, code in ends.items() if isinstance(error, kind)), None)
