"""The repository's root, files that are written whole, and files of JSON lines.

A file of JSON lines has one process at a time that appends to it, and a kill leaves it readable: a
line is appended in one write, and is on the disk before the run goes on; one that was cut short is
dropped at the next start. Standard library only.

What cannot be written is one kind of error, WriteError: a full disk, a quota, a read-only folder.
"""

import errno
import fcntl
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

ROOT = Path(__file__).resolve().parents[2]

log = logging.getLogger(__name__)


class WriteError(OSError):
    """A file or folder that cannot be written; says which and why."""

    def __str__(self) -> str:
        return f"{self.filename} cannot be written: {self.strerror}"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise WriteError for what the system refuses while this file or folder is written.

    Errors without a number are not the system's, but a library's own, and pass unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or isinstance(error, WriteError | BlockingIOError):
            raise
        raise WriteError(error.errno, error.strerror, str(path)) from error


def make_folder(path: Path) -> None:
    """Make the folder and those above it, where they are missing. Raises WriteError."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def remove(path: Path) -> None:
    """Delete a file where it is there. Raises WriteError."""
    with writing(path):
        path.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8, whole or not at all; its folder is made where it is missing.

    Raises WriteError.
    """
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which has its name once all is written, or never. Raises WriteError."""
    make_folder(path.parent)
    with writing(path):
        handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(scratch).chmod(0o644)
            Path(scratch).replace(path)
        except BaseException:
            Path(scratch).unlink(missing_ok=True)
            raise


def lock(path: Path) -> int:
    """Keep every other process of this machine out until this handle is closed.

    Raises BlockingIOError when one is in, WriteError.
    """
    with writing(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise
    return handle


def open_to_append(path: Path) -> int:
    """A handle for `append_line`. What follows the last line end is cut off: its write was
    interrupted. Raises WriteError."""
    with writing(path):
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    size = whole = os.fstat(handle).st_size
    while whole and os.pread(handle, 1, whole - 1) != b"\n":
        whole -= 1
    if torn := size - whole:
        log.warning("%s: dropping a last line that was cut short (%d bytes)", path, torn)
        os.truncate(handle, whole)
        os.fsync(handle)
    return handle


def as_json(value: Any) -> str:
    """One line, the same for equal values. Raises ValueError for a number that is not finite."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def append_line(path: Path, handle: int, value: Any) -> tuple[int, int]:
    """handle: of `open_to_append`. value: of JSON, without NaN. Returns where the line begins and
    its length, in bytes. Raises WriteError when the line cannot be kept."""
    line = f"{as_json(value)}\n".encode()
    with writing(path):
        if os.write(handle, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(handle)
    return os.lseek(handle, 0, os.SEEK_CUR) - len(line), len(line)
