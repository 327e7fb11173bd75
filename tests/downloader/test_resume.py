"""Runs that are killed, interrupted or doubled: what is done stays, the rest is done once."""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from src.data.files import writing
from tests.downloader.conftest import Downloads

NAMES = [f"clip{number}" for number in range(6)]


@contextmanager
def slow_run(downloads: Downloads) -> Iterator[subprocess.Popen[str]]:
    """A run of its own process on six slow clips, once its manifest has a row."""
    downloads.offer(*NAMES)
    downloads.media.slow |= {f"{name}.webm": 0.15 for name in NAMES} | downloads.media.slow
    manifest, until = downloads.data_dir / "manifest.jsonl", time.monotonic() + 30
    with downloads.start("--workers", 1) as process:
        while not manifest.exists() or not manifest.read_bytes().endswith(b"\n"):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.02)
        yield process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_ends_at_once_and_is_gone_on_with_where_it_stopped(
    downloads: Downloads, number: signal.Signals
) -> None:
    downloads.media.slow["clip1.webm"] = 20
    with slow_run(downloads) as process:
        started = time.monotonic()
        process.send_signal(number)
        _, errors = process.communicate(timeout=10)
    assert time.monotonic() - started < 4
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert "the same command goes on" in errors
        assert "Traceback" not in errors
    assert [row["ytid"] for row in downloads.lines()] == ["clip0"]
    downloads.media.slow.clear()
    assert downloads.run()[0] == 0
    assert downloads.wavs() == [f"{name}.wav" for name in NAMES]
    assert sorted(row["ytid"] for row in downloads.lines()) == NAMES
    assert downloads.media.begun["clip0.webm"] == 1


def test_a_second_process_on_the_same_folder_is_turned_away(downloads: Downloads) -> None:
    with slow_run(downloads) as process:
        code, _, errors = downloads.run()
        assert code == 5
        assert "in use" in errors
        assert process.communicate(timeout=30)[0]
    assert process.returncode == 0


def test_a_torn_last_line_is_dropped_and_its_audio_taken_in(downloads: Downloads) -> None:
    downloads.offer("a", "b")
    assert downloads.run("--workers", 1)[0] == 0
    manifest = downloads.data_dir / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-20])
    (downloads.data_dir / ".b.wav.x").write_bytes(b"half")
    assert downloads.run()[0] == 0
    assert downloads.reasons() == {"a": "ok", "b": "ok"}
    assert downloads.media.begun["b.webm"] == 1
    assert not list(downloads.data_dir.glob(".*.wav.*"))


def test_a_damaged_manifest_is_named_by_line_and_not_overwritten(downloads: Downloads) -> None:
    downloads.offer("a")
    downloads.data_dir.mkdir()
    manifest = downloads.data_dir / "manifest.jsonl"
    text = '{"ytid": "a", "status": "failed", "reason": "removed"}\nnonsense\n'
    manifest.write_text(text)
    code, _, errors = downloads.run()
    assert (code, "line 2" in errors) == (5, True)
    assert manifest.read_text() == text


def test_a_file_of_somebody_else_is_not_overwritten(downloads: Downloads) -> None:
    downloads.offer("a")
    downloads.data_dir.mkdir()
    (downloads.data_dir / "a.wav").write_bytes(b"mine")
    assert downloads.run()[0] == 1
    assert downloads.reasons() == {"a": "again"}
    assert (downloads.data_dir / "a.wav").read_bytes() == b"mine"
    (downloads.data_dir / "a.wav").unlink()
    assert downloads.run()[0] == 0


def test_a_folder_that_cannot_be_written_is_an_error(downloads: Downloads) -> None:
    downloads.offer("a")
    downloads.data_dir.write_text("a file")
    code, _, errors = downloads.run()
    assert code == 5
    assert "cannot be written" in errors


def test_a_full_disk_ends_the_run_and_leaves_no_half_file(
    downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads.offer("a")

    def full(path: Path, _: bytes) -> None:
        with writing(path):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("src.data.downloads.manifest.write_whole", full)
        code, _, errors = downloads.run()
    assert code == 5
    assert "a.wav cannot be written: No space left on device" in errors
    assert downloads.lines() == []
    assert downloads.run()[0] == 0
