"""A run's folder: what was asked for, what came out, and how to go on after a stop.

    results/<name>-<hash>/
        manifest.json    settings, checkpoints, measures; for each start: commit, versions, machine
        records.jsonl    one line per finished prompt and method, appended in one write
        audio/<method>/<prompt id>.wav    written whole before its line

The hash is that of everything that decides the results, so the same command finds its folder again
and another never writes into it; a lock keeps a second process out. A line cut short by a kill is
dropped at the next start and its prompt is done again; a failed prompt is taken up again too.

No torch here: records are read by statistics, plots and pages as well.
"""

import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from src.data.files import ROOT, write_whole
from src.data.journal import drop_torn_line

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
RECORDS = "records.jsonl"
LOCK = ".lock"
PACKAGES = ("torch", "audiocraft", "transformers", "numpy")

Record = dict[str, Any]


class RunFolderError(RuntimeError):
    """A run's folder that is in use, is another run's, or is damaged; says what to do."""


class Run:
    """An open run: its folder is locked until `close`. Use as a context manager.

    output: the folder that holds runs. name: begins the folder's name.
    identity: what decides the results (JSON values); its hash ends the folder's name.
    facts: further entries of the manifest; here: what this start adds, such as the device.
    Raises RunFolderError.
    """

    def __init__(
        self,
        output: Path,
        name: str,
        identity: Mapping[str, Any],
        facts: Mapping[str, Any],
        here: Mapping[str, Any] | None = None,
    ) -> None:
        digest = _digest(identity)
        self._open(output / f"{_slug(name)}-{digest[:8]}", digest, identity, facts, here or {})

    @classmethod
    def reopen(cls, folder: Path, here: Mapping[str, Any] | None = None) -> Self:
        """The run in a folder that is there, wherever it has been moved to.

        Raises RunFolderError, also where the manifest is not that of a whole run.
        """
        manifest = read_manifest(folder)
        identity = manifest.get("identity")
        if not isinstance(identity, dict) or manifest.get("hash") != _digest(identity):
            raise RunFolderError(f"{folder / MANIFEST} was changed, or is no run's manifest")
        run = cls.__new__(cls)
        run._open(folder, manifest["hash"], identity, {}, here or {})
        return run

    def _open(
        self,
        folder: Path,
        digest: str,
        identity: Mapping[str, Any],
        facts: Mapping[str, Any],
        here: Mapping[str, Any],
    ) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.folder)
        try:
            self.resumed = self._write_manifest(digest, identity, facts, here)
            drop_torn_line(self.folder / RECORDS)
            self._records = read_records(self.folder)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            self._file = os.open(self.folder / RECORDS, flags, 0o644)
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._file)
        os.close(self._lock)

    @property
    def manifest(self) -> dict[str, Any]:
        """As it is on the disk."""
        return read_manifest(self.folder)

    @property
    def records(self) -> list[Record]:
        """The latest record of each method and prompt, in the order in which they were first
        made."""
        return list(self._records.values())

    def latest(self, method: str, prompt_id: str) -> Record | None:
        """The latest record of this method and prompt."""
        return self._records.get((method, prompt_id))

    def is_done(self, method: str, prompt_id: str) -> bool:
        """Whether this prompt is finished; a failed one is not."""
        record = self._records.get((method, prompt_id))
        return record is not None and record["status"] == "ok"

    def append(self, record: Record) -> None:
        """Add one record, in one write, and have it on the disk before going on.

        record: JSON values with at least `method`, `prompt_id` and `status` ("ok" or "failed").
        """
        record = {**record, "start": self._start, "time": _now()}
        line = (_dump(record) + "\n").encode()
        if os.write(self._file, line) != len(line):
            raise RunFolderError(f"{self.folder / RECORDS}: a line was cut short: disk full?")
        os.fsync(self._file)
        self._records[record["method"], record["prompt_id"]] = record

    def _write_manifest(
        self,
        digest: str,
        identity: Mapping[str, Any],
        facts: Mapping[str, Any],
        here: Mapping[str, Any],
    ) -> bool:
        """Write the manifest, or add this start to the one that is there. Returns whether it
        was."""
        path = self.folder / MANIFEST
        start = {"time": _now(), **commit(), "versions": versions(), **machine(), **here}
        if not path.exists():
            manifest = {"hash": digest, "identity": dict(identity), **facts, "starts": [start]}
            write_whole(path, json.dumps(manifest, indent=2, allow_nan=False) + "\n")
            self._start = 0
            return False
        manifest = read_manifest(self.folder)
        if manifest.get("hash") != digest:
            raise RunFolderError(
                f"{self.folder} belongs to a run with other settings: choose another --output"
            )
        known = {entry["commit"] for entry in manifest["starts"]}
        if start["commit"] not in known:
            log.warning(
                "this run was begun at commit %s and goes on at %s; the manifest keeps both",
                manifest["starts"][-1]["commit"],
                start["commit"],
            )
        manifest["starts"].append(start)
        write_whole(path, json.dumps(manifest, indent=2, allow_nan=False) + "\n")
        self._start = len(manifest["starts"]) - 1
        return True


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises RunFolderError."""
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error
    return manifest


def read_records(folder: Path) -> dict[tuple[str, str], Record]:
    """The latest record by (method, prompt id); a torn last line is left out.

    Raises RunFolderError for a line that is no record.
    """
    path = folder / RECORDS
    if not path.exists():
        return {}
    records: dict[tuple[str, str], Record] = {}
    whole_lines = path.read_bytes().split(b"\n")[:-1]
    for number, line in enumerate(whole_lines, start=1):
        try:
            record = json.loads(line)
            records[record["method"], record["prompt_id"]] = record
        except (ValueError, TypeError, KeyError) as error:
            raise RunFolderError(
                f"{path}, line {number} is not a record ({error!r}). Remove the line, and its "
                "prompt is done again."
            ) from error
    return records


def records_digest(folder: Path) -> str:
    """SHA-256 of the records file: what a figure made from it is marked with."""
    return hashlib.sha256((folder / RECORDS).read_bytes()).hexdigest()


def commit() -> dict[str, Any]:
    """The repository's commit and whether tracked files differ from it; None outside a checkout."""
    try:
        head = _git("rev-parse", "HEAD").strip()
        changed = bool(_git("status", "--porcelain", "--untracked-files=no").strip())
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
    """What the numbers depend on, and nothing that names a person or a machine."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cpu_count": len(os.sched_getaffinity(0)),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _cpu_name() -> str:
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found[1] if found else platform.processor()


def _git(*args: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *args],
        check=True,
        capture_output=True,
        text=True,
        timeout=10,
    ).stdout


def _lock(folder: Path) -> int:
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise RunFolderError(
            f"{folder} is in use by another process with the same settings: wait for it or end it"
        ) from None
    return handle


def _digest(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(_dump(identity).encode()).hexdigest()


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
