"""Downloads the weight files of verifiers: `python verifier_server.py --fetch clap quality`.

What is there is left alone. What is not is first asked for (is it there, how large, which hash, is
there room), then downloaded (src/download.py): a download that is cut goes on where it stopped, in
the same run or the next, and a file takes its name only when it is whole and its hash is right.

Hub files go into CURATOR_WEIGHTS, or into the hub's own cache when that is not set; files from
elsewhere into CURATOR_WEIGHTS or the user's cache. HF_ENDPOINT, HF_TOKEN and proxies are honoured.
"""

import logging
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from src import hub
from src.adapters.base import Adapter
from src.download import FetchError, Remote, download, look, size_of
from src.verifier_core import VERIFIERS, NotHosted
from src.verifier_weights import (
    WeightFile,
    WeightsError,
    check,
    download_dir,
    find,
    is_non_commercial,
    record_of,
    weights_dir,
)

logger = logging.getLogger(__name__)

ROUNDS = 3  # a repository that is updated meanwhile moves the files that were there already


def fetch(names: Sequence[str]) -> int:
    """Get every file of the named verifiers. Returns 0, or 1 when something could not be had.

    Raises NotHosted for a name that is not a verifier's.
    """
    if not names:
        raise NotHosted(f"--fetch which? There are {', '.join(VERIFIERS)}")
    for name in names:
        if name not in VERIFIERS:
            raise NotHosted(f"{name}: no such verifier; there are {', '.join(VERIFIERS)}")
    adapters = [VERIFIERS[name](name) for name in dict.fromkeys(names)]
    for adapter in adapters:
        _say_licence(adapter)
    files = list(dict.fromkeys(file for adapter in adapters for file in adapter.files))
    problems: list[str] = []
    for _ in range(ROUNDS):
        wanted, problems = _wanted(files)
        if wanted:
            problems += _get(wanted)
        if problems or not wanted:
            break
    for problem in dict.fromkeys(problems):
        logger.error("%s", problem)
    incomplete = [adapter.name for adapter in adapters if adapter.missing()]
    for adapter in adapters:
        if adapter.name not in incomplete and not problems:
            logger.info("%s: every file is there", adapter.name)
    if incomplete:
        logger.error(
            "not complete: %s; the same command goes on where this one stopped",
            ", ".join(incomplete),
        )
    return 1 if problems or incomplete else 0


def _say_licence(adapter: Adapter) -> None:
    licences = dict.fromkeys([adapter.licence, *(f.licence for f in adapter.files if f.licence)])
    text = "; ".join(licences)
    if is_non_commercial(text):
        logger.warning("%s: NOT FOR COMMERCIAL USE; licence: %s", adapter.name, text)
    else:
        logger.info("%s: licence: %s", adapter.name, text)


def _wanted(files: Sequence[WeightFile]) -> tuple[list[WeightFile], list[str]]:
    """The files that are missing or came damaged, and what is wrong with those a user put there."""
    wanted, problems = [], []
    for file in files:
        path = find(file)
        if path is None:
            wanted.append(file)
            continue
        try:
            check(file, path)
        except (WeightsError, OSError) as error:
            if _was_fetched(file, path):
                logger.warning("%s: fetching it again", error)
                wanted.append(file)
            else:
                problems.append(str(error))
    return wanted, problems


def _was_fetched(file: WeightFile, path: Path) -> bool:
    """Whether a download put the file there; what people put there is theirs to delete."""
    if file.repository:
        return path.resolve().parent.name == "blobs"
    return path == download_dir() / file.name and record_of(path).is_file()


def _discard(path: Path) -> None:
    """Delete a file, its record, and what it stands for in a hub cache."""
    for place in (path.resolve(), path, record_of(path)):
        place.unlink(missing_ok=True)


def _get(files: Sequence[WeightFile]) -> list[str]:
    """Download the files; what went wrong, in a sentence each."""
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(variable, "").upper() in {"1", "TRUE", "YES", "ON"}:
            return [f"{variable} is set, so that nothing may be downloaded: unset it"]
    remotes, problems = [], []
    unreachable: dict[str, str] = {}  # by host: none is waited for twice
    for file in files:
        try:
            remotes.append(look(file, _place(file), unreachable))
        except FetchError as error:
            problems.append(str(error))
    try:
        _check_room(remotes)
    except FetchError as error:
        return [*problems, str(error)]
    for remote in remotes:
        logger.info("%s, %s, into %s", remote.url, in_words(remote.size), remote.folder)
        if damaged := find(remote.file):
            _discard(damaged)
        try:
            path = download(remote)
        except WeightsError as error:
            problems.append(str(error))
        else:
            logger.info("%s is there and whole", path)
    return problems


def _place(file: WeightFile) -> Path:
    return (weights_dir() or hub.hub_cache()) if file.repository else download_dir()


def _check_room(remotes: Sequence[Remote]) -> None:
    """Raise FetchError when a disk has no room for what is to be put there."""
    needed: Counter[int] = Counter()
    folders: dict[int, Path] = {}
    for remote in remotes:
        folder = remote.folder.absolute()
        there = next(place for place in (folder, *folder.parents) if place.exists())
        disk = there.stat().st_dev
        folders[disk] = there
        needed[disk] += max(0, (remote.size or 0) - size_of(remote.partial))
    for disk, size in needed.items():
        free = shutil.disk_usage(folders[disk]).free
        if size > free:
            raise FetchError(
                f"no room in {folders[disk]}: {in_words(size)} needed, {in_words(free)} free; "
                "make room, or choose another --weights_dir"
            )


def in_words(size: int | None) -> str:
    """A number of bytes for people."""
    if size is None:
        return "of unknown size"
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} bytes"
