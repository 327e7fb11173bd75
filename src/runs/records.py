"""A run's folder: what was asked for, what came out, and how to go on after a stop.

    results/<name>-<hash>/
        manifest.json    settings, checkpoints, measures; for each start: commit, versions, machine
        records.jsonl    one line for each thing that is finished, appended in one write
        audio/<method>/<prompt id>.wav    written whole before its line

A record's key is its fields `kind`, `method`, `cell`, `measure` and `repetition`, as far as it has
them, and its `prompt_id`:

    {"kind": "search", "method": "sbs", "prompt_id": "b00", ..}        benchmark.py
    {"kind": "search", "method": "sbs", "cell": {..}, ..}              a sweep's cell (SearchCell)
    {"kind": "search", "method": .., "cell": {..}, "repetition": 3, ..}    latency_experiment.py
    {"kind": "candidates", ..}   {"kind": "scores", "measure": "tags", ..}    a pool
    {"kind": "validity", "measure": "tags", ..}    and what a measure says of its references

The hash is that of everything that decides the results, so the same command finds its folder again
and another never writes into it; a lease (src/data/lease.py) keeps a second process out. A line cut
short by a kill is dropped at the next start and its prompt is done again; a failed prompt is taken
up again too. A finished run's records may be kept as records.jsonl.xz. A part of a run has a folder
of the same kind and the same hash inside the run's (shards.py).

No torch here: records are read by statistics, plots and pages as well.
"""

import hashlib
import json
import logging
import lzma
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from src.data.files import (
    append_line,
    as_json,
    make_folder,
    open_to_append,
    remove,
    write_whole,
)
from src.data.lease import InUse, Lease
from src.data.prompts import Prompt
from src.judges.base import CONTRAST
from src.methods import SearchCell
from src.runs.measures import earlier
from src.runs.provenance import commit, machine, versions
from src.runs.shards import Shard

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
RECORDS, COMPRESSED = "records.jsonl", "records.jsonl.xz"

Record = dict[str, Any]
Key = Mapping[str, Any]  # the fields of a record's key, but for the prompt's id
KEY_FIELDS = ("kind", "method", "cell", "measure", "repetition")
CANDIDATES: Key = {"kind": "candidates"}


def search_key(
    method: str, cell: SearchCell | None = None, repetition: int | None = None
) -> dict[str, Any]:
    """Of a search: of a benchmark's method, or of a grid's cell."""
    key: dict[str, Any] = {"kind": "search", "method": method}
    key |= {} if cell is None else {"cell": cell.as_record()}
    return key | ({} if repetition is None else {"repetition": repetition})


def scores_key(measure: str) -> dict[str, Any]:
    """Of what a measure says of a pool's candidates."""
    return {"kind": "scores", "measure": measure}


def validity_key(measure: str) -> dict[str, Any]:
    """Of what a measure says of the references of a pool's prompts."""
    return {"kind": "validity", "measure": measure}


def key_of(record: Mapping[str, Any], prompt_id: str | None = None) -> Hashable:
    """A record's key, or that of a prompt's record with these key fields."""
    name = record["prompt_id"] if prompt_id is None else prompt_id
    return as_json({f: record[f] for f in KEY_FIELDS if f in record}), name


def ranks(
    starts: Sequence[Mapping[str, Any]], prompts: Sequence[str]
) -> Callable[[Hashable], tuple[int, ...]]:
    """Where a record stands among those of one process, by its key: searches in the order asked,
    each over all prompts; scores prompt by prompt, after the candidates."""
    order: dict[str, tuple[int, int, int]] = {}
    for number, start in enumerate(starts):
        for at, key in enumerate(start.get("asked", ())):
            place = (1, at) if key["kind"] == "scores" else (at, 0)
            order.setdefault(as_json(key), (number, *place))
    places = {prompt: place for place, prompt in enumerate(prompts)}

    def rank(key: Hashable) -> tuple[int, ...]:
        name, prompt = cast("tuple[str, str]", key)
        number, block, within = order.setdefault(name, (len(starts), len(order), 0))
        return number, block, places.get(prompt, len(places)), within

    return rank


@dataclass(frozen=True)
class Finished:
    """What there is to keep of something finished: a record, None where there are files alone, and
    files that belong to it, by their path in the run's folder."""

    record: Record | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)


class RunFolderError(RuntimeError):
    """A run's folder that is in use, is another run's, or is damaged; says what to do."""


class Run(AbstractContextManager["Run"]):
    """An open run: nobody else writes in its folder until `close`. Use as a context manager.

    output: the folder that holds runs. name: begins the folder's name.
    identity: what decides the results (JSON values); its hash ends the folder's name.
    facts: further entries of the manifest; here: what this start adds, such as the device.
    folder: where the run is already, whatever it is called. dry: only read what is there; nothing
    is made or written. shard: of this run, that this is; prompts: of the whole run, in order.
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
            self._records = read_records(self.folder)
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
            self._records = read_records(self.folder)
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
            write_whole(records, _lines(self.folder).decode())
            remove(packed)
        self._file = open_to_append(self.folder / RECORDS)
        self._opened.callback(os.close, self._file)
        return self._file

    @property
    def manifest(self) -> dict[str, Any]:
        """As it is on the disk."""
        return read_manifest(self.folder)

    @property
    def records(self) -> list[Record]:
        """The latest record of each key, in the order in which they were first made."""
        return list(self._records.values())

    @property
    def done(self) -> int:
        """How many prompts are finished, over all keys."""
        return sum(record["status"] == "ok" for record in self._records.values())

    def latest(self, key: Key, prompt_id: str) -> Record | None:
        """The latest record with this key."""
        return self._records.get(key_of(key, prompt_id))

    def is_done(self, key: Key, prompt_id: str) -> bool:
        """Whether this prompt is finished; a failed one is not."""
        record = self.latest(key, prompt_id)
        return record is not None and record["status"] == "ok"

    def append(self, record: Record) -> None:
        """Add one record, in one write, and have it on the disk before going on.

        record: JSON values with at least `kind`, `prompt_id` and `status` ("ok" or "failed").
        Raises WriteError, and RunFolderError when the folder has been taken over by another.
        """
        record = {**record, "start": self._start, "time": _now()}
        self._check_lease()
        append_line(self.folder / RECORDS, self._file or self._open_to_append(), record)
        self._records[key_of(record)] = record

    def _check_lease(self) -> None:
        try:
            self._lease.check()
        except InUse as error:
            raise RunFolderError(str(error)) from None

    def keep(self, finished: Finished) -> None:
        """Write the files, each whole, and then append the record. Raises WriteError."""
        for path, content in finished.files.items():
            write_whole(self.folder / path, content)
        if finished.record is not None:
            self.append(finished.record)

    def put_in_order(self, prompts: Sequence[Prompt]) -> None:
        """Have the records in the order in which one process makes them, where several machines
        made them in another. prompts: of the run, in order. Raises WriteError."""
        rank = ranks(self.manifest["starts"], [prompt.id for prompt in prompts])
        ordered = {key: self._records[key] for key in sorted(self._records, key=rank)}
        if list(ordered) == list(self._records):
            return
        self._check_lease()
        lines = "".join(f"{as_json(record)}\n" for record in ordered.values())
        write_whole(self.folder / RECORDS, lines)
        self._records = ordered
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


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """Raises RunFolderError."""
    path = Path(folder, MANIFEST)
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RunFolderError(f"{folder} is no run's folder: it has no {MANIFEST}") from None
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error
    return manifest


def read_whole_manifest(folder: Path) -> dict[str, Any]:
    """Raises RunFolderError for one that has been changed too."""
    manifest = read_manifest(folder)
    identity = manifest.get("identity")
    if not isinstance(identity, dict) or manifest.get("hash") != digest_of(identity):
        raise RunFolderError(f"{folder / MANIFEST} was changed, or is no run's manifest")
    return manifest


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=2, allow_nan=False) + "\n")


def read_records(folder: Path | str) -> dict[Hashable, Record]:
    """The latest record by `key_of`; a torn last line is left out.

    Raises RunFolderError for records that cannot be read, and for a line that is no record.
    """
    records: dict[Hashable, Record] = {}
    whole_lines = _lines(folder).split(b"\n")[:-1]
    for number, line in enumerate(whole_lines, start=1):
        key, record = parse_line(line, folder, number)
        records[key] = record
    for record in records.values():
        if record["kind"] == "scores" and "definition" not in record:
            contrast = scores_key(record["measure"] + CONTRAST)
            other = records.get(key_of(contrast, record["prompt_id"]))
            beside = other is not None and other["start"] <= record["start"]
            record["definition"] = earlier(record["measure"], beside)
    return records


def parse_line(line: bytes, folder: Path | str, number: int) -> tuple[Hashable, Record]:
    """The record of a line, and its key. number: the line's, from 1. Raises RunFolderError."""
    try:
        record = _with_key(json.loads(line))
        return key_of(record), record
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunFolderError(
            f"{Path(folder, RECORDS)}, line {number} is not a record ({error!r}). Remove the "
            "line, and its prompt is done again."
        ) from error


def open_records(folder: Path) -> BinaryIO:
    """The file of lines; where they are compressed or none, one without a name. Raises
    RunFolderError."""
    try:
        if (folder / RECORDS).exists():
            return (folder / RECORDS).open("rb")
        file = tempfile.TemporaryFile()  # noqa: SIM115
        if (folder / COMPRESSED).exists():
            with lzma.open(folder / COMPRESSED) as packed:
                shutil.copyfileobj(packed, file)
        file.seek(0)
        return cast("BinaryIO", file)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise RunFolderError(f"{folder}: its records cannot be read: {error}") from error


def records_digest(folder: Path | str) -> str:
    """SHA-256 of the records, compressed or not: what a figure made from them is marked with."""
    return hashlib.sha256(_lines(folder)).hexdigest()


def _lines(folder: Path | str) -> bytes:
    path, packed = Path(folder, RECORDS), Path(folder, COMPRESSED)
    try:
        if path.exists():
            return path.read_bytes()
        path = packed
        return lzma.decompress(packed.read_bytes()) if packed.exists() else b""
    except (OSError, lzma.LZMAError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error


def _with_key(record: Record) -> Record:
    """The record with its key's fields, which early versions wrote as a sentence in `method`."""
    if "kind" in record:
        return record
    method = record.pop("method")
    if method == "candidates":
        return {**CANDIDATES, **record}
    if method.startswith("scores "):
        return scores_key(method.removeprefix("scores ")) | record
    if "search" in record:  # of a sweep, its cell spread over the record
        names = ("candidates", "beam_width", "lookahead_k", "step_size", "seed")
        flat = {name: record.pop(name) for name in names}
        cell = SearchCell.from_record({"method": record.pop("search"), **flat})
        return search_key(cell.method, cell) | record
    if "cell" in record:  # of a latency experiment
        cell = SearchCell.from_record(record.pop("cell"))
        return search_key(cell.method, cell, record.pop("repetition")) | record
    return search_key(method) | record


def digest_of(identity: Mapping[str, Any]) -> str:
    """What a run's folder is named after."""
    return hashlib.sha256(as_json(identity).encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
