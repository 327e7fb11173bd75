"""Audio with a time code, a host for it, and download_data.py as a user starts it."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile

import download_data
from tests.downloader.media_server import MediaServer, media_server

ROOT = Path(__file__).resolve().parents[2]
RATE, SECONDS = 48000, 30
COLUMNS = (
    *("ytid", "start_s", "end_s", "audioset_positive_labels", "aspect_list", "caption"),
    *("author_id", "is_balanced_subset", "is_audioset_eval"),
)
CODECS = {
    "webm": ["-c:a", "libopus", "-b:a", "96k"],
    "m4a": ["-c:a", "aac", "-b:a", "128k"],
    "wav": ["-c:a", "pcm_s16le"],
}


def frequency(second: int) -> int:
    """The time code: the tone of each second of the source, in Hz."""
    return 300 + 100 * second


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """30 s of stereo whose tone changes every second, by file ending."""
    folder = tmp_path_factory.mktemp("sources")
    tones = np.repeat([frequency(second) for second in range(SECONDS)], RATE)
    left = 0.3 * np.sin(np.cumsum(2 * np.pi * tones / RATE))
    soundfile.write(folder / "in.wav", np.stack([left, 0.5 * left], axis=1), RATE)
    made = {}
    for ending, codec in CODECS.items():
        path = folder / f"out.{ending}"
        quiet = ["-y", "-loglevel", "error", "-i", str(folder / "in.wav")]
        subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *quiet, *codec, str(path)], check=True)
        made[ending] = path.read_bytes()
    return made


@pytest.fixture
def media() -> Iterator[MediaServer]:
    with media_server() as server:
        yield server


@dataclass
class Downloads:
    """download_data.py on a data folder and a table, against the local host."""

    folder: Path
    media: MediaServer
    sources: dict[str, bytes]
    ending: str = "webm"

    @property
    def data_dir(self) -> Path:
        return self.folder / "music_data"

    def table(self, *rows: tuple[Any, ...]) -> Path:
        """MusicCaps' table of (ytid, start_s, end_s[, is_balanced_subset, is_eval]).

        Without it the hub is asked.
        """
        path = self.folder / "table.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for ytid, start, end, *subsets in rows:
                row = dict.fromkeys(COLUMNS, "x") | {"ytid": ytid, "start_s": start, "end_s": end}
                row |= {"caption": "a sine, and\nanother", "is_balanced_subset": False}
                row |= dict(zip(COLUMNS[-2:], (*subsets, False, False)[:2], strict=True))
                writer.writerow(row)
        return path

    def host(self, *names: str) -> None:
        audio = self.sources[self.ending]
        self.media.files |= {f"{name}.{self.ending}": audio for name in names}

    def offer(self, *names: str, absent: Sequence[str] = ()) -> None:
        """Clips of seconds 1 to 3, on the table; and on the host but for those that are absent."""
        self.table(*((name, 1, 3) for name in (*names, *absent)))
        self.host(*names)

    def command(self, *options: object) -> list[str]:
        defaults = {
            "--data_dir": self.data_dir,
            "--url_template": f"{self.media.url}/{{ytid}}.{self.ending}",
            "--rate_limit": 0,
            "--backoff": 0.05,
        }
        if (self.folder / "table.csv").exists():
            defaults["--csv"] = self.folder / "table.csv"
        given = [str(option) for option in options]
        for name, value in defaults.items():
            if name not in given:
                given += [name, str(value)]
        return [sys.executable, str(ROOT / "download_data.py"), *given]

    @contextmanager
    def start(self, *options: object) -> Iterator[subprocess.Popen[str]]:
        """In a process of its own, which Ctrl-C ends, also when it does not end these tests."""
        with subprocess.Popen(
            self.command(*options),
            cwd=self.folder,
            env={**os.environ, "PATH": "/nonexistent"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, *options: object) -> tuple[int, str, str]:
        """Exit code, stdout, stderr; in this process, which spares seconds."""
        output, errors, handler = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGTERM)
        with redirect_stdout(output), redirect_stderr(errors):
            try:
                code = download_data.main(self.command(*options)[2:])
            except SystemExit as end:
                code = int(end.code or 0)
            finally:
                signal.signal(signal.SIGTERM, handler)
        return int(code), output.getvalue(), errors.getvalue()

    def lines(self) -> list[dict[str, Any]]:
        path = self.data_dir / "manifest.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["ytid"]: row for row in self.lines()}

    def reasons(self) -> dict[str, str]:
        return {ytid: row.get("reason", row["status"]) for ytid, row in self.rows().items()}

    def wavs(self) -> Sequence[str]:
        return sorted(path.name for path in self.data_dir.glob("*.wav"))


@pytest.fixture
def downloads(
    tmp_path: Path,
    media: MediaServer,
    sources: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> Downloads:
    """Without the system's ffmpeg, ffprobe or JavaScript runtime on the PATH."""
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return Downloads(tmp_path, media, sources)
