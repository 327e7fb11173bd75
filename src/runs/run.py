"""A run that is open: records and files are added to its folder (src/runs/records.py).

    with Run(output, "benchmark", identity, facts) as run:
        if not run.is_done(search_key("sbs"), "b00"):
            run.append(search_key("sbs") | {"prompt_id": "b00", "status": "ok", ..})

The folder's name ends with the hash of everything that decides the results, so the same command
finds its folder again and another never writes into it; a lease (src/data/lease.py) keeps a second
process out. A line cut short by a kill is dropped at the next start and its prompt is done again; a
failed prompt is taken up again too.
"""

import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from src.data.files import append_line, make_folder, open_to_append, remove, whole_file, write_whole
from src.data.lease import InUse, Lease
from src.data.prompts import Prompt
from src.runs.provenance import commit, machine, versions
from src.runs.records import (
    COMPRESSED,
    MANIFEST,
    RECORDS,
    Key,
    Record,
    RunFolderError,
    digest_of,
    key_of,
    open_records,
    ranks,
    read_manifest,
    read_records,
    read_whole_manifest,
    write_manifest,
)
from src.runs.shards import Shard

log = logging.getLogger(__name__)

WRITERS = 8  # files of a record that are written at once


@dataclass(frozen=True)
class Finished:
    """What there is to keep of something finished: a record, None where there are files alone, and
    files that belong to it, by their path in the run's folder."""

    record: Record | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)


class Run(AbstractContextManager["Run"]):
    """An open run: nobody else writes in its folder until `close`. Use as a context manager.

    output: the folder that holds runs. name: begins the folder's name.
    identity: what decides the results (JSON values); its hash ends the folder's name.
    facts: further entries of the manifest; here: what this start adds, such as the device.
    folder: where the run is already, whatever it is called. dry: only read what is there; nothing
    is made or written. shard: of this run, that this is; prompts: of the whole run, in order.
    records: the latest of each key, in the order in which they were first made.
    Raises RunFolderError, WriteError.
    """

    def __init__(
        self,
        output: Path,
        name: str,
        identity: Mapping[str, Any],
        facts: Mapping[str, Any],
        here: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        dry: bool = False,
        shard: Shard | None = None,
        prompts: Sequence[Prompt] = (),
    ) -> None:
        digest = digest_of(identity)
        slug = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")[:200]
        self.folder, self.shard = folder or output / f"{slug}-{digest[:8]}", shard
        if shard is not None:
            self.folder = shard.folder(self.folder)
            facts = {**facts, "shard": shard.as_record(prompts)}
        self._opened = ExitStack()
        if dry:
            self.records = read_records(self.folder)
            return
        make_folder(self.folder)
        with ExitStack() as opened:
            try:
                self._lease = opened.enter_context(Lease(self.folder))
            except InUse as error:
                raise RunFolderError(f"{error}: wait for it or end it") from None
            self.resumed = (self.folder / MANIFEST).exists()
            self._start = self._note_start(
                {"hash": digest, "identity": dict(identity), **facts, "starts": []}, here or {}
            )
            self.records = read_records(self.folder)
            # The disk takes files side by side; a record's line comes after its files.
            self._writers = opened.enter_context(ThreadPoolExecutor(WRITERS))
            self._opened = opened.pop_all()
        self._file: int | None = None
        if not (self.folder / COMPRESSED).exists():  # else the first record expands it
            self._open_to_append()

    @classmethod
    def reopen(cls, folder: Path | str, dry: bool = False) -> Self:
        """The run in a folder that is there, wherever it has been moved to.

        Raises RunFolderError, also where the manifest is not that of a whole run.
        """
        folder = Path(folder)
        identity = read_whole_manifest(folder)["identity"]
        return cls(folder.parent, "", identity, {}, folder=folder, dry=dry)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._opened.close()

    def _open_to_append(self) -> int:
        """Compressed records become such as can be appended to."""
        records, packed = self.folder / RECORDS, self.folder / COMPRESSED
        if packed.exists() and not records.exists():
            with open_records(self.folder) as lines, whole_file(records) as file:
                shutil.copyfileobj(lines, file)
            remove(packed)
        self._file = open_to_append(self.folder / RECORDS)
        self._opened.callback(os.close, self._file)
        self.records.open()
        return self._file

    @property
    def manifest(self) -> dict[str, Any]:
        """As it is on the disk."""
        return read_manifest(self.folder)

    @property
    def done(self) -> int:
        """How many prompts are finished, over all keys."""
        return sum(head["status"] == "ok" for head in self.records.heads.values())

    def latest(self, key: Key, prompt_id: str) -> Record | None:
        """The latest record with this key."""
        return self.records.get(key_of(key, prompt_id))

    def is_done(self, key: Key, prompt_id: str) -> bool:
        """Whether this prompt is finished; a failed one is not."""
        head = self.records.heads.get(key_of(key, prompt_id))
        return head is not None and head["status"] == "ok"

    def append(self, record: Record) -> None:
        """Add one record, in one write, and have it on the disk before going on.

        record: JSON values with at least `kind`, `prompt_id` and `status` ("ok" or "failed").
        Raises WriteError, and RunFolderError when the folder has been taken over by another.
        """
        record = {**record, "start": self._start, "time": _now()}
        self._check_lease()
        file = self._file or self._open_to_append()
        place = append_line(self.folder / RECORDS, file, record)
        self.records.note(key_of(record), record, *place)

    def _check_lease(self) -> None:
        try:
            self._lease.check()
        except InUse as error:
            raise RunFolderError(str(error)) from None

    def keep(self, finished: Finished) -> None:
        """Write the files, each whole, and then append the record. Raises WriteError."""
        paths = [self.folder / path for path in finished.files]
        list(self._writers.map(write_whole, paths, finished.files.values()))
        if finished.record is not None:
            self.append(finished.record)

    def put_in_order(self, prompts: Sequence[Prompt]) -> None:
        """Have the records in the order in which one process makes them, where several machines
        made them in another. prompts: of the run, in order. Raises WriteError."""
        rank = ranks(self.manifest["starts"], [prompt.id for prompt in prompts])
        ordered = sorted(self.records, key=rank)
        if ordered == list(self.records):
            return
        self._check_lease()
        self.records.put_in_order(ordered)
        self._open_to_append()

    def _note_start(self, new: dict[str, Any], here: Mapping[str, Any]) -> int:
        """Add this start to the manifest; `new` where there is none. Returns its number."""
        manifest = self.manifest if self.resumed else new
        if manifest.get("hash") != new["hash"]:
            raise RunFolderError(
                f"{self.folder} belongs to a run with other settings: choose another --output"
            )
        start = {"time": _now(), **commit(), "versions": versions(), **machine(), **here}
        starts = manifest["starts"]
        if starts and start["commit"] not in {entry["commit"] for entry in starts}:
            log.warning(
                "this run was begun at commit %s and goes on at %s; the manifest keeps both",
                starts[-1]["commit"],
                start["commit"],
            )
        starts.append(start)
        write_manifest(self.folder, manifest)
        return len(starts) - 1


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
