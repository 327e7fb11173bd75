"""The manifest: one JSON line for each time that a clip was tried, beside the audio.

    with Manifest(data_dir) as manifest:
        manifest.rows.get(ytid)          # the latest
        manifest.append(clip, "failed", reason=.., message=..)

A row comes after its audio has its name. A lock keeps a second process out.
"""

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import soundfile

from src.data.audio import Clip
from src.data.downloads.clip import TOLERANCE, Reason
from src.data.files import append_line, lock, make_folder, open_to_append, remove, write_whole
from src.data.prompts import Prompt

MANIFEST = "manifest.jsonl"
LOCK = ".download.lock"
Row = dict[str, Any]

# Reasons of earlier versions that are GONE today; their others are AGAIN.
_EARLIER_GONE = (
    *("removed", "unavailable", "private", "paid"),
    *("age_restricted", "geo_blocked", "short", "decoding"),
)


class FolderError(Exception):
    """The data folder is in use or its manifest is damaged."""


class Manifest:
    """The rows of a data folder, the latest of each clip. Raises FolderError, WriteError."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir, path = data_dir, data_dir / MANIFEST
        make_folder(data_dir)
        try:
            self._lock = lock(data_dir / LOCK)
        except BlockingIOError:
            raise FolderError(
                f"{data_dir} is in use by another download_data.py: wait for it or end it"
            ) from None
        for part in data_dir.glob(".*.wav.*"):  # of a run that was killed
            remove(part)
        self._file = open_to_append(path)
        self.rows = _read_rows(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        os.close(self._lock)

    def append(
        self, clip: Prompt, status: Literal["ok", "failed", "damaged"], **facts: Any
    ) -> None:
        """A row. damaged: the file is no longer what was written. facts: as `describe` has them, or
        reason and message. Raises WriteError when it cannot be kept."""
        section = {"start_s": clip.start_s, "end_s": clip.end_s}
        now = datetime.now(UTC).isoformat(timespec="seconds")
        row = {"ytid": clip.id, "status": status, **section, **facts, "date": now}
        append_line(self.data_dir / MANIFEST, self._file, row)
        self.rows[clip.id] = row

    def audio(self, clip: Prompt) -> Path:
        return self.data_dir / f"{clip.id}.wav"

    def missing(self, clips: Sequence[Prompt], rate: int | None = None) -> list[Prompt]:
        """The clips that are not done at this rate (Hz; None: any)."""
        return [clip for clip in clips if not self._is_there(clip, rate)]

    def _is_there(self, clip: Prompt, rate: int | None) -> bool:
        """Whether the row says so, for this section, and a file of that size is there."""
        row, path = self.rows.get(clip.id), self.audio(clip)
        if not row or row["status"] != "ok" or (rate and row.get("sample_rate") != rate):
            return False
        if (row.get("start_s"), row.get("end_s")) != (clip.start_s, clip.end_s):
            return False
        return path.is_file() and path.stat().st_size == row.get("bytes")


def keep(path: Path, audio: Clip) -> Row:
    """Write a clip as a WAV of 16 bit, whole or not at all, and describe it.

    Samples beyond full scale are clipped, as a player does. Raises WriteError.
    """
    buffer = io.BytesIO()
    soundfile.write(buffer, audio.samples.T, audio.rate, format="WAV", subtype="PCM_16")
    write_whole(path, buffer.getvalue())
    return describe(path)


def describe(path: Path) -> Row:
    """What a row states of a file; of one that is no audio its bytes alone. Raises FolderError for
    a file that cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FolderError(f"{path} cannot be read: {error.strerror}") from error
    facts: Row = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    with contextlib.suppress(soundfile.SoundFileError):
        info = soundfile.info(io.BytesIO(data))
        facts |= {"duration": round(info.duration, 4), "channels": info.channels}
        facts |= {"sample_rate": info.samplerate}
    return facts


def misfit(facts: Row, clip: Prompt, rate: int) -> str | None:
    """Why a file, as `describe` has it, is not this clip at `rate` Hz; None when it may be."""
    if "duration" not in facts:
        return "is no audio that can be read"
    if abs(facts["duration"] - clip.seconds) > TOLERANCE:
        return f"lasts {facts['duration']:.2f} s, not {clip.seconds:g} s"
    if facts["sample_rate"] != rate:
        return f"has {facts['sample_rate']} Hz, not {rate} Hz"
    return None


def _read_rows(path: Path) -> dict[str, Row]:
    """The latest row by id, with the reasons of today. Raises FolderError for a line that is no
    row."""
    rows: dict[str, Row] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            found = json.loads(line)
            status, reason = found["status"], found.get("reason")
            if reason == "damaged":
                found["status"] = "damaged"
            elif status == "failed" and reason not in list(Reason):
                found["reason"] = Reason.GONE if reason in _EARLIER_GONE else Reason.AGAIN
            rows[found["ytid"]] = found
        except (ValueError, TypeError, KeyError) as error:
            raise FolderError(
                f"{path}, line {number} is no row ({error!r}). Remove the line, and its clip is "
                "looked at again."
            ) from error
    return rows
