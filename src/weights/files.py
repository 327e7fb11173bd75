"""The weight files of models: what they are, where they lie, and which are missing; and those that
a MusicGen is made of.

Looked for, in this order, in the folder of `--weights_dir` or CURATOR_WEIGHTS: in its folder
`owner--name`, in a hub cache in it, by the bare file name; then in the hub's own cache (HF_HOME,
HF_HUB_CACHE), or, what comes from no hub, in the user's cache folder and in that of torch.hub
(TORCH_HOME). What a library of its own loads lies in one folder alone.

A file is checked against the sha256 that the code has of it, else against the one that the hub's
cache names it by. `python verifier_server.py --fetch` (src/runs/fetch.py) downloads what is
missing. Only the standard library is needed.
"""

import contextlib
import hashlib
import os
import re
import shlex
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from src.data import hub
from src.data.files import ROOT, write_whole

WEIGHTS_VARIABLE = "CURATOR_WEIGHTS"
PYTHON = "envs/verifier/.venv/bin/python"
REMEMBER_FROM = 2**20  # bytes; smaller files are hashed anew each time

LM_FILE, CODEC_FILE = "state_dict.bin", "compression_state_dict.bin"
MUSICGEN_LICENCE = "CC-BY-NC 4.0 (no commercial use)"
DEFAULT_ENCODER = "t5-base"  # of every released MusicGen
BUILTIN_FILES = (
    *("config.json", "lm.safetensors", "codec.safetensors"),
    "text_encoder/model.safetensors",
)
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
    sha256: str = ""  # hexadecimal; empty where upstream publishes none
    instead: str = ""  # the name that the repository may have it by, in another format
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
    """Where the file lies. Raises WeightsError when it is missing or has another hash."""
    path = find(file)
    if path is None:
        raise WeightsError(f"{file.name} is missing; it comes from {file.source}")
    if wrong := wrong_hash(file, path):
        raise WeightsError(
            f"{path.resolve()} is damaged or another file: {wrong}; delete it and get it again "
            f"from {file.source}"
        )
    return path


def wrong_hash(file: WeightFile, path: Path) -> str | None:
    """How the hash of the file at `path` differs from the known one.

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
    own, repository = weights_dir(), file.repository
    if file.folder is not None:
        return [file.folder]
    folders = []
    if own is not None and repository:
        folders += [own / repository.replace("/", "--"), hub.snapshot(repository, own)]
    if own is not None:
        folders.append(own)
    if repository:
        return [*folders, hub.snapshot(repository, hub.hub_cache())]
    torch_home = Path(os.environ.get("TORCH_HOME") or hub.xdg_cache() / "torch").expanduser()
    return [*folders, user_cache() / "weights", torch_home / "hub" / "checkpoints"]


@dataclass(frozen=True)
class Part:
    """Files that belong together: of a verifier, a judge, a generator.

    how: what to do about one that is not there. licence: unless it is that of each file. What has a
    repository and a folder of its own is downloaded when it is loaded.
    """

    title: str
    files: tuple[WeightFile, ...]
    how: str
    licence: str = ""

    def missing(self) -> list[Missing]:
        """What is neither on this machine nor comes by itself, as one item; [] for nothing."""
        lacking = absent(self.files)
        if not lacking:
            return []
        how, (repository, folder) = self.how, (lacking[0].repository, lacking[0].folder)
        if repository and folder:
            problem = "HF_HUB_OFFLINE is set" if hub.is_offline() else hub.hub_problem(repository)
            if problem is None:
                return []
            names = " ".join(file.name for file in self.files)
            how = (
                f"{problem}, and {folder} lacks them. With a network this command fetches them by "
                f"itself; on another machine: hf download {repository} {names}, then copy its "
                f"cache and set HF_HOME{self.how}"
            )
        described = ", ".join(file.described for file in lacking)
        sources = ", ".join(dict.fromkeys(file.source for file in lacking))
        licences = "; ".join(dict.fromkeys(file.licence for file in lacking if file.licence))
        return [Missing(f"{self.title}: {described}", sources, how, self.licence or licences)]


def model_parts(model: str, decodes: bool = True) -> list[Part]:
    """What "builtin", a folder or a hub name is made of; its text encoder where it decodes."""
    if model == "builtin":
        source, folder = "the repository itself", ROOT / "builtin"
        files = tuple(WeightFile(name, url=source, folder=folder) for name in BUILTIN_FILES)
        how = "git checkout -- builtin, or clone it again; builtin/recipe trains them anew"
        return [Part("the built-in model", files, how)]
    folder, repository, url = Path(model), "", "an audiocraft export of a MusicGen"
    how = "put both files of one model into the folder, as on the hub"
    if not folder.is_dir() and re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        folder, repository, url = hub.snapshot(model, hub.model_cache()), model, ""
        how = ", or pass a folder that holds both files: --model FOLDER"
    elif not folder.is_dir():
        url = "nowhere: it is neither 'builtin', nor a hub name (owner/name), nor a folder here"
        how = "for example --model facebook/musicgen-small, or --model builtin"
    files = tuple(
        WeightFile(name, repository, url, MUSICGEN_LICENCE, folder=folder)
        for name in (LM_FILE, CODEC_FILE)
    )
    parts = [Part(f"MusicGen {model}", files, how)]
    encoder = _text_encoder(folder / LM_FILE)
    if decodes and not Path(encoder).is_dir():
        cache = hub.snapshot(encoder, hub.hub_cache())
        names = {"config.json": "", "spiece.model": "", "model.safetensors": "pytorch_model.bin"}
        files = tuple(
            WeightFile(name, encoder, licence="Apache 2.0", instead=instead, folder=cache)
            for name, instead in names.items()
        )
        parts.append(Part(f"text encoder {encoder}, which the model conditions on", files, ""))
    return parts


def _text_encoder(checkpoint: Path) -> str:
    """The T5 that a checkpoint names in its configuration, read without torch; else the default.

    A checkpoint is a zip whose `data.pkl` holds the configuration as YAML text beside pointers to
    the weights, so that searching its bytes is enough; nothing is unpickled.
    """
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            text = archive.read(pickles[0])
    except (OSError, IndexError, zipfile.BadZipFile):
        return DEFAULT_ENCODER
    found = re.search(rb"\n\s+t5:\s*\n(?:\s+\w+:[^\n]*\n)*?\s+name: ([^\n]+)\n", text)
    return found[1].decode().strip("'\" ") if found else DEFAULT_ENCODER
