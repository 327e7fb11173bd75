"""What of the hub is on this machine, whether the rest can be had now, and MusicCaps' table.

Looked up by hand in the cache's documented layout: importing huggingface_hub costs a second, and
without a network its own attempts cost minutes. Only the standard library is needed, but to fetch.

MusicCaps: 5,521 clips of 10 s, each a section of a YouTube video, with a caption by a musician;
captions under CC-BY-SA 4.0 (https://huggingface.co/datasets/google/MusicCaps). The table is kept as
<data_dir>/musiccaps.csv, so that every later run is offline; `prompts` reads it.
"""

import logging
import os
import urllib.error
import urllib.request
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Literal

from src.data.files import WriteError, write_whole, writing
from src.data.prompts import TABLE_NAME, PromptError, read_table

log = logging.getLogger(__name__)

PROBE_SECONDS = 3.0
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
# The first that is set counts; without any, it is the hub's cache.
TRANSFORMERS_CACHES = (
    *("TRANSFORMERS_CACHE", "PYTORCH_TRANSFORMERS_CACHE"),
    "PYTORCH_PRETRAINED_BERT_CACHE",
)

MUSICCAPS, MUSICCAPS_CSV = "google/MusicCaps", "musiccaps-public.csv"  # on the hub


def go_offline() -> None:
    """Keep hub libraries off the network. Takes effect for libraries imported afterwards."""
    os.environ.update(dict.fromkeys(OFFLINE_VARIABLES, "1"))


def is_offline(variable: str = "HF_HUB_OFFLINE") -> bool:
    return os.environ.get(variable, "").upper() in {"1", "TRUE", "YES", "ON"}


def endpoint() -> str:
    """The hub's address, or that of the mirror that is set."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def hub_cache() -> Path:
    """The hub's cache folder, as huggingface_hub finds it (importing that costs a second)."""
    home = _folder("HF_HOME", _folder("XDG_CACHE_HOME", Path("~/.cache")) / "huggingface")
    return _folder("HF_HUB_CACHE", _folder("HUGGINGFACE_HUB_CACHE", home / "hub"))


def transformers_cache() -> Path:
    """Where transformers looks for a repository: it knows older variables, and expands none."""
    return Path(next((os.environ[n] for n in TRANSFORMERS_CACHES if n in os.environ), hub_cache()))


def model_cache() -> Path:
    """Where audiocraft looks for a MusicGen."""
    return Path(os.environ.get("AUDIOCRAFT_CACHE_DIR", hub_cache()))


def _folder(variable: str, default: Path) -> Path:
    """A folder as huggingface_hub reads it from the environment: the current one by "".

    "~" and variables in it are expanded.
    """
    return Path(os.path.expandvars(Path(os.environ.get(variable, default)).expanduser()))


def xdg_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser()


def repository_folder(repository: str, cache: Path) -> Path:
    return cache / f"models--{repository.replace('/', '--')}"


def snapshot(repository: str, cache: Path) -> Path:
    """The folder of a repository's cached main revision; it need not exist."""
    folder = repository_folder(repository, cache)
    try:
        revision = (folder / "refs" / "main").read_text().strip()
    except OSError:
        revision = "main"
    return folder / "snapshots" / revision


def hub_problem(repository: str, kind: Literal["models", "datasets"] = "models") -> str | None:
    """Why `repository` cannot be had from the hub now; None when it can.

    Answers within PROBE_SECONDS, name lookup included, which no socket timeout covers: the request
    runs in a daemon thread, and one that hangs does not keep the process.
    """

    def status() -> int:
        try:
            url = f"{endpoint()}/api/{kind}/{repository}"
            with urllib.request.urlopen(url, timeout=PROBE_SECONDS) as response:
                return response.status
        except urllib.error.HTTPError as error:
            return error.code

    with ThreadPool(1) as pool:
        try:
            found = pool.apply_async(status).get(PROBE_SECONDS)
        except Exception as error:  # whatever it is, there is no answer
            log.debug("%s: %s", endpoint(), error)
            return f"{endpoint()} cannot be reached"
    if found in (401, 404):
        what = "model" if kind == "models" else "data set"
        return f"{endpoint()} has no public {what} of that name"
    return f"{endpoint()} answered {found}" if found >= 400 else None


def musiccaps_table(data_dir: Path, own: Path | None = None, flag: str = "--prompts") -> Path:
    """The table in `data_dir`: a copy of `own`, else what is there, else the hub's.

    flag: the script's own by which it takes a copy. HF_ENDPOINT, HF_HOME, proxies and the offline
    variables are honoured; a hub that does not answer is an error within PROBE_SECONDS. Raises
    PromptError for a table that cannot be had or is not MusicCaps', WriteError.
    """
    table = data_dir / TABLE_NAME
    if own is None and not table.is_file():
        own = _from_hub(flag)
    read_table(own or table, needed=("ytid", "start_s", "end_s"))
    if own is not None:
        write_whole(table, own.read_bytes())
    return table


def _from_hub(flag: str) -> Path:
    """MusicCaps' table in the hub's cache, fetched where it is not there. Raises PromptError,
    WriteError."""
    where, problem = "the hub's cache", None
    if not is_offline():
        where, problem = MUSICCAPS, hub_problem(MUSICCAPS, "datasets")
    log.info("loading MusicCaps' table from %s", where)
    try:
        if problem is None:
            from huggingface_hub import hf_hub_download  # takes a second

            with writing(hub_cache()):
                found = hf_hub_download(
                    MUSICCAPS, MUSICCAPS_CSV, repo_type="dataset", endpoint=endpoint()
                )
            return Path(found)
    except WriteError:
        raise
    except Exception as error:  # whatever it is, there is no table
        problem = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        if is_offline():  # the library's advice is to look at the network
            problem = "it is not there, and HF_HUB_OFFLINE is set"
    raise PromptError(
        f"MusicCaps' table cannot be had from {where}: {problem}. Save "
        f"{MUSICCAPS_CSV} from https://huggingface.co/datasets/{MUSICCAPS} on a machine that "
        f"reaches it, and pass it: {flag} {MUSICCAPS_CSV}"
    )
