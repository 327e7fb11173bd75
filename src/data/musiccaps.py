"""MusicCaps' table: found in the data folder, fetched from the hub, or copied from a CSV file.

    table = musiccaps.get_table(data_dir)

5,521 clips of 10 s, each a section of a YouTube video, with a caption by a musician; captions under
CC-BY-SA 4.0 (https://huggingface.co/datasets/google/MusicCaps). The table is kept as
<data_dir>/musiccaps.csv, so that every later run is offline; `prompt_table` reads it.

Works with the `datasets` of the client's environment (2.14) and of the downloader's (5). The
library is imported only to fetch: it takes seconds.
"""

import csv
import io
import logging
from pathlib import Path

from src.data import hub
from src.data.files import write_whole
from src.data.prompt_table import PromptError, parse_table, read_text

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


class MusicCapsError(PromptError):
    """The table cannot be had; the message says why and what to do."""


def get_table(data_dir: Path, own: Path | None = None) -> Path:
    """The table in `data_dir`: a copy of `own`, else what is there, else the hub's.

    Raises MusicCapsError; OSError when the folder cannot be written.
    """
    try:
        if own is not None:
            return _keep(read_text(own), own, data_dir)
        if table := find_table(data_dir):
            _check(read_text(table), table)
            return table
        return fetch_table(data_dir)
    except PromptError as error:
        raise MusicCapsError(str(error)) from error


def find_table(data_dir: Path) -> Path | None:
    """The table that an earlier run has kept in `data_dir`."""
    path = data_dir / TABLE_NAME
    return path if path.is_file() else None


def fetch_table(data_dir: Path, source: str = REPOSITORY) -> Path:
    """Load the table from the hub and keep it as <data_dir>/musiccaps.csv. Returns that path.

    source: a data set's name on the hub, or a local folder with the CSV file of one. HF_ENDPOINT,
    HF_HOME, proxies and the offline variables are honoured; a hub that does not answer is an error
    within hub.PROBE_SECONDS. Raises MusicCapsError; PromptError for a table that is not MusicCaps'.
    """
    asked = not Path(source).is_dir() and not hub.is_offline()
    if asked and (problem := hub.hub_problem(source, "datasets")):
        raise MusicCapsError(f"MusicCaps' table cannot be had: {problem}. {WITHOUT_THE_HUB}")
    log.info("loading MusicCaps' table from %s", source)
    try:
        import datasets

        rows = [dict(row) for row in datasets.load_dataset(source, split="train")]
    except Exception as error:  # whatever it is, there is no table
        first = (str(error).strip().splitlines() or [""])[0]
        where = "the hub's cache (HF_HUB_OFFLINE is set)" if hub.is_offline() else source
        raise MusicCapsError(
            f"MusicCaps' table cannot be had from {where}: {first.rstrip('.')}. {WITHOUT_THE_HUB}"
        ) from error
    text = io.StringIO(newline="")
    columns = [name for name in COLUMNS if rows and name in rows[0]]
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return _keep(text.getvalue(), Path(source), data_dir)


def _keep(text: str, source: Path, data_dir: Path) -> Path:
    """Write a table whole or not at all, once it is known to be good. Returns its path."""
    _check(text, source)
    write_whole(data_dir / TABLE_NAME, text)
    return data_dir / TABLE_NAME


def _check(text: str, source: Path) -> None:
    """Raises PromptError for what is not MusicCaps' table."""
    _, columns = parse_table(text, source)
    if lacking := [name for name in ("ytid", "start_s", "end_s") if name not in columns]:
        raise PromptError(
            f"{source} is not MusicCaps' table: it has no column {', '.join(lacking)}"
        )
