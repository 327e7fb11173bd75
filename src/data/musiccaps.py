"""MusicCaps' table: found in the data folder, fetched from the hub, or copied from a CSV file.

    table = musiccaps.find_table(data_dir) or musiccaps.fetch_table(data_dir)
    sections = musiccaps.read_sections(table)

5,521 clips of 10 s, each a section of a YouTube video, with a caption by a musician; captions under
CC-BY-SA 4.0 (https://huggingface.co/datasets/google/MusicCaps). The table is kept in its own
columns as <data_dir>/musiccaps.csv, so that every later run is offline.

Works with the `datasets` of the client's environment (2.14) and of the downloader's (5). The
library is imported only to fetch: it takes seconds.
"""

import csv
import io
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.data import hub
from src.data.files import write_whole
from src.data.prompt_table import ID, SUBSET_COLUMNS, TRUE, Subset

log = logging.getLogger(__name__)

TABLE_NAME = "musiccaps.csv"
REPOSITORY = "google/MusicCaps"
COLUMNS = (
    "ytid",
    "start_s",
    "end_s",
    "audioset_positive_labels",
    "aspect_list",
    "caption",
    "author_id",
    "is_balanced_subset",
    "is_audioset_eval",
)
WITHOUT_THE_HUB = (
    f"Save musiccaps-public.csv from https://huggingface.co/datasets/{REPOSITORY} on a machine "
    "that reaches it, and pass it: --csv musiccaps-public.csv"
)


class MusicCapsError(ValueError):
    """The table cannot be had or read; the message says why and what to do."""


@dataclass(frozen=True)
class Section:
    """A clip of MusicCaps: seconds start_s to end_s of the video `ytid`."""

    ytid: str
    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s


def find_table(data_dir: Path) -> Path | None:
    """The table that an earlier run has kept in `data_dir`."""
    path = data_dir / TABLE_NAME
    return path if path.is_file() else None


def fetch_table(data_dir: Path, source: str = REPOSITORY) -> Path:
    """Load the table from the hub and keep it as <data_dir>/musiccaps.csv. Returns that path.

    source: a data set's name on the hub, or a local folder with the CSV file of one. HF_ENDPOINT,
    HF_HOME, proxies and the offline variables are honoured; a hub that does not answer is told
    within hub.PROBE_SECONDS. Raises MusicCapsError.
    """
    asked = not Path(source).is_dir() and not hub.is_offline()
    if asked and (problem := hub.hub_problem(source, "datasets")):
        raise MusicCapsError(f"MusicCaps' table cannot be had: {problem}. {WITHOUT_THE_HUB}")
    log.info("loading MusicCaps' table from %s", source)
    try:
        rows = _load(source)
    except Exception as error:  # whatever it is, there is no table
        first = (str(error).strip().splitlines() or [""])[0]
        where = "the hub's cache (HF_HUB_OFFLINE is set)" if hub.is_offline() else source
        raise MusicCapsError(
            f"MusicCaps' table cannot be had from {where}: {first.rstrip('.')}. {WITHOUT_THE_HUB}"
        ) from error
    return keep_table(rows, data_dir, source)


def copy_table(path: Path, data_dir: Path) -> Path:
    """Keep a local copy of the table as <data_dir>/musiccaps.csv. Raises MusicCapsError."""
    return keep_table(_read(path), data_dir, str(path))


def keep_table(rows: Iterable[Mapping[str, Any]], data_dir: Path, source: str) -> Path:
    """Write rows as <data_dir>/musiccaps.csv, whole or not at all, once they are known to be good.

    rows: MusicCaps' columns; a table without the subsets' columns is taken as it is, without them.
    Raises MusicCapsError; OSError when the folder cannot be written.
    """
    rows = list(rows)
    _sections(rows, source)
    columns = [name for name in COLUMNS if name in rows[0]]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    data_dir.mkdir(parents=True, exist_ok=True)
    write_whole(data_dir / TABLE_NAME, text.getvalue())
    return data_dir / TABLE_NAME


def read_sections(path: Path, split: Subset = "all") -> list[Section]:
    """The clips of a subset, in the table's order. Raises MusicCapsError."""
    rows = _read(path)
    sections = _sections(rows, str(path))
    if split == "all":
        return sections
    column = SUBSET_COLUMNS[split]
    if column not in rows[0]:
        raise MusicCapsError(f"{path} has no `{column}` column, so it has no subset '{split}'")
    return [s for s, row in zip(sections, rows, strict=True) if _is_true(row[column])]


def _load(source: str) -> list[Mapping[str, Any]]:
    import datasets

    return [dict(row) for row in datasets.load_dataset(source, split="train")]


def _read(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [dict(row) for row in csv.DictReader(file)]
    except FileNotFoundError:
        raise MusicCapsError(f"there is no table {path}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MusicCapsError(f"{path} cannot be read as a CSV file in UTF-8: {error}") from error


def _sections(rows: list[Any], source: str) -> list[Section]:
    if not rows:
        raise MusicCapsError(f"{source} has no rows")
    if lacking := [n for n in ("ytid", "start_s", "end_s", "caption") if n not in rows[0]]:
        raise MusicCapsError(
            f"{source} is not MusicCaps' table: it has no column {', '.join(lacking)}"
        )
    sections, seen = [], set()
    for number, row in enumerate(rows, start=1):
        where = f"{source}, row {number}"
        ytid = str(row["ytid"] or "")
        if not ID.fullmatch(ytid):
            raise MusicCapsError(f"{where}: {ytid!r} is no YouTube id")
        if ytid in seen:
            raise MusicCapsError(f"{where}: {ytid} is there twice, and ids name files")
        seen.add(ytid)
        try:
            start, end = float(row["start_s"]), float(row["end_s"])
        except (TypeError, ValueError):
            start, end = 0.0, 0.0
        if not 0 <= start < end < float("inf"):
            raise MusicCapsError(
                f"{where}: start_s and end_s are seconds, the end after the start, not "
                f"{row['start_s']!r} and {row['end_s']!r}"
            )
        sections.append(Section(ytid, start, end))
    return sections


def _is_true(value: Any) -> bool:
    return str(value).strip().lower() in TRUE
