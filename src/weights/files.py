"""The weight files of models: what they are, where they lie, and which are missing.

Looked for, in this order, in the folder of `--weights_dir` or CURATOR_WEIGHTS: in its folder
`owner--name`, in a hub cache in it, by the bare file name; then in the hub's own cache (HF_HOME,
HF_HUB_CACHE) and in that of transformers, or, what comes from no hub, in the user's cache folder,
in that of torch.hub (TORCH_HOME) and in `.checkpoints`, where ImageBind's own code puts its file.
What a library of its own loads lies in one folder alone.

A file in a hub cache is held to the sha256 that it is named by there, a download to the one that
the code has of it. Any other file may have other weights by the same name, such as a fine-tune's:
that is logged, and every score carries the hash. `python verifier_server.py --fetch`
(src/runs/fetch.py) downloads what is missing. Only the standard library is needed.
"""

import contextlib
import hashlib
import logging
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from src.data import hub
from src.data.files import ROOT, write_whole

log = logging.getLogger(__name__)

WEIGHTS_VARIABLE = "CURATOR_WEIGHTS"
PYTHON = "envs/verifier/.venv/bin/python"
REMEMBER_FROM = 2**20  # bytes; smaller files are hashed anew each time

# Repositories that were given to an owner: the hub knows them by both names, a cache by that which
# was asked for.
NEW_NAMES = {
    "roberta-base": "FacebookAI/roberta-base",
    "xlm-roberta-base": "FacebookAI/xlm-roberta-base",
}
# The built-in verifiers, by the network that each one is.
TAGGERS = {
    "tags": "MTT_musicnn",
    "tags_vgg": "MTT_vgg",
    "tags_msd": "MSD_musicnn",
    "tags_msd_vgg": "MSD_vgg",
}
TAGGERS_DIR = ROOT / "builtin" / "taggers"


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
    sha256: str = ""  # of the published file, hexadecimal; empty where it is not known
    instead: str = ""  # the name that it may have in another format
    folder: Path | None = None  # the only one that its library looks into

    @property
    def source(self) -> str:
        return self.url or f"https://huggingface.co/{self.repository}"

    @property
    def described(self) -> str:
        """Name, size and where it comes from, for people."""
        name = f"{self.name} or {self.instead}" if self.instead else self.name
        return f"{name} ({', '.join(filter(None, (self.size, self.repository or self.url)))})"


@dataclass(frozen=True)
class Missing:
    """One thing that a run needs and that is not there, for the preflight's list.

    what: which file or other thing. source: where it comes from. how: what to do to get it.
    """

    what: str
    source: str
    how: str
    licence: str = ""


def weights_dir() -> Path | None:
    """The user's own folder of weights; None when there is none."""
    folder = os.environ.get(WEIGHTS_VARIABLE)
    return Path(folder).expanduser() if folder else None


def user_cache() -> Path:
    """Where this program keeps what it can get again."""
    return hub.xdg_cache() / "curator"


def download_dir(file: WeightFile) -> Path:
    """Where a download of the file goes: a hub cache, or for a URL a plain folder."""
    return weights_dir() or (hub.hub_cache() if file.repository else user_cache() / "weights")


def find(file: WeightFile) -> Path | None:
    """Where the file lies on this machine; None when it does not."""
    names = [file.name, file.instead] if file.instead else [file.name]
    places = (folder / name for name in names for folder in _folders(file))
    return next((place for place in places if place.is_file()), None)


def locate(file: WeightFile) -> Path:
    """Where the file lies. Raises WeightsError when it is missing, or damaged in a hub cache."""
    path = find(file)
    if path is None:
        raise WeightsError(f"{file.name} is missing; it comes from {file.source}")
    if wrong := wrong_hash(replace(file, sha256=""), path):
        raise WeightsError(
            f"{path.resolve()} is damaged or another file: {wrong}; delete it and get it again "
            f"from {file.source}"
        )
    if path.name == file.name and (other := wrong_hash(file, path)):
        log.warning("%s is not the published file: %s", path, other)
    return path


def wrong_hash(file: WeightFile, path: Path) -> str | None:
    """How the hash of the file at `path` differs from the published one, or the hub cache's.

    None when it does not differ, and when no hash is known. Raises OSError.
    """
    expected, origin = file.sha256.lower(), "this program"
    blob = path.resolve()  # a hub cache names large files by their sha256, small ones by git's
    if not expected and blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name):
        expected, origin = blob.name, "the hub"
    if not expected or (found := sha256(path)) == expected:
        return None
    return f"its hash is {found}, and {origin} says {expected}"


def absent(files: Sequence[WeightFile]) -> list[WeightFile]:
    """Those that do not lie on this machine."""
    return [file for file in files if find(file) is None]


def fetch_command(user: str) -> str:
    """The command line that downloads what a verifier or judge needs to where it is looked for."""
    own = weights_dir()
    folder = f" --weights_dir {shlex.quote(str(own))}" if own else ""
    return f"{PYTHON} verifier_server.py --fetch {user}{folder}"


def why_not_loaded(error: BaseException) -> str:
    """What a model's failure to load is shown as: one line that says what to do where it can."""
    line = " ".join(str(error).split())
    if isinstance(error, WeightsError):
        return line
    if isinstance(error, ModuleNotFoundError):
        return f"its library {error.name} is not in this environment: make setup"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        first = line.partition(". ")[0]
        return f"out of memory ({first or 'on the CPU'}): host fewer --models, or another --device"
    return f"{type(error).__name__}: {line:.300}"


def is_non_commercial(licence: str) -> bool:
    return "-NC" in licence.upper() or "no commercial" in licence.lower()


def sha256(path: Path) -> str:
    """Of a file, hexadecimal. Raises OSError when the file cannot be read.

    Hashing gigabytes takes seconds, so the user's cache keeps one small file for each hash, named
    after the path, size and time of change that it belongs to.
    """
    place = path.resolve()
    state = place.stat()
    identity = os.fsencode(f"{place}\n{state.st_size}\n{state.st_mtime_ns}")
    kept = user_cache() / "sha256" / hashlib.sha256(identity).hexdigest()
    is_large = state.st_size >= REMEMBER_FROM
    with contextlib.suppress(OSError, ValueError):
        if is_large and re.fullmatch("[0-9a-f]{64}", known := kept.read_text()):
            return known
    with place.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    with contextlib.suppress(OSError):
        if is_large:
            write_whole(kept, digest)
    return digest


def _folders(file: WeightFile) -> list[Path]:
    """Where to look, in this order. A flat folder comes last: many files are called config.json."""
    if file.folder is not None:
        return [file.folder]
    own, folders = weights_dir(), []
    names = [n for n in (file.repository, NEW_NAMES.get(file.repository)) if n]
    if own is not None:
        for name in names:
            folders += [own / name.replace("/", "--"), hub.snapshot(name, own)]
        folders.append(own)
    if names:
        caches = (hub.hub_cache(), hub.transformers_cache())
        return [*folders, *(hub.snapshot(name, cache) for cache in caches for name in names)]
    torch_home = Path(os.environ.get("TORCH_HOME") or hub.xdg_cache() / "torch").expanduser()
    folders += [user_cache() / "weights", torch_home / "hub" / "checkpoints"]
    return [*folders, Path(".checkpoints")]


@dataclass(frozen=True)
class Part:
    """Files that belong together: of a verifier, a judge, a generator.

    how: what to do about one that is not there. licence: unless it is that of each file. What has a
    repository and a folder of its own is downloaded when it is loaded. problem: why the files
    cannot be used, whether they are there or not.
    """

    title: str
    files: tuple[WeightFile, ...]
    how: str
    licence: str = ""
    problem: str = ""

    def missing(self) -> list[Missing]:
        """What is neither on this machine nor comes by itself, as one item; [] for nothing."""
        if self.problem:
            return [Missing(f"{self.title}: {self.problem}", self.files[0].source, self.how)]
        lacking = absent(self.files)
        if not lacking:
            return []
        how, (repository, folder) = self.how, (lacking[0].repository, lacking[0].folder)
        if repository and folder:
            offline = next(filter(hub.is_offline, hub.OFFLINE_VARIABLES), None)
            problem = f"{offline} is set" if offline else hub.hub_problem(repository)
            if problem is None:
                return []
            names = " ".join(file.name for file in self.files)
            how = (
                f"{problem}, and {folder} lacks them. With a network this command fetches them by "
                f"itself; on another machine: hf download {repository} {names}, then copy "
                f"{folder.parents[1].name} from its cache into {folder.parents[2]}{self.how}"
            )
        described = ", ".join(file.described for file in lacking)
        sources = ", ".join(dict.fromkeys(file.source for file in lacking))
        licences = "; ".join(dict.fromkeys(file.licence for file in lacking if file.licence))
        return [Missing(f"{self.title}: {described}", sources, how, self.licence or licences)]
