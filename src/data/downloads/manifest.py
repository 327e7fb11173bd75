"""The manifest: one JSON line for each time that a clip was tried, beside the audio.

    with Manifest(data_dir) as manifest:
        manifest.rows.get(ytid)          # the latest
        manifest.append(row(clip, "failed", reason=.., message=..))

A row comes after its audio has its name. A lock keeps a second process out.
"""

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
from src.data.downloads.failures import Reason
from src.data.downloads.source import TOLERANCE
from src.data.files import write_whole
from src.data.journal import append_line, lock, open_to_append
from src.data.prompt_table import Prompt

MANIFEST = "manifest.jsonl"
LOCK = ".download.lock"
Row = dict[str, Any]
# damaged: the file is no longer what was written, so that the next run fetches it again.
Status = Literal["ok", "failed", "damaged"]

# The reasons of earlier versions; those that are not here are AGAIN.
_EARLIER = {
    **dict.fromkeys(("removed", "unavailable", "private", "paid"), Reason.GONE),
    **dict.fromkeys(("age_restricted", "geo_blocked", "short", "decoding"), Reason.GONE),
    **dict.fromkeys(("bot_check", "refused", "no_formats", "other"), Reason.BLOCKED),
}


class FolderError(Exception):
    """The data folder is in use or its manifest is damaged."""


class Manifest:
    """The rows of a data folder, the latest of each clip. Raises FolderError, and OSError where the
    folder cannot be written."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir, path = data_dir, data_dir / MANIFEST
        data_dir.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = lock(data_dir / LOCK)
        except BlockingIOError:
            raise FolderError(
                f"{data_dir} is in use by another download_data.py: wait for it or end it"
            ) from None
        for part in data_dir.glob(".*.wav.*"):  # of a run that was killed
            part.unlink()
        self._file = open_to_append(path)
        self.rows = _read_rows(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        os.close(self._lock)

    def append(self, row: Row) -> None:
        """row: JSON values with `ytid` and `status`. Raises OSError when it cannot be kept."""
        append_line(self._file, row)
        self.rows[row["ytid"]] = row

    def audio(self, clip: Prompt) -> Path:
        return self.data_dir / f"{clip.id}.wav"

    def is_there(self, clip: Prompt, rate: int | None = None) -> bool:
        """Whether the clip is done: its row says so, for this section and rate (Hz; None: any),
        and a file of that size is there."""
        row, path = self.rows.get(clip.id), self.audio(clip)
        if not row or row["status"] != "ok" or (rate and row.get("sample_rate") != rate):
            return False
        if (row.get("start_s"), row.get("end_s")) != (clip.start_s, clip.end_s):
            return False
        return path.is_file() and path.stat().st_size == row.get("bytes")

    def missing(self, clips: Sequence[Prompt], rate: int | None = None) -> list[Prompt]:
        return [clip for clip in clips if not self.is_there(clip, rate)]


def row(clip: Prompt, status: Status, **facts: Any) -> Row:
    """A line of the manifest. facts: of a file as `keep` states them, or reason and message."""
    section = {"start_s": clip.start_s, "end_s": clip.end_s}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"ytid": clip.id, "status": status, **section, **facts, "date": now}


def keep(path: Path, audio: Clip) -> Row:
    """Write a clip as a WAV of 16 bit, whole or not at all, and state what was written.

    Samples beyond full scale are clipped, as a player does. Raises OSError.
    """
    buffer = io.BytesIO()
    soundfile.write(buffer, audio.samples.T, audio.rate, format="WAV", subtype="PCM_16")
    write_whole(path, buffer.getvalue())
    return _described(audio.seconds, audio.rate, audio.channels, buffer.getvalue())


def inspect_file(path: Path, clip: Prompt, rate: int | None) -> tuple[Row, str | None]:
    """What a file is, and what is wrong with it as this clip's audio; None when nothing is.

    rate: None accepts any. The row is empty for a file that is no audio. Raises OSError.
    """
    data = path.read_bytes()
    try:
        info = soundfile.info(io.BytesIO(data))
    except soundfile.SoundFileError:
        return {}, "is no audio that can be read"
    facts = _described(info.duration, info.samplerate, info.channels, data)
    if abs(info.duration - clip.seconds) > TOLERANCE:
        return facts, f"lasts {info.duration:.2f} s, not {clip.seconds:g} s"
    if rate is not None and info.samplerate != rate:
        return facts, f"has {info.samplerate} Hz, not {rate} Hz"
    return facts, None


def _described(seconds: float, rate: int, channels: int, data: bytes) -> Row:
    return {
        "duration": round(seconds, 4),
        "sample_rate": rate,
        "channels": channels,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


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
                found["reason"] = _EARLIER.get(reason, Reason.AGAIN)
            rows[found["ytid"]] = found
        except (ValueError, TypeError, KeyError) as error:
            raise FolderError(
                f"{path}, line {number} is no row ({error!r}). Remove the line, and its clip is "
                "looked at again."
            ) from error
    return rows
