"""MusicCaps' table: found in the data folder, fetched from the hub, or copied from a CSV file.

    table = musiccaps.get_table(data_dir)

5,521 clips of 10 s, each a section of a YouTube video, with a caption by a musician; captions under
CC-BY-SA 4.0 (https://huggingface.co/datasets/google/MusicCaps). The table is kept as
<data_dir>/musiccaps.csv, so that every later run is offline; `prompt_table` reads it.

Works with the `datasets` of the client's environment (2.14) and of the downloader's (5). The
library is imported only to fetch: it takes seconds.
"""

import io
import logging
from collections.abc import Sequence
from pathlib import Path

from src.data import hub
from src.data.files import write_whole
from src.data.prompt_table import PromptError, read_table

log = logging.getLogger(__name__)

TABLE_NAME = "musiccaps.csv"
REPOSITORY = "google/MusicCaps"
WITHOUT_THE_HUB = (
    f"Save musiccaps-public.csv from https://huggingface.co/datasets/{REPOSITORY} on a machine "
    "that reaches it, and pass it: --csv musiccaps-public.csv"
)


def get_table(data_dir: Path, own: Path | None = None) -> Path:
    """The table in `data_dir`: a copy of `own`, else what is there, else the hub's.

    Raises PromptError for a table that cannot be had or is not MusicCaps'; OSError when the folder
    cannot be written.
    """
    table = data_dir / TABLE_NAME
    if own is None and not table.is_file():
        return fetch_table(data_dir)
    source = own or table
    _check(source, read_table(source)[1])
    if own is not None:
        write_whole(table, own.read_bytes())
    return table


def fetch_table(data_dir: Path, source: str = REPOSITORY) -> Path:
    """Load the table from the hub and keep it as <data_dir>/musiccaps.csv. Returns that path.

    source: a data set's name on the hub, or a local folder with the CSV file of one. HF_ENDPOINT,
    HF_HOME, proxies and the offline variables are honoured; a hub that does not answer is an error
    within hub.PROBE_SECONDS. Raises PromptError.
    """
    asked = not Path(source).is_dir() and not hub.is_offline()
    if asked and (problem := hub.hub_problem(source, "datasets")):
        raise PromptError(f"MusicCaps' table cannot be had: {problem}. {WITHOUT_THE_HUB}")
    log.info("loading MusicCaps' table from %s", source)
    try:
        import datasets

        rows = datasets.load_dataset(source, split="train")
    except Exception as error:  # whatever it is, there is no table
        first = (str(error).strip().splitlines() or [""])[0]
        where = "the hub's cache (HF_HUB_OFFLINE is set)" if hub.is_offline() else source
        raise PromptError(
            f"MusicCaps' table cannot be had from {where}: {first.rstrip('.')}. {WITHOUT_THE_HUB}"
        ) from error
    _check(source, rows.column_names)
    text = io.BytesIO()
    rows.to_csv(text)
    write_whole(data_dir / TABLE_NAME, text.getvalue())
    return data_dir / TABLE_NAME


def _check(source: str | Path, columns: Sequence[str]) -> None:
    """Raises PromptError for a table that does not say which section a caption describes."""
    if lacking := [name for name in ("ytid", "start_s", "end_s") if name not in columns]:
        raise PromptError(
            f"{source} is not MusicCaps' table: it has no column {', '.join(lacking)}"
        )
