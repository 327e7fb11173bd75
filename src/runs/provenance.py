"""Where numbers come from: the commit, the versions, the machine. Standard library only."""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from src.data.files import ROOT

PACKAGES = ("torch", "audiocraft", "transformers", "numpy")
QUIET_LOAD = 0.25  # of one core, for a minute: what the system itself does stays below


def commit() -> dict[str, Any]:
    """The repository's commit and whether tracked files differ from it; None outside a checkout."""
    git = partial(subprocess.check_output, text=True, timeout=10, stderr=subprocess.DEVNULL)
    try:
        head = git(["git", "-C", str(ROOT), "rev-parse", "HEAD"]).strip()
        changed = bool(git(["git", "-C", str(ROOT), "status", "--porcelain", "-uno"]).strip())
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    return {"commit": head, "dirty": changed}


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str | None]:
    """Versions of Python and of what the numbers depend on, read without importing anything."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def machine() -> dict[str, Any]:
    """What the numbers depend on, and nothing that names a person or a machine.

    torch's threads and GPUs too, once torch is imported.
    """
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cpu_count": len(os.sched_getaffinity(0)),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }
    if (torch := sys.modules.get("torch")) is not None:
        gpus = range(torch.cuda.device_count())
        found["torch_threads"] = torch.get_num_threads()
        found["gpus"] = [torch.cuda.get_device_name(number) for number in gpus]
    return found


def _cpu_name() -> str:
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found[1] if found else platform.processor()
