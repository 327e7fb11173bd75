"""What of the hub is on this machine, and whether the rest can be had now.

Looked up by hand in the cache's documented layout: importing huggingface_hub costs a second, and
without a network its own attempts cost minutes. Only the standard library is needed.
"""

import os
import re
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

PROBE_SECONDS = 3.0
DEFAULT_ENCODER = "t5-base"  # of every released MusicGen


def go_offline() -> None:
    """Keep hub libraries off the network. Takes effect for libraries imported afterwards."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"


def hub_cache() -> Path:
    """The hub's cache folder, as huggingface_hub finds it (importing that costs a second)."""
    if folder := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(folder)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("HF_HOME") or cache / "huggingface").expanduser() / "hub"


def is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}


def absent_from_cache(
    repository: str, files: Sequence[Sequence[str]], cache: Path
) -> list[Sequence[str]]:
    """Those of `files` (each with its alternatives) of which the cache has no alternative."""
    folder = snapshot(repository, cache)
    return [names for names in files if not any((folder / name).is_file() for name in names)]


def snapshot(repository: str, cache: Path) -> Path:
    """The folder of a repository's cached main revision; it need not exist."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    try:
        revision = (folder / "refs" / "main").read_text().strip()
    except OSError:
        revision = "main"
    return folder / "snapshots" / revision


def model_cache() -> Path:
    return Path(os.environ.get("AUDIOCRAFT_CACHE_DIR") or hub_cache())


def text_encoder(checkpoint: Path) -> str:
    """The T5 that a checkpoint names in its configuration, read without torch; else the default.

    A checkpoint is a zip whose `data.pkl` holds the configuration as YAML text beside pointers to
    the weights, so that searching its bytes is enough; nothing is unpickled.
    """
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            text = archive.read(pickles[0])
    except (OSError, IndexError, zipfile.BadZipFile):
        return DEFAULT_ENCODER
    found = re.search(rb"\n\s+t5:\s*\n(?:\s+\w+:[^\n]*\n)*?\s+name: ([^\n]+)\n", text)
    return found[1].decode().strip("'\" ") if found else DEFAULT_ENCODER


def hub_problem(repository: str, kind: Literal["models", "datasets"] = "models") -> str | None:
    """Why `repository` cannot be had from the hub now; None when it can."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    try:
        fetch(f"{endpoint}/api/{kind}/{repository}")
    except urllib.error.HTTPError as error:
        if error.code in (401, 404):
            what = "model" if kind == "models" else "data set"
            return f"{endpoint} has no public {what} of that name"
        return f"{endpoint} answered {error.code}"
    except OSError:
        return f"{endpoint} cannot be reached"
    return None


def fetch(
    url: str,
    headers: Mapping[str, str] | None = None,
    proxies: Mapping[str, str] | None = None,
) -> bytes:
    """GET `url` in at most PROBE_SECONDS, name lookup included, which no socket timeout covers.

    proxies: None takes the environment's, {} takes none. The request runs in a daemon thread: one
    that hangs does not keep the process. Raises OSError.
    """
    outcome: list[bytes | Exception] = []
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))  # type: ignore[arg-type]

    def get() -> None:
        try:
            request = urllib.request.Request(url, headers=dict(headers or {}))
            with opener.open(request, timeout=PROBE_SECONDS) as response:
                outcome.append(response.read())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=get, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    match outcome:
        case [bytes() as body]:
            return body
        case [OSError() as error] if not isinstance(error, TimeoutError):
            raise error
        case [Exception() as error] if not isinstance(error, TimeoutError):
            raise OSError(f"not an HTTP answer: {error!r}") from error
        case _:
            raise TimeoutError(f"no answer within {PROBE_SECONDS:g} s")
