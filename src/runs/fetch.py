"""Downloads the weight files of verifiers: `python verifier_server.py --fetch clap quality`.

Those of the judges too, by the judges' names: `--fetch kld_pq` gets PaSST. Judges that hear through
one network need the same files: kld_pq, kld_qp and kld_both; clap_score those of `clap`.

What is there is left alone. What is not is first asked for (is it there, how large, which hash, is
there room), then downloaded (src/weights/download.py): a download that is cut goes on where it
stopped, in the same run or the next, and a file takes its name only when it is
whole and its hash is right.

Hub files go into CURATOR_WEIGHTS, or into the hub's own cache when that is not set; files from
elsewhere into CURATOR_WEIGHTS or the user's cache. HF_ENDPOINT, HF_TOKEN and proxies are honoured.
"""

import logging
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from src.data import hub
from src.judges.registry import JUDGES
from src.verifier_core import VERIFIERS, NotHosted
from src.weights.download import FetchError, Remote, download, look, size_of
from src.weights.files import (
    WeightFile,
    WeightsError,
    absent,
    check,
    download_dir,
    find,
    is_non_commercial,
    record_of,
    weights_dir,
)

logger = logging.getLogger(__name__)

ROUNDS = 3  # a repository that is updated meanwhile moves the files that were there already


@dataclass(frozen=True)
class Wanted:
    """A verifier or judge whose files are asked for."""

    name: str
    licence: str
    files: tuple[WeightFile, ...]


def wanted(name: str) -> Wanted:
    """What a verifier or a judge needs. Raises NotHosted for a name that is neither's."""
    if name in VERIFIERS:
        adapter = VERIFIERS[name](name)
        return Wanted(name, adapter.licence, adapter.files)
    if name in JUDGES:
        return Wanted(name, JUDGES[name].licence, JUDGES[name].listener_class.files)
    raise NotHosted(f"{name}: no such verifier or judge; there are {_known()}")


def fetch(names: Sequence[str]) -> int:
    """Get every file of the named verifiers and judges. Returns 0, or 1 when one cannot be had.

    Raises NotHosted for a name that is neither a verifier's nor a judge's.
    """
    if not names:
        raise NotHosted(f"--fetch which? There are {_known()}")
    needing = [wanted(name) for name in dict.fromkeys(names)]
    for one in needing:
        _say_licence(one)
    files = list(dict.fromkeys(file for one in needing for file in one.files))
    problems: list[str] = []
    for _ in range(ROUNDS):
        lacking, problems = _lacking(files)
        if lacking:
            problems += _get(lacking)
        if problems or not lacking:
            break
    for problem in dict.fromkeys(problems):
        logger.error("%s", problem)
    incomplete = [one.name for one in needing if absent(one.files)]
    for one in needing:
        if one.name not in incomplete and not problems:
            logger.info("%s: every file is there", one.name)
    if incomplete:
        logger.error(
            "not complete: %s; the same command goes on where this one stopped",
            ", ".join(incomplete),
        )
    return 1 if problems or incomplete else 0


def _known() -> str:
    judges = [name for name, judge in JUDGES.items() if judge.listener_class.files]
    return f"{', '.join(VERIFIERS)}; and the judges {', '.join(judges)}"


def _say_licence(one: Wanted) -> None:
    licences = dict.fromkeys([one.licence, *(f.licence for f in one.files if f.licence)])
    text = "; ".join(licences)
    if is_non_commercial(text):
        logger.warning("%s: NOT FOR COMMERCIAL USE; licence: %s", one.name, text)
    else:
        logger.info("%s: licence: %s", one.name, text)


def _lacking(files: Sequence[WeightFile]) -> tuple[list[WeightFile], list[str]]:
    """The files that are missing or came damaged, and what is wrong with those a user put there."""
    lacking, problems = [], []
    for file in files:
        path = find(file)
        if path is None:
            lacking.append(file)
            continue
        try:
            check(file, path)
        except (WeightsError, OSError) as error:
            if _was_fetched(file, path):
                logger.warning("%s: fetching it again", error)
                lacking.append(file)
            else:
                problems.append(str(error))
    return lacking, problems


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
