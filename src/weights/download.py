"""One weight file from a hub or a plain URL: asked for, downloaded, resumed, checked, put in place.

    remote = look(file, folder)
    path = download(remote)

Hub files come through huggingface_hub, which keeps them in a cache that every other program can
use. It resumes, but it gives up at a connection that breaks in the middle of a body, and it never
compares a hash: both are done here.
"""

import errno
import fcntl
import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import IO
from urllib.parse import urljoin, urlsplit

import requests

from src.data.files import write_whole
from src.weights.files import (
    WeightFile,
    WeightsError,
    git_hash,
    known_hash,
    record_of,
    remember,
    sha256,
)

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0  # for an answer to begin
SILENT_SECONDS = 30.0  # that a download may stand still
FRUITLESS_TRIES = 5  # in a row, each without a byte
PAUSE_SECONDS = 1.0
CHUNK = 2**16  # bytes; a cut loses at most so many
IDENTITY = {"Accept-Encoding": "identity"}  # compressed bytes could be neither counted nor resumed
_WRONG_SIZE = "{0.url} came in another size than announced and was deleted; try again"


class FetchError(WeightsError):
    """A file that could not be had; the message says why and what to do."""


@dataclass(frozen=True)
class Remote:
    """A file as its server describes it."""

    file: WeightFile
    url: str
    size: int | None  # bytes
    version: str  # its ETag or time of change; empty when the server tells neither
    folder: Path  # where it goes: a hub cache, or a plain folder
    partial: Path  # where what came so far lies

    @property
    def hash(self) -> str:
        """What the hub says: a sha256, git's hash, or nothing. Elsewhere an ETag is no hash."""
        known = self.file.repository and re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", self.version)
        return self.version if known else ""


def size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def look(file: WeightFile, folder: Path, unreachable: dict[str, str] | None = None) -> Remote:
    """Ask for a file's size and hash. Raises FetchError within seconds when it cannot be had.

    unreachable: by host, what was raised for hosts that do not answer; they are not asked again.
    """
    unreachable = {} if unreachable is None else unreachable
    url = _hub_url(file) if file.repository else file.url
    host = urlsplit(url).netloc
    if host in unreachable:
        raise FetchError(unreachable[host])
    try:
        answer = _head(url, file)
    except requests.RequestException as error:
        unreachable[host] = (
            f"{host} cannot be reached ({_reason(error)}): is there a network? Behind a proxy set "
            "HTTPS_PROXY; for a mirror of the hub HF_ENDPOINT"
        )
        raise FetchError(unreachable[host]) from error
    if answer.status_code == 404 and file.instead:
        return look(replace(file, name=file.instead, instead=""), folder, unreachable)
    _raise_for_status(answer, file)
    headers = answer.headers
    size = headers.get("X-Linked-Size") or headers.get("Content-Length")
    version = headers.get("X-Linked-Etag") or headers.get("ETag") or ""
    version = version.removeprefix("W/").strip('"') or headers.get("Last-Modified", "")
    if file.repository:
        blobs = folder / f"models--{file.repository.replace('/', '--')}" / "blobs"
        partial = blobs / f"{version}.incomplete"
    else:
        partial = folder / f"{file.name}.part"
    remote = Remote(
        file, url, int(size) if size and size.isdigit() else None, version, folder, partial
    )
    if file.sha256 and len(remote.hash) == 64 and remote.hash != file.sha256.lower():
        raise FetchError(
            f"{url} has changed: its hash is {remote.hash}, this version of the program was made "
            f"for {file.sha256}"
        )
    return remote


def download(remote: Remote) -> Path:
    """Get the file and check it. Returns where it lies. Raises FetchError."""
    get = _from_hub if remote.file.repository else _from_url
    try:
        return _while_it_grows(lambda: get(remote), remote)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = f"no space left in {remote.folder} for {remote.file.name}"
            raise FetchError(f"{text}; make room, and the same command goes on") from error
        raise FetchError(f"{remote.file.name} cannot be written: {_reason(error)}") from error


def _while_it_grows(get: Callable[[], Path], remote: Remote) -> Path:
    """Call `get` again after each cut, until FRUITLESS_TRIES in a row brought nothing."""
    fruitless = 0
    while True:
        before = size_of(remote.partial)
        try:
            return get()
        except requests.RequestException as error:
            answer = error.response
            if answer is not None and answer.status_code == 416:  # more is there than there is
                remote.partial.unlink(missing_ok=True)
            elif answer is not None and answer.status_code < 500:
                _raise_for_status(answer, remote.file)
            came = size_of(remote.partial)
            fruitless = 0 if came > before else fruitless + 1
            if fruitless >= FRUITLESS_TRIES:
                raise FetchError(
                    f"{remote.url} broke off after {came} bytes ({_reason(error)}); the same "
                    "command goes on from there"
                ) from error
            logger.warning("%s broke off after %d bytes; going on", remote.file.name, came)
            time.sleep(PAUSE_SECONDS)


def _from_hub(remote: Remote) -> Path:
    file = remote.file
    try:
        path = Path(
            _library().hf_hub_download(
                file.repository, file.name, cache_dir=remote.folder, endpoint=_endpoint()
            )
        )
    except requests.RequestException:
        raise
    except OSError as error:
        if error.errno is not None:
            raise
        remote.partial.unlink(missing_ok=True)
        raise FetchError(_WRONG_SIZE.format(remote)) from error
    if wrong := _wrong_hash(remote, path):
        for place in (path.resolve(), path):
            place.unlink(missing_ok=True)
        raise FetchError(wrong)
    if not known_hash(file, path)[0]:
        _record(path, sha256(path))
    return path


def _from_url(remote: Remote) -> Path:
    target, partial = remote.folder / remote.file.name, remote.partial
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FetchError(f"{partial} is being downloaded by another process") from error
        version = partial.with_name(partial.name + ".version")
        if not remote.version or not version.is_file() or version.read_text() != remote.version:
            stream.truncate(0)
            write_whole(version, remote.version)
        if remote.size is None or size_of(partial) != remote.size:
            _append(remote, stream)
        stream.flush()
        os.fsync(stream.fileno())
        came = size_of(partial)
        if remote.size is not None and came < remote.size:
            raise requests.ConnectionError(f"{came} of {remote.size} bytes came")
        too_long = remote.size is not None and came > remote.size
        if wrong := _WRONG_SIZE.format(remote) if too_long else _wrong_hash(remote, partial):
            partial.unlink()
            raise FetchError(wrong)
        digest = sha256(partial)
        _record(target, digest)
        partial.replace(target)
        remember(target, digest)
        version.unlink(missing_ok=True)
    return target


def _append(remote: Remote, stream: IO[bytes]) -> None:
    """Read on from where `stream` ends. Raises requests.RequestException at a cut."""
    from tqdm import tqdm

    have = stream.seek(0, os.SEEK_END)
    ranged = {"Range": f"bytes={have}-"} if have else {}
    with requests.get(
        remote.url,
        headers={**IDENTITY, **ranged},
        stream=True,
        timeout=(ANSWER_SECONDS, SILENT_SECONDS),
    ) as answer:
        answer.raise_for_status()
        part = answer.headers.get("Content-Range", "") if answer.status_code == 206 else "bytes 0-"
        if not part.startswith(f"bytes {have}-"):
            have = stream.truncate(0)  # the server took no notice of the range
            if not part.startswith("bytes 0-"):
                raise requests.ConnectionError(f"asked for the end of a file, it sent {part}")
        with tqdm(
            desc=remote.file.name,
            total=remote.size,
            initial=have,
            unit="B",
            unit_scale=True,
            disable=None,  # where nobody looks on, as the hub's own
        ) as bar:
            for chunk in answer.iter_content(CHUNK):
                stream.write(chunk)
                bar.update(len(chunk))


def _wrong_hash(remote: Remote, path: Path) -> str:
    """What is wrong with a downloaded file's hash; empty when nothing is."""
    for expected in filter(None, (remote.file.sha256.lower(), remote.hash)):
        found = sha256(path) if len(expected) == 64 else git_hash(path)
        if found != expected:
            return (
                f"what came from {remote.url} is not {remote.file.name}: its hash is {found}, it "
                f"should be {expected}; it was deleted, try again"
            )
    return ""


def _record(path: Path, digest: str) -> None:
    write_whole(record_of(path), f"{digest}  {path.name}\n")


def _library() -> ModuleType:
    """huggingface_hub, over plain HTTP: its other protocol, Xet, starts anew after a cut."""
    os.environ["HF_HUB_DISABLE_XET"] = "1"  # read when it is imported
    import huggingface_hub
    import huggingface_hub.utils

    return huggingface_hub


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _hub_url(file: WeightFile) -> str:
    return f"{_endpoint()}/{file.repository}/resolve/main/{file.name}"


def _head(url: str, file: WeightFile) -> requests.Response:
    """HEAD; of a hub the answer before the redirection to where the bytes lie: it has the hash."""
    headers = dict(IDENTITY)
    if file.repository:
        headers |= _library().utils.build_hf_headers()
    for _ in range(5):
        answer = requests.head(
            url, headers=headers, allow_redirects=not file.repository, timeout=ANSWER_SECONDS
        )
        place = answer.headers.get("Location", "")
        if not answer.is_redirect or urlsplit(place).netloc:
            break
        url = urljoin(url, place)  # a repository that was renamed
    return answer


def _raise_for_status(answer: requests.Response, file: WeightFile) -> None:
    status, url = answer.status_code, answer.url
    if status == 404:
        raise FetchError(f"{url} does not exist (404)")
    if status in (401, 403):
        remedy = f"accept its terms at {file.source} and set HF_TOKEN" if file.repository else ""
        raise FetchError(f"{url} may not be read ({status}){'; ' * bool(remedy)}{remedy}")
    if status >= 400:
        raise FetchError(f"{url} answered {status}; try again later")


def _reason(error: BaseException) -> str:
    """The innermost cause in a few words; requests wraps its own several times."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
