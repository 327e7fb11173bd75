"""What is joined (merge.py): folders with records, of which one at a time is in memory."""

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from src.cells import SearchCell
from src.runs.records import (
    MANIFEST,
    RECORDS,
    Record,
    RunFolderError,
    open_records,
    parse_line,
    read_whole_manifest,
)
from src.runs.shards import Shard

# Of a record, not of its results: who tries again uploads again.
SPENT = {"time", "start", "seconds", "uploaded_bytes"}
PLACES = {"reference"}  # paths that depend on the folder
START = re.compile(rb'"start":\d+,(?="status":)')  # of a line; its fields are sorted


class Entry(NamedTuple):
    """Where a record lies, and what decides which of two is kept. shard: that has made it."""

    source: int
    offset: int
    length: int
    is_ok: bool
    time: str
    shard: str | None


@dataclass
class Source:
    """A folder with records: a shard's, or the run's own. starts: its starts' numbers in the run.
    prompts: all of the run, in order; of the run's own folder none are known."""

    folder: Path
    manifest: dict[str, Any]
    records: BinaryIO
    shard: Shard | None = None
    prompts: Sequence[str] = ()
    starts: list[int] = field(default_factory=list)

    @classmethod
    def open(cls, folder: Path, stack: ExitStack) -> "Source":
        """Raises RunFolderError."""
        manifest = read_whole_manifest(folder)
        source = cls(folder, manifest, stack.enter_context(open_records(folder)))
        if about := manifest.get("shard"):
            source.shard = Shard(about["index"], about["of"])
            source.prompts = about["prompts"]
        return source

    def line(self, entry: Entry) -> bytes:
        self.records.seek(entry.offset)
        return self.records.read(entry.length)

    def read(self, entry: Entry) -> Record:
        return parse_line(self.line(entry), self.folder, 0)[1]

    def entries(self, number: int) -> dict[Hashable, Entry]:
        """The latest of each key. number: this source's. Raises RunFolderError for damage."""
        found: dict[Hashable, Entry] = {}
        offset, starts = 0, self.manifest["starts"]
        for count, line in enumerate(self.records, start=1):
            if not line.endswith(b"\n"):
                break  # its write was interrupted, or goes on just now
            key, record = parse_line(line, self.folder, count)
            try:
                made_by = starts[record["start"]].get("shard", self.shard)
            except (KeyError, IndexError) as error:
                raise RunFolderError(
                    f"{self.folder}: {MANIFEST} lacks the start of line {count} of {RECORDS}"
                ) from error
            found[key] = Entry(
                *(number, offset, len(line), record["status"] == "ok", record["time"]),
                None if made_by is None else str(made_by),
            )
            offset += len(line)
        return found


def results_of(record: Record) -> Record:
    """A record without what depends on the clock or on where its folder lies."""
    found = {name: value for name, value in record.items() if name not in SPENT | PLACES}
    if "ledger" in found:
        found["ledger"] = {n: v for n, v in found["ledger"].items() if n not in SPENT}
    return found


def differing(one: Any, other: Any, name: str = "") -> Iterator[str]:
    """Where two JSON values differ, the first few, such as "settings.seed (42, 43)"."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one | other:
            yield from differing(one.get(key), other.get(key), f"{name}.{key}".lstrip("."))
    elif one != other:
        shown = [text if len(text := str(value)) < 40 else "" for value in (one, other)]
        yield f"{name} ({', '.join(shown)})" if all(shown) else name


def in_words(key: Mapping[str, Any]) -> str:
    """A record's key, such as "search sbs N=8 M=4" or "scores of tags"."""
    if "measure" in key:
        return f"{key['kind']} of {key['measure']}"
    if "cell" not in key:
        return " ".join(str(key[name]) for name in ("kind", "method") if name in key)
    cell = SearchCell.from_record(key["cell"])
    step = f" step {cell.step_size:g} s" if cell.step_size is not None else ""
    seed = f" seed {cell.seed}" if cell.seed is not None else ""
    return f"{key['kind']} {cell.name}{step}{seed}"
