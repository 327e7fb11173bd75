"""What the command lines of reports have in common."""

import argparse
import sys
from collections.abc import Callable

from src.data.audio import AudioError
from src.data.files import WriteError
from src.data.prompts import PromptError
from src.runs.ending import Exit, say
from src.runs.pool import PoolError
from src.runs.records import RunFolderError
from src.stats.intervals import StatsError


def parser_of(module: str, description: str | None) -> argparse.ArgumentParser:
    """description: the module's text, as it is."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def printed(report: Callable[[], str]) -> Exit:
    """Print a report's text, or what keeps it from being made."""
    try:
        say(report())
    except PromptError as error:
        sys.stderr.write(f"{error}\n")
        return Exit.USAGE
    except (RunFolderError, PoolError, StatsError, AudioError, WriteError) as error:
        sys.stderr.write(f"{error}\n")
        return Exit.FOLDER
    return Exit.DONE
