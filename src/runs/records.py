"""A run's folder and its records: what was asked for and what came out.

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

A finished run's records may be kept as records.jsonl.xz. A part of a run has a folder of the same
kind and the same hash inside the run's (shards.py). Who writes is run.py.

No torch here: records are read by statistics, plots and pages as well.
"""

import hashlib
import json
import logging
import lzma
import os
import shutil
import tempfile
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

from src.cells import SearchCell
from src.data.files import as_json, whole_file, write_whole
from src.judges.base import CONTRAST
from src.runs.measures import earlier

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
RECORDS, COMPRESSED = "records.jsonl", "records.jsonl.xz"

Record = dict[str, Any]
Key = Mapping[str, Any]  # the fields of a record's key, but for the prompt's id
KEY_FIELDS = ("kind", "method", "cell", "measure", "repetition")
CANDIDATES: Key = {"kind": "candidates"}
HEAD_FIELDS = ("status", "start", "time", "unjudged")


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


class RunFolderError(RuntimeError):
    """A run's folder that is in use, is another run's, or is damaged; says what to do."""


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


def head_of(record: Record) -> Record:
    """What a run needs of its records again and again."""
    return {name: record[name] for name in HEAD_FIELDS if name in record}


def without_tree(record: Record) -> Record:
    """All but what a search noted of its candidates: a hundredth of the bytes."""
    return {name: value for name, value in record.items() if name != "tree"}


class Records(Mapping[Hashable, Record]):
    """The latest record of each key, in the order in which they were first made.

    An index of the file: whole records are read when they are asked for, and in memory are their
    places and `heads`, what `head` makes of them. A torn last line is left out.
    """

    def __init__(self, folder: Path | str, head: Callable[[Record], Record]) -> None:
        self.folder, self._head = Path(folder), head
        self.heads: dict[Hashable, Record] = {}
        self._places: dict[Hashable, tuple[int, int]] = {}  # where a line begins, and its length
        self.open()
        begin = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break  # its write was interrupted, or goes on just now
            self.note(*parse_line(line, folder, number), begin, len(line))
            begin += len(line)

    def open(self) -> None:
        """Again, where lines have moved to another file."""
        self._file = open_records(self.folder)

    def note(self, key: Hashable, record: Record, begin: int, length: int) -> None:
        """A record that is now in the file."""
        self.heads[key], self._places[key] = self._head(record), (begin, length)

    def line(self, key: Hashable) -> bytes:
        begin, length = self._places[key]
        return os.pread(self._file.fileno(), length, begin)

    def put_in_order(self, keys: Iterable[Hashable]) -> None:
        """Write the file anew, with the lines of these keys alone. Raises WriteError."""
        places = {}
        with whole_file(self.folder / RECORDS) as file:
            for key in keys:
                places[key] = file.tell(), file.write(self.line(key))
        self._places, self.heads = places, {key: self.heads[key] for key in places}
        self.open()

    def as_written(self, key: Hashable) -> Record:
        """Without the definition of a measure that its version did not know."""
        return parse_line(self.line(key), self.folder, 0)[1]

    def __getitem__(self, key: Hashable) -> Record:
        record = self.as_written(key)
        if record["kind"] == "scores" and "definition" not in record:
            contrast = scores_key(record["measure"] + CONTRAST)
            other = self.heads.get(key_of(contrast, record["prompt_id"]))
            beside = other is not None and other["start"] <= record["start"]
            record["definition"] = earlier(record["measure"], beside)
        return record

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def read_records(folder: Path | str, head: Callable[[Record], Record] = head_of) -> Records:
    """Raises RunFolderError for records that cannot be read, and for a line that is no record."""
    return Records(folder, head)


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


def open_records(folder: Path) -> BufferedReader:
    """The file of lines; where they are compressed or none, one without a name. Raises
    RunFolderError."""
    path, packed = folder / RECORDS, folder / COMPRESSED
    try:
        if path.exists():
            return path.open("rb")
        file = tempfile.TemporaryFile()  # noqa: SIM115
        if packed.exists():
            path = packed
            with lzma.open(packed) as lines:
                shutil.copyfileobj(lines, file)
        file.seek(0)
        return cast("BufferedReader", file)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error


def records_digest(folder: Path | str) -> str:
    """SHA-256 of the records, compressed or not: what a figure made from them is marked with."""
    with open_records(Path(folder)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
