"""What is joined (merge.py): folders with records, of which one at a time is in memory."""

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from src.cells import SearchCell
from src.runs.records import (
    MANIFEST,
    RECORDS,
    Record,
    Records,
    RunFolderError,
    read_records,
    read_whole_manifest,
)
from src.runs.shards import Shard

# Of a record, not of its results: who tries again uploads again.
SPENT = {"time", "start", "seconds", "uploaded_bytes"}
PLACES = {"reference"}  # paths that depend on the folder
START = re.compile(rb'"start":\d+,(?="status":)')  # of a line; its fields are sorted


class Entry(NamedTuple):
    """Whose a record is, and what decides which of two is kept. shard: that has made it."""

    source: int
    is_ok: bool
    time: str
    shard: str | None


@dataclass
class Source:
    """A folder with records: a shard's, or the run's own. starts: its starts' numbers in the run.
    prompts: all of the run, in order; of the run's own folder none are known."""

    folder: Path
    manifest: dict[str, Any]
    shard: Shard | None = None
    prompts: Sequence[str] = ()
    starts: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path) -> "Source":
        """Raises RunFolderError."""
        manifest = read_whole_manifest(folder)
        source = cls(folder, manifest)
        if about := manifest.get("shard"):
            source.shard = Shard(about["index"], about["of"])
            source.prompts = about["prompts"]
        return source

    @cached_property
    def records(self) -> Records:
        """Raises RunFolderError."""
        return read_records(self.folder)

    def entries(self, number: int) -> Iterator[tuple[Hashable, Entry]]:
        """Of each key. number: this source's. Raises RunFolderError for damage."""
        for key, head in self.records.heads.items():
            try:
                made_by = self.manifest["starts"][head["start"]].get("shard", self.shard)
            except (KeyError, IndexError) as error:
                raise RunFolderError(
                    f"{self.folder}: {MANIFEST} lacks the start of a line of {RECORDS}: {key}"
                ) from error
            shard = None if made_by is None else str(made_by)
            yield key, Entry(number, head["status"] == "ok", head["time"], shard)


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
