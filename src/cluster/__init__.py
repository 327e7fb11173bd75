"""Runs on a Ray cluster. Ray is an extra (`make setup-ray`): call `require_ray` before anything
else of this package is imported.

All machines work in one checkout, on a file system that they share; actors run in the environment
of their kind, named by its Python.
"""

import importlib.util
import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from src.data.files import ROOT
from src.runs.settings import UsageError

HOW = "make setup-ray (or: envs/setup.sh generator verifier --extra ray)"
# Of a run's process, where actors must find what it finds. Tokens are not told.
PASSED_ON = (
    "(CURATOR|HF|HUGGINGFACE|TRANSFORMERS|AUDIOCRAFT)_(?!.*TOKEN).*|TORCH_HOME|XDG_CACHE_HOME"
)


def require_ray(pythons: Sequence[Path] = ()) -> None:
    """Make Ray ready to be imported. pythons: of other environments, whose actors are needed.

    Raises UsageError where Ray is missing, or is of another version in one of them.
    """
    if importlib.util.find_spec("ray") is None:
        raise UsageError(f"Ray is not installed; get it with {HOW}")
    ours = version("ray")
    code = "from importlib.metadata import version; print(version('ray'))"
    for python in pythons:
        if not python.exists():
            raise UsageError(f"{python} is not there; build its environment with {HOW}")
        done = subprocess.run([str(python), "-c", code], capture_output=True, text=True)
        if (theirs := done.stdout.strip()) != ours:
            raise UsageError(
                f"{python} has {f'Ray {theirs}' if theirs else 'no Ray'}, this environment Ray "
                f"{ours}; bring both to one version with {HOW}"
            )
    # Ray reads these when it is imported. Under `uv run` it would put uv in place of an actor's
    # Python; and it would tell its makers of each cluster.
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def runtime_env(python: Path) -> dict[str, Any]:
    """Ray's `runtime_env` of an actor that runs this Python in this checkout, without a network."""
    passed = {k: v for k, v in os.environ.items() if re.fullmatch(PASSED_ON, k)}
    ours = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    ours["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    return {"py_executable": shlex.quote(str(python)), "env_vars": passed | ours}  # bash reads it


def reason_of(error: BaseException) -> str:
    """Why an actor was lost, in Ray's words: the last line of its message, without its guesses."""
    line = str(error).strip().rpartition("\n")[2].partition(" Some common causes")[0]
    return line.strip() or type(error).__name__
