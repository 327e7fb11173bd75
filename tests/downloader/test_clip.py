"""One clip: what the environment brings for YouTube, and three classes of failure."""

import copy
import json
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
from src.data.downloads import clip as clips
from src.data.downloads.clip import ClipError, Reason
from src.data.downloads.settings import DownloadSettings
from src.data.prompts import Prompt
from tests.downloader.conftest import Downloads

Answer = dict[str, Any] | Exception
Fetched = Callable[[Answer, str, float, float], tuple[Clip, str]]

# As YouTube words them, and yt-dlp passes them on.
PAGES = {
    Reason.GONE: [
        "Video unavailable",
        "This video is not available",
        "Video unavailable. This video is no longer available because the YouTube account "
        "associated with this video has been terminated.",
        "Private video. Sign in if you've been granted access to this video",
        "Sign in to confirm your age. This video may be inappropriate for some users. Use "
        "--cookies-from-browser",
        "The uploader has not made this video available in your country",
        "Video unavailable. This video contains content from Y, who has blocked it in your country",
        "Join this channel to get access to members-only content like this video",
        "This video is DRM protected",
    ],
    Reason.BLOCKED: [
        "Sign in to confirm you\u2019re not a bot. Use --cookies-from-browser or --cookies",
        "Please sign in. Use --cookies",
        "Video unavailable. YouTube is requiring a captcha challenge before playback",
        "All player responses are invalid. Your IP is likely being blocked by Youtube",
        "The following content is not available on this app. Watch on the latest version of "
        "YouTube",
        "Requested format is not available. Use --list-formats",
        "No video formats found!",
    ],
    Reason.AGAIN: [
        "This content isn't available, try again later. The current session has been rate-limited "
        "by YouTube for up to an hour.",
    ],
}
MEDIA = {
    Reason.GONE: ["Invalid data found when processing input", ""],
    Reason.BLOCKED: ["HTTP error 403 Forbidden", "HTTP error 404 Not Found"],
    Reason.AGAIN: ["Stream ends prematurely at 100, should be 200", "HTTP error 503 x"],
}


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
def fetched(monkeypatch: pytest.MonkeyPatch) -> Fetched:
    """Fetches a section of a video of which YouTube gives this answer."""

    def fetched(answer: Answer, ytid: str, start: float, end: float) -> tuple[Clip, str]:
        def extract(self: YoutubeIE, url: str) -> dict[str, Any]:
            assert url == f"https://www.youtube.com/watch?v={ytid}"
            if isinstance(answer, Exception):
                raise answer
            return {"id": self._match_id(url), **copy.deepcopy(answer)}

        monkeypatch.setattr(YoutubeIE, "_real_extract", extract)
        settings = DownloadSettings()
        with clips.open_ydl(settings) as ydl:
            return clips.fetch(ydl, Prompt(ytid, "", ytid, None, start, end), settings)

    return fetched


def test_a_youtube_video_gives_its_best_audio_when_youtube_says(
    video: dict[str, Any], fetched: Fetched, downloads: Downloads
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
    answer: Answer, reason: Reason, video: dict[str, Any], fetched: Fetched, downloads: Downloads
) -> None:
    with pytest.raises(ClipError) as raised:
        fetched({**video, **answer} if isinstance(answer, dict) else answer, "0123456789a", 15, 25)
    assert raised.value.reason == reason
    assert downloads.media.requests == []


@pytest.mark.parametrize(("reason", "text"), [(r, t) for r, ts in PAGES.items() for t in ts])
def test_a_refusal_in_words_has_its_class_and_keeps_its_words(reason: Reason, text: str) -> None:
    failure = clips.page_failure(ExtractorError(text, expected=True, video_id="x"))
    assert (failure.reason, str(failure)) == (reason, text)


@pytest.mark.parametrize(("reason", "text"), [(r, t) for r, ts in MEDIA.items() for t in ts])
def test_what_ffmpeg_says_has_its_class(reason: Reason, text: str) -> None:
    failure = clips.media_failure(f"[https @ 0x55] {text}\n" if text else "", "1 s of 2 s")
    assert failure.reason == reason
    assert str(failure) == f"1 s of 2 s: {text}".removesuffix(": ")


def test_a_manifest_of_an_earlier_version_is_read_in_the_classes_of_today(
    downloads: Downloads,
) -> None:
    once = ("private", "geo_blocked", "short", "bot_check", "server_error", "damaged")
    downloads.offer(*once)
    downloads.data_dir.mkdir()
    row = {"status": "failed", "message": "as it was"}
    lines = [json.dumps({"ytid": name, "reason": name, **row}) + "\n" for name in once]
    (downloads.data_dir / "manifest.jsonl").write_text("".join(lines))
    (downloads.data_dir / "damaged.wav").write_bytes(b"no longer audio")
    _, output, _ = downloads.run("--check")
    for said in ("3  gone", "2  again", "1  damaged", "3  as it was"):
        assert said in output
    code, output, _ = downloads.run()
    assert (code, "3 of 6 clips" in output) == (1, True)
    assert downloads.wavs() == ["bot_check.wav", "damaged.wav", "server_error.wav"]
    assert downloads.run("--retry")[0] == 0
