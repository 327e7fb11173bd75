"""Downloads the weight files of verifiers: `python verifier_server.py --fetch clap quality`.

Those of the judges too, by the judges' names: `--fetch kld_pq` gets PaSST. Judges that hear through
one network need the same files: kld_pq, kld_qp and kld_both; clap_score those of `clap`.

What is there is left alone. What is not comes through huggingface_hub, from the hub or a plain URL.
It resumes, but gives up when a connection breaks in the middle of a body, and it never compares a
hash: both are done here, so a download that is cut goes on where it stopped, in the same run or the
next, and a file takes its name only when it is whole and its hash is right.

Hub files go into CURATOR_WEIGHTS, or into the hub's own cache, which every other program can use,
when that is not set; files from elsewhere into CURATOR_WEIGHTS or the user's cache. HF_ENDPOINT,
HF_TOKEN and proxies are honoured.
"""

import fcntl
import logging
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import requests

from src.data import hub
from src.data.files import WriteError, make_folder, writing
from src.judges.registry import JUDGES
from src.verifier_core import VERIFIERS, NotHosted
from src.weights.files import (
    WeightFile,
    WeightsError,
    absent,
    download_dir,
    find,
    is_non_commercial,
    locate,
    wrong_hash,
)

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0  # for an answer to begin
TRIES = 10  # each goes on where the one before was cut
PAUSE_SECONDS = 1.0  # between two tries
IDENTITY = {"Accept-Encoding": "identity"}  # compressed bytes could be neither counted nor resumed
OTHER_SIZE = "it came in another size than announced"


class Unreachable(WeightsError):
    """A host that does not answer, or that may not be asked."""


def fetch(names: Sequence[str]) -> int:
    """Get every file of the named verifiers and judges. Returns 0, or 1 when one cannot be had.

    Raises NotHosted for a name that is neither a verifier's nor a judge's, WriteError.
    """
    if not names:
        raise NotHosted(f"--fetch which? There are {_known()}")
    needed = {name: files_of(name) for name in names}
    for name in needed:
        _say_licence(name)
    failed = False
    silent = set[str]()  # hosts that did not answer: none is waited for twice
    for file in dict.fromkeys(file for files in needed.values() for file in files):
        try:
            if find(file):
                locate(file)  # is it what it should be?
            elif urlsplit(address(file)).netloc not in silent:
                logger.info("%s is there and whole", download(file))
        except WriteError:
            raise
        except (WeightsError, OSError) as error:
            logger.error("%s", error)
            failed = True
            if isinstance(error, Unreachable):
                silent.add(urlsplit(address(file)).netloc)
    for name, files in needed.items():
        if absent(files):
            failed = True
            logger.error("not complete: %s; the same command goes on where this one stopped", name)
        else:
            logger.info("%s: every file is there", name)
    return int(failed)


def files_of(name: str) -> tuple[WeightFile, ...]:
    """What a verifier or a judge needs. Raises NotHosted for a name that is neither's."""
    if name in VERIFIERS:
        return VERIFIERS[name](name).files
    if name in JUDGES:
        return JUDGES[name].listener_class.files
    raise NotHosted(f"{name}: no such verifier or judge; there are {_known()}")


def _known() -> str:
    judges = [name for name, judge in JUDGES.items() if judge.listener_class.files]
    return f"{', '.join(VERIFIERS)}; and the judges {', '.join(judges)}"


def _say_licence(name: str) -> None:
    own = VERIFIERS[name](name).licence if name in VERIFIERS else JUDGES[name].licence
    text = "; ".join(dict.fromkeys([own, *(f.licence for f in files_of(name) if f.licence)]))
    if is_non_commercial(text):
        logger.warning("%s: NOT FOR COMMERCIAL USE; licence: %s", name, text)
    else:
        logger.info("%s: licence: %s", name, text)


def address(file: WeightFile) -> str:
    """The URL that a file is downloaded from."""
    if file.repository:
        return f"{hub.endpoint()}/{file.repository}/resolve/main/{file.name}"
    return file.url


def download(file: WeightFile) -> Path:
    """Get the file and check it. Returns where it lies.

    Raises Unreachable within seconds when nothing answers, WriteError for a folder that cannot be
    written, WeightsError for all else.
    """
    answer = _ask(file)
    announced = answer.headers.get("X-Linked-ETag", "").strip('"')  # the hub's, a sha256
    if file.sha256 and announced not in ("", file.sha256):
        raise WeightsError(
            f"{address(file)} is now another file (sha256 {announced}) than the one known to this "
            f"program ({file.sha256}). To use it all the same: hf download {file.repository} "
            f"{file.name}"
        )
    logger.info("%s into %s", address(file), download_dir(file))
    tries = 0
    while True:
        tries += 1
        try:
            with writing(download_dir(file)):
                return _from_hub(file) if file.repository else _from_url(file, answer.headers)
        except requests.RequestException as error:
            problem = f"{address(file)} broke off ({_reason(error)})"
            if tries == TRIES:
                raise WeightsError(f"{problem}; the same command goes on from there") from error
            logger.warning("%s; going on", problem)
            time.sleep(PAUSE_SECONDS)


def _ask(file: WeightFile) -> requests.Response:
    """HEAD; a hub's first answer is enough, which may redirect to where the bytes lie.

    Raises WeightsError for a file that cannot be had.
    """
    for variable in filter(hub.is_offline, hub.OFFLINE_VARIABLES):
        raise Unreachable(f"{variable} is set, so that nothing may be downloaded: unset it")
    headers = IDENTITY | (_library().utils.build_hf_headers() if file.repository else {})
    follow, url = not file.repository, address(file)
    try:
        answer = requests.head(url, headers=headers, allow_redirects=follow, timeout=ANSWER_SECONDS)
    except requests.RequestException as error:
        raise Unreachable(
            f"{urlsplit(url).netloc} cannot be reached ({_reason(error)}): is there a network? "
            "Behind a proxy set HTTPS_PROXY; for a mirror of the hub HF_ENDPOINT"
        ) from error
    status = answer.status_code
    if status < 400:
        return answer
    if status == 404:
        raise WeightsError(f"{url} does not exist (404)")
    if status in (401, 403):
        remedy = f"; accept its terms at {file.source} and set HF_TOKEN" if file.repository else ""
        raise WeightsError(f"{url} may not be read ({status}){remedy}")
    raise WeightsError(f"{url} answered {status}; try again later")


def _from_hub(file: WeightFile) -> Path:
    """Raises requests.RequestException at a cut, WeightsError for other bytes than announced."""
    cache = download_dir(file)
    try:
        found = _library().hf_hub_download(
            file.repository, file.name, cache_dir=cache, endpoint=hub.endpoint()
        )
    except OSError as error:
        if isinstance(error, requests.RequestException) or error.errno is not None:
            raise
        blobs = hub.repository_folder(file.repository, cache) / "blobs"
        raise _refused(file, OTHER_SIZE, *blobs.glob("*.incomplete")) from error
    path = Path(found)
    if wrong := wrong_hash(file, path):
        raise _refused(file, wrong, path.resolve())
    return path


def _from_url(file: WeightFile, announced: requests.structures.CaseInsensitiveDict[str]) -> Path:
    """announced: the headers with the file's present size and version.

    What came before is kept in a file that is named after the version: of another version nothing
    is used. Raises requests.RequestException at a cut, WeightsError for other bytes than announced.
    """
    size = int(announced["Content-Length"]) if "Content-Length" in announced else None
    version = announced.get("ETag") or announced.get("Last-Modified") or ""
    folder = download_dir(file)
    make_folder(folder)
    partial = folder / f"{file.name}.{re.sub(r'[^a-zA-Z0-9-]', '', version)}.part"
    for outdated in set(folder.glob(f"{file.name}.*.part")) - {partial}:
        outdated.unlink()
    with partial.open("ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WeightsError(f"{partial} is being downloaded by another process") from error
        if stream.tell() != size:
            if not version:  # nothing says whether what came before is of this file
                stream.truncate(0)
            _library().file_download.http_get(
                file.url,
                stream,
                resume_size=stream.seek(0, os.SEEK_END),
                headers=IDENTITY | ({"If-Range": version} if version else {}),
                displayed_filename=file.name,
            )
        stream.flush()
        os.fsync(stream.fileno())
        wrong = wrong_hash(file, partial) if size in (stream.tell(), None) else OTHER_SIZE
        if wrong:
            raise _refused(file, wrong, partial)
        return partial.replace(folder / file.name)


def _refused(file: WeightFile, wrong: str, *paths: Path) -> WeightsError:
    """Deletes what is not the file, so that the next run begins anew; the error to raise."""
    for path in paths:
        path.unlink()
    return WeightsError(
        f"what came from {address(file)} is not {file.name}: {wrong}; it was deleted, try again"
    )


def _library() -> ModuleType:
    """huggingface_hub, over plain HTTP: its other protocol, Xet, starts anew after a cut."""
    os.environ["HF_HUB_DISABLE_XET"] = "1"  # read when it is imported
    import huggingface_hub
    import huggingface_hub.file_download
    import huggingface_hub.utils

    return huggingface_hub


def _reason(error: BaseException) -> str:
    """The innermost cause in a few words; requests wraps its own several times."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
