"""The manifest: one JSON line for each time that a clip was tried, beside the audio.

    with Manifest(data_dir) as manifest:
        manifest.rows.get(ytid)          # the latest
        manifest.append({"ytid": .., "status": "ok" | "failed", "reason": .., ..})

A line is appended in one write, after its audio has its name, and is on the disk before the run
goes on; a line that a kill cut short is dropped. A lock keeps a second process out.
"""

import errno
import fcntl
import hashlib
import io
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import soundfile

from src.data.audio import Clip
from src.data.downloads.source import TOLERANCE
from src.data.musiccaps import Section
from src.runs.records import drop_torn_line

MANIFEST = "manifest.jsonl"
LOCK = ".download.lock"
PART = ".part"
Row = dict[str, Any]


class FolderError(Exception):
    """The data folder is in use, damaged, full, or cannot be written."""


class Manifest:
    """The rows of a data folder, the latest of each clip. Raises FolderError."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir, self.path = data_dir, data_dir / MANIFEST
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(data_dir / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._lock)
                raise FolderError(
                    f"{data_dir} is in use by another download_data.py: wait for it or end it"
                ) from None
            for part in data_dir.glob(f".*{PART}"):  # of a run that was killed
                part.unlink()
            drop_torn_line(self.path)
            self.rows = read_rows(self.path)
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise FolderError(f"{data_dir} cannot be written: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)
        os.close(self._lock)

    def append(self, row: Row) -> None:
        """row: JSON values with `ytid` and `status`. Raises FolderError when it cannot be kept."""
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        try:
            if os.write(self._file, line) != len(line):
                raise OSError(errno.ENOSPC, "a line was cut short")
            os.fsync(self._file)
        except OSError as error:
            raise FolderError(f"{self.path} cannot be written: {error}") from error
        self.rows[row["ytid"]] = row

    def audio(self, section: Section) -> Path:
        return self.data_dir / f"{section.ytid}.wav"


def read_rows(path: Path) -> dict[str, Row]:
    """The latest row by id. Raises FolderError for a line that is no row."""
    if not path.exists():
        return {}
    rows: dict[str, Row] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
            rows[row["ytid"]] = {"status": row["status"], **row}
        except (ValueError, TypeError, KeyError) as error:
            raise FolderError(
                f"{path}, line {number} is no row ({error!r}). Remove the line, and its clip is "
                "looked at again."
            ) from error
    return rows


def keep(path: Path, clip: Clip) -> Row:
    """Write a clip as a WAV of 16 bit, whole or not at all, and say what was written.

    Samples beyond full scale are clipped, as a player does. Raises OSError.
    """
    buffer = io.BytesIO()
    soundfile.write(buffer, clip.samples.T, clip.rate, format="WAV", subtype="PCM_16")
    data = buffer.getvalue()
    part = path.with_name(f".{path.name}{PART}")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    return described(clip.seconds, clip.rate, clip.channels, data)


def described(seconds: float, rate: int, channels: int, data: bytes) -> Row:
    """What the row of a good clip says about its file."""
    return {
        "duration": round(seconds, 4),
        "sample_rate": rate,
        "channels": channels,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def inspect_file(path: Path, section: Section, rate: int | None) -> tuple[Row, str | None]:
    """What a file is, and what is wrong with it as this section's audio; None when nothing is.

    rate: None accepts any. The row is empty for a file that is no audio. Raises OSError.
    """
    data = path.read_bytes()
    try:
        info = soundfile.info(io.BytesIO(data))
    except soundfile.SoundFileError:
        return {}, "is no audio that can be read"
    row = described(info.duration, info.samplerate, info.channels, data)
    if abs(info.duration - section.seconds) > TOLERANCE:
        return row, f"lasts {info.duration:.2f} s, not {section.seconds:g} s"
    if rate is not None and info.samplerate != rate:
        return row, f"has {info.samplerate} Hz, not {rate} Hz"
    return row, None


def good_row(section: Section, facts: Row) -> Row:
    return {**_base(section, "ok"), **facts, **_date()}


def failed_row(section: Section, reason: str, message: str, facts: Row | None = None) -> Row:
    why = {"reason": reason, "message": message}
    return {**_base(section, "failed"), **why, **(facts or {}), **_date()}


def is_there(manifest: Manifest, section: Section, rate: int | None = None) -> bool:
    """Whether the clip is done: its row says so, at this rate, and a file of that size is there."""
    row = manifest.rows.get(section.ytid)
    if not row or row["status"] != "ok" or (rate and row.get("sample_rate") != rate):
        return False
    if (row.get("start_s"), row.get("end_s")) != (section.start_s, section.end_s):
        return False
    path = manifest.audio(section)
    return path.is_file() and path.stat().st_size == row.get("bytes")


def unlisted(manifest: Manifest, sections: Sequence[Section]) -> list[str]:
    """Names of WAV files in the folder that neither the manifest nor `sections` know."""
    known = {section.ytid for section in sections} | set(manifest.rows)
    return sorted(p.name for p in manifest.data_dir.glob("*.wav") if p.stem not in known)


def _base(section: Section, status: str) -> Row:
    return {
        "ytid": section.ytid,
        "status": status,
        "start_s": section.start_s,
        "end_s": section.end_s,
    }


def _date() -> Row:
    return {"date": datetime.now(UTC).isoformat(timespec="seconds")}
