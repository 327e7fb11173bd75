"""The weight files of verifiers and judges: where they come from, where they lie, what they are.

Looked for, in this order, in the folder of `--weights_dir` or CURATOR_WEIGHTS: in its folder
`owner--name`, in a hub cache in it, by the bare file name; then in the hub's own cache (HF_HOME,
HF_HUB_CACHE), or, what comes from no hub, in the user's cache folder and in that of torch.hub
(TORCH_HOME).

A file is held to the first hash that is known of it: the one written in the code, the one in a
file `<name>.sha256` beside it (`sha256sum` reads and writes such files), the one by which the hub's
cache calls it. `python verifier_server.py --fetch` (src/runs/fetch.py) leaves one of the last two.

Only the standard library is needed.
"""

import contextlib
import hashlib
import json
import os
import re
import shlex
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from src.data import hub
from src.data.files import write_whole

WEIGHTS_VARIABLE = "CURATOR_WEIGHTS"
RECORD = ".sha256"  # what a file's record is called beyond the file's own name
REMEMBER_FROM = 2**20  # bytes; smaller files are hashed anew each time

_remembering = threading.Lock()


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

    @property
    def source(self) -> str:
        return self.url or f"https://huggingface.co/{self.repository}"


def weights_dir() -> Path | None:
    """The user's own folder of weights; None when there is none."""
    folder = os.environ.get(WEIGHTS_VARIABLE)
    return Path(folder).expanduser() if folder else None


def user_cache() -> Path:
    """Where this program keeps what it can get again. Raises RuntimeError without a home."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "curator"


def download_dir() -> Path:
    """Where files that come from no hub are put."""
    return weights_dir() or _downloads()


def _downloads() -> Path:
    return user_cache() / "weights"


def torch_hub_cache() -> Path:
    """Where torch.hub keeps weight files, and so where other programs may have left them."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = Path(os.environ.get("TORCH_HOME") or Path(cache) / "torch")
    return home.expanduser() / "hub" / "checkpoints"


def find(file: WeightFile) -> Path | None:
    """Where the file lies on this machine; None when it does not."""
    names = [name for name in (file.name, file.instead) if name]
    places = (place / name for name in names for place in _folders(file))
    return next((place for place in places if place.is_file()), None)


def _folders(file: WeightFile) -> list[Path]:
    """Where to look, in this order. A flat folder comes last: many files are called config.json."""
    own, repository = weights_dir(), file.repository
    folders = []
    if own is not None and repository:
        folders += [own / repository.replace("/", "--"), hub.snapshot(repository, own)]
    if own is not None:
        folders.append(own)
    if repository:
        return [*folders, hub.snapshot(repository, hub.hub_cache())]
    return [*folders, _downloads(), torch_hub_cache()]


def locate(file: WeightFile) -> Path:
    """Where the file lies. Raises WeightsError when it is missing or has another hash."""
    path = find(file)
    if path is None:
        raise WeightsError(f"{file.name} is missing; it comes from {file.source}")
    check(file, path)
    return path


def check(file: WeightFile, path: Path) -> None:
    """Raise WeightsError when what is known of the file's hash is not what lies at `path`."""
    expected, origin = known_hash(file, path)
    if not expected:
        return
    found = sha256(path) if len(expected) == 64 else git_hash(path)
    if found != expected:
        raise WeightsError(
            f"{path} is damaged or another file: its hash is {found}, and {origin} says "
            f"{expected}; delete it and get it again from {file.source}"
        )


def known_hash(file: WeightFile, path: Path) -> tuple[str, str]:
    """The hash that the file at `path` should have, and who says so; empty when nobody does.

    64 hexadecimal digits of a sha256, or 40 of git's own hash, which the hub has for small files.
    """
    if file.sha256:
        return file.sha256.lower(), "this program"
    record = record_of(path)
    with contextlib.suppress(FileNotFoundError):
        words = record.read_text(errors="replace").lower().split()
        if not words or not re.fullmatch("[0-9a-f]{64}", words[0]):
            raise WeightsError(f"{record} holds no sha256; delete it and fetch {file.name} again")
        return words[0], record.name
    blob = path.resolve()
    if blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
        return blob.name, "the hub"
    return "", ""


def record_of(path: Path) -> Path:
    """Where the hash of the file at `path` is written down; it need not be."""
    return path.with_name(path.name + RECORD)


def absent(files: Sequence[WeightFile]) -> list[WeightFile]:
    """Those that do not lie on this machine."""
    return [file for file in files if find(file) is None]


def fetch_command(verifier: str, python: str = "python") -> str:
    """The command line that downloads what a verifier or judge needs to where it is looked for."""
    own = weights_dir()
    folder = f" --weights_dir {shlex.quote(str(own))}" if own else ""
    return f"{python} verifier_server.py --fetch {verifier}{folder}"


def unusable(verifier: str, path: Path, what: str) -> WeightsError:
    """The error for a file of a verifier or judge that is there and is not what it should be."""
    return WeightsError(
        f"{path} {what}; delete it and get it again with: {fetch_command(verifier)}"
    )


def missing_line(verifier: str, files: Sequence[WeightFile]) -> str | None:
    """What of a verifier's files is not here, and how to get it; None when all are."""
    missing = absent(files)
    if not missing:
        return None
    return f"{listing(missing)} not found; get it with: {fetch_command(verifier)}"


def listing(files: Sequence[WeightFile]) -> str:
    """The first file with its size and source, and how many more there are."""
    first = files[0]
    facts = [fact for fact in (first.size, first.repository or first.url) if fact]
    more = {1: "", 2: " and 1 more file"}.get(len(files), f" and {len(files) - 1} more files")
    return f"{first.name} ({', '.join(facts)}){more}"


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
    """Of a file, hexadecimal. Remembered in the user's cache by path, size and time of change.

    Raises OSError when the file cannot be read. A cache that cannot be read or written costs the
    time to hash the file anew, nothing else.
    """
    place = path.resolve()
    before = place.stat()
    if before.st_size < REMEMBER_FROM:
        return _hash(place)
    known = _remembered().get(str(place))
    if known and known[:2] == [before.st_size, before.st_mtime_ns]:
        return str(known[2])
    digest = _hash(place)
    after = place.stat()
    if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
        remember(place, digest)
    return digest


def remember(path: Path, digest: str) -> None:
    """Let `sha256` know the hash of a file as it is now. Does nothing where it cannot."""
    with _remembering, contextlib.suppress(OSError, RuntimeError):
        place = path.resolve()
        state = place.stat()
        kept = {name: old for name, old in _remembered().items() if Path(name).is_file()}
        kept[str(place)] = [state.st_size, state.st_mtime_ns, digest]
        write_whole(_memory(), json.dumps(kept, indent=1))


def git_hash(path: Path) -> str:
    """The name that git gives to a file of these bytes."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _memory() -> Path:
    return user_cache() / "sha256.json"


def _remembered() -> dict[str, list]:
    """Real path -> [bytes, nanoseconds, sha256]; what is not so is left out."""
    try:
        entries = json.loads(_memory().read_text()).items()
    except (OSError, ValueError, AttributeError, RuntimeError):
        return {}
    return {path: entry for path, entry in entries if _is_entry(entry)}


def _is_entry(entry: object) -> bool:
    match entry:
        case [int(), int(), str() as digest]:
            return re.fullmatch("[0-9a-f]{64}", digest) is not None
    return False
