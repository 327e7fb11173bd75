"""MusicCaps' table: found in the data folder, fetched from the hub, or copied from a CSV file.

    table = musiccaps.get_table(data_dir)

5,521 clips of 10 s, each a section of a YouTube video, with a caption by a musician; captions under
CC-BY-SA 4.0 (https://huggingface.co/datasets/google/MusicCaps). The table is kept as
<data_dir>/musiccaps.csv, so that every later run is offline; `prompt_table` reads it.
"""

import logging
from pathlib import Path

from src.data import hub
from src.data.files import write_whole
from src.data.prompt_table import PromptError, read_table

log = logging.getLogger(__name__)

TABLE_NAME = "musiccaps.csv"
REPOSITORY, CSV = "google/MusicCaps", "musiccaps-public.csv"  # the hub's data set, and its file
WITHOUT_THE_HUB = (
    f"Save {CSV} from https://huggingface.co/datasets/{REPOSITORY} on a machine "
    f"that reaches it, and pass it: --csv {CSV}"
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
    _, columns = read_table(source)
    if lacking := [name for name in ("ytid", "start_s", "end_s") if name not in columns]:
        raise PromptError(
            f"{source} is not MusicCaps' table: it has no column {', '.join(lacking)}"
        )
    if own is not None:
        write_whole(table, own.read_bytes())
    return table


def fetch_table(data_dir: Path) -> Path:
    """Copy the table from the hub, or from its cache, to <data_dir>/musiccaps.csv.

    HF_ENDPOINT, HF_HOME, proxies and the offline variables are honoured; a hub that does not answer
    is an error within hub.PROBE_SECONDS. Returns that path. Raises as get_table.
    """
    if not hub.is_offline() and (problem := hub.hub_problem(REPOSITORY, "datasets")):
        raise PromptError(f"MusicCaps' table cannot be had: {problem}. {WITHOUT_THE_HUB}")
    log.info("loading MusicCaps' table from %s", REPOSITORY)
    try:
        from huggingface_hub import hf_hub_download  # takes a second

        found = hf_hub_download(REPOSITORY, CSV, repo_type="dataset", endpoint=hub.endpoint())
    except Exception as error:  # whatever it is, there is no table
        first = (str(error).strip().splitlines() or [""])[0]
        where = "the hub's cache (HF_HUB_OFFLINE is set)" if hub.is_offline() else REPOSITORY
        raise PromptError(
            f"MusicCaps' table cannot be had from {where}: {first.rstrip('.')}. {WITHOUT_THE_HUB}"
        ) from error
    return get_table(data_dir, Path(found))
