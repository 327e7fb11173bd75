"""The files that each hosted model is made of: where they come from, and where they lie here.

Looked for, in this order, in the folder of `--weights_dir` or CURATOR_WEIGHTS (the file itself, or
a hub cache), then in the hub's own cache (HF_HOME, HF_HUB_CACHE).

Only the standard library is needed.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from src import hub

WEIGHTS_VARIABLE = "CURATOR_WEIGHTS"


class WeightsError(RuntimeError):
    """A weight file that is missing, or is not what its name says; the message says what to do."""


@dataclass(frozen=True)
class WeightFile:
    """One file of a model, from a hub repository or, where that is empty, from `url`."""

    name: str
    repository: str = ""
    url: str = ""
    licence: str = ""
    size: str = ""  # about, for people
    sha256: str = ""  # hexadecimal; empty where upstream publishes none

    @property
    def source(self) -> str:
        return self.url or f"https://huggingface.co/{self.repository}"


def weights_dir() -> Path | None:
    """The user's own folder of weights; None when there is none."""
    folder = os.environ.get(WEIGHTS_VARIABLE)
    return Path(folder).expanduser() if folder else None


def find(file: WeightFile) -> Path | None:
    """Where the file lies on this machine; None when it does not."""
    own = weights_dir()
    places = []
    if own is not None:
        places += [own / file.repository.replace("/", "--") / file.name, own / file.name]
    if file.repository:
        caches = [own] if own is not None else []
        places += [
            hub.snapshot(file.repository, cache) / file.name for cache in [*caches, hub.hub_cache()]
        ]
    return next((place for place in places if place.is_file()), None)


def locate(file: WeightFile) -> Path:
    """Where the file lies. Raises WeightsError."""
    path = find(file)
    if path is None:
        raise WeightsError(f"{file.name} is missing; it comes from {file.source}")
    return path


def absent(files: Sequence[WeightFile]) -> list[WeightFile]:
    """Those that do not lie on this machine."""
    return [file for file in files if find(file) is None]


def missing_line(verifier: str, files: Sequence[WeightFile]) -> str | None:
    """What of a verifier's files is not here, and how to get it; None when all are."""
    missing = absent(files)
    if not missing:
        return None
    names = ", ".join(f"{file.name} ({file.repository or file.url})" for file in missing)
    return f"{names} not found; python verifier_server.py --fetch {verifier}"
