"""The commands that write a run's tables, figures or page anew."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from src.runs.ending import Exit
from src.runs.records import RunFolderError


def again(module: str, what: str, write: Callable[[Path], str]) -> int:
    """Read a run's folder from the command line and print what `write` returns. The exit code."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=f"{what} From the run's records alone."
    )
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="such as results/benchmark-..")
    folder = parser.parse_args().run
    try:
        sys.stdout.write(f"{write(folder)}\n")
    except RunFolderError as error:
        sys.stderr.write(f"{module}: {error}\n")
        return Exit.FOLDER
    return Exit.DONE
