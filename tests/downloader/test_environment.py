"""The environment has all that YouTube needs, and YouTube's addresses come to its extractor."""

import copy
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest
from yt_dlp import YoutubeDL
from yt_dlp.extractor.youtube import YoutubeIE
from yt_dlp.utils import ExtractorError

from src.data.audio import Clip
from src.data.downloads.clip import ClipError, Reason, fetch, open_ydl
from src.data.downloads.settings import DownloadSettings
from src.data.prompts import Prompt
from tests.downloader.conftest import ROOT, Downloads

Answer = dict[str, Any] | Exception


def test_ffmpeg_and_the_javascript_runtime_are_inside_the_environment(
    downloads: Downloads,
) -> None:
    environment = Path(sys.prefix)
    assert environment in Path(imageio_ffmpeg.get_ffmpeg_exe()).parents
    with YoutubeDL({"quiet": True}) as ydl:
        deno = ydl._js_runtimes["deno"].info
    assert environment in Path(deno.path).parents
    assert deno.supported
    ran = subprocess.run([deno.path, "eval", "console.log(6 * 7)"], capture_output=True, text=True)
    assert ran.stdout.strip() == "42"


def test_the_scripts_for_youtubes_challenges_are_those_that_yt_dlp_wants() -> None:
    wanted = [r for r in requires("yt-dlp") or [] if r.startswith("yt-dlp-ejs")]
    assert any(f"=={version('yt-dlp-ejs')}" in requirement for requirement in wanted)


@pytest.fixture
def video(downloads: Downloads) -> dict[str, Any]:
    """What YouTube's extractor finds for a video of 30 s; its audio lies on the local host."""
    downloads.host("audio")
    url = downloads.media.url
    sound = {"ext": "webm", "acodec": "opus", "vcodec": "none"}
    muxed = {"format_id": "18", "ext": "mp4", "acodec": "mp4a.40.2", "vcodec": "avc1", "tbr": 900}
    return {
        "title": "a video",
        "duration": 30,
        "formats": [
            {**muxed, "url": f"{url}/muxed.mp4"},
            {**sound, "format_id": "250", "url": f"{url}/small.webm", "abr": 64},
            {**sound, "format_id": "251", "url": f"{url}/audio.webm", "abr": 96},
        ],
    }


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Clip, str]]:
    """Fetches a section of a video of which YouTube gives this answer."""

    def fetched(answer: Answer, ytid: str, start: float, end: float) -> tuple[Clip, str]:
        def extract(self: YoutubeIE, url: str) -> dict[str, Any]:
            assert url == f"https://www.youtube.com/watch?v={ytid}"
            if isinstance(answer, Exception):
                raise answer
            return {"id": self._match_id(url), **copy.deepcopy(answer)}

        monkeypatch.setattr(YoutubeIE, "_real_extract", extract)
        clip, settings = Prompt(ytid, "", ytid, None, start, end), DownloadSettings()
        with open_ydl(settings) as ydl:
            return fetch(ydl, clip, settings)

    return fetched


def test_a_youtube_video_gives_its_best_audio_when_youtube_says(
    video: dict[str, Any], fetched: Callable[..., tuple[Clip, str]], downloads: Downloads
) -> None:
    begin = time.time() + 2
    video["formats"][-1]["available_at"] = int(begin)
    clip, form = fetched(video, "-0Gj8-vB1q4", 3, 5)
    assert (clip.samples.shape, form) == ((2, 64000), "251 opus")
    assert {name for _, name in downloads.media.requests} == {"audio.webm"}
    assert time.time() >= int(begin)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ExtractorError("Private video. Sign in", expected=True), Reason.GONE),
        ({"duration": 12}, Reason.GONE),  # known to be too short
        ({"formats": []}, Reason.BLOCKED),
        (KeyError("streamingData"), Reason.BLOCKED),  # a bug in the extractor
    ],
)
def test_a_video_that_youtube_refuses_is_not_downloaded_and_no_crash(
    answer: Answer,
    reason: Reason,
    video: dict[str, Any],
    fetched: Callable[..., tuple[Clip, str]],
    downloads: Downloads,
) -> None:
    with pytest.raises(ClipError) as raised:
        fetched({**video, **answer} if isinstance(answer, dict) else answer, "0123456789a", 15, 25)
    assert raised.value.reason == reason
    assert downloads.media.requests == []


def test_another_environment_names_the_python_to_use(tmp_path: Path) -> None:
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


def test_help_teaches_by_examples(downloads: Downloads) -> None:
    code, output, _ = downloads.run("--help")
    assert code == 0
    assert all(word in output for word in ("Examples:", "--split balanced", "Exit codes:"))
