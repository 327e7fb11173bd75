"""The environment has all that YouTube needs, and YouTube's addresses come to its extractor."""

import copy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from src.data.downloads.settings import DownloadSettings
from src.data.downloads.source import ClipError, Source, ffmpeg_path
from src.data.musiccaps import Section
from tests.downloader.conftest import ROOT, Downloads


def test_ffmpeg_and_the_javascript_runtime_are_inside_the_environment(
    downloads: Downloads,
) -> None:
    from yt_dlp import YoutubeDL

    environment = Path(sys.prefix)
    assert environment in Path(ffmpeg_path()).parents
    with YoutubeDL({"quiet": True}) as ydl:
        deno = ydl._js_runtimes["deno"].info
    assert environment in Path(deno.path).parents
    assert deno.supported
    ran = subprocess.run([deno.path, "eval", "console.log(6 * 7)"], capture_output=True, text=True)
    assert ran.stdout.strip() == "42"


def test_the_scripts_for_youtubes_challenges_are_those_that_yt_dlp_wants() -> None:
    from importlib.metadata import requires, version

    wanted = [r for r in requires("yt-dlp") or [] if r.startswith("yt-dlp-ejs")]
    assert any(f"=={version('yt-dlp-ejs')}" in requirement for requirement in wanted)


@pytest.mark.parametrize("ytid", ["-0Gj8-vB1q4", "0123456789a"])
def test_a_refusal_of_youtubes_becomes_its_reason(
    ytid: str, monkeypatch: pytest.MonkeyPatch, downloads: Downloads
) -> None:
    from yt_dlp.extractor.youtube import YoutubeIE
    from yt_dlp.utils import ExtractorError

    asked = []

    def refuse(self: YoutubeIE, url: str) -> None:
        asked.append(url)
        raise ExtractorError("Private video. Sign in if you've been granted access", expected=True)

    monkeypatch.setattr(YoutubeIE, "_real_extract", refuse)
    with Source(DownloadSettings()) as source, pytest.raises(ClipError) as raised:
        source.fetch(Section(ytid, 30, 40))
    assert raised.value.reason == "private"
    assert asked == [f"https://www.youtube.com/watch?v={ytid}"]
    assert ytid in str(raised.value)


@pytest.fixture
def youtube(
    downloads: Downloads, sources: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """What YouTube's extractor finds for every video; its audio lies on the local host."""
    from yt_dlp.extractor.youtube import YoutubeIE

    downloads.host(sources["webm"], "audio")
    url = downloads.media.url
    sound = {"format_id": "251", "ext": "webm", "acodec": "opus", "vcodec": "none"}
    small = {"format_id": "250", "ext": "webm", "acodec": "opus", "vcodec": "none"}
    muxed = {"format_id": "18", "ext": "mp4", "acodec": "mp4a.40.2", "vcodec": "avc1", "tbr": 900}
    found = {
        "title": "a video",
        "duration": 30,
        "formats": [
            {**muxed, "url": f"{url}/muxed.mp4"},
            {**small, "url": f"{url}/small.webm", "abr": 64},
            {**sound, "url": f"{url}/audio.webm", "abr": 96},
        ],
    }

    def extract(self: YoutubeIE, url: str) -> dict[str, Any]:
        return {"id": self._match_id(url), **copy.deepcopy(found)}

    monkeypatch.setattr(YoutubeIE, "_real_extract", extract)
    return found


def test_a_youtube_video_gives_its_best_audio_when_youtube_says(
    youtube: dict[str, Any], downloads: Downloads
) -> None:
    begin = time.time() + 2
    youtube["formats"][-1]["available_at"] = int(begin)
    with Source(DownloadSettings()) as source:
        clip, form = source.fetch(Section("-0Gj8-vB1q4", 3, 5))
    assert (clip.samples.shape, form) == ((2, 64000), "251 opus")
    assert {name for _, name in downloads.media.requests} == {"audio.webm"}
    assert time.time() >= int(begin)


def test_a_video_that_is_known_to_be_too_short_is_not_downloaded(
    youtube: dict[str, Any], downloads: Downloads
) -> None:
    with Source(DownloadSettings()) as source, pytest.raises(ClipError) as raised:
        source.fetch(Section("0123456789a", 30, 40))
    assert raised.value.reason == "short"
    assert downloads.media.requests == []


def test_a_video_without_audio_is_a_row(youtube: dict[str, Any]) -> None:
    youtube["formats"] = []
    with Source(DownloadSettings()) as source, pytest.raises(ClipError) as raised:
        source.fetch(Section("0123456789a", 3, 5))
    assert raised.value.reason == "no_formats"


def test_a_bug_in_an_extractor_is_a_row_and_not_a_crash(
    monkeypatch: pytest.MonkeyPatch, downloads: Downloads
) -> None:
    from yt_dlp.extractor.youtube import YoutubeIE

    def break_down(self: YoutubeIE, url: str) -> None:
        raise KeyError("streamingData")

    monkeypatch.setattr(YoutubeIE, "_real_extract", break_down)
    with Source(DownloadSettings()) as source, pytest.raises(ClipError) as raised:
        source.fetch(Section("0123456789a", 30, 40))
    assert raised.value.reason == "other"


def test_another_environment_is_told_which_python_to_use(tmp_path: Path) -> None:
    python = ROOT / "envs" / "generator" / ".venv" / "bin" / "python"
    done = subprocess.run(
        [str(python), str(ROOT / "download_data.py"), "--limit", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3
    assert "envs/downloader/.venv/bin/python download_data.py" in done.stderr
    assert "yt_dlp" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_teaches_by_examples() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "download_data.py"), "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    for word in ("Examples:", "--split balanced", "--retry", "--check", "Exit codes:"):
        assert word in done.stdout
