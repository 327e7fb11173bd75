"""Three classes of failure, from what YouTube says and from what earlier versions wrote."""

import json

import pytest
from yt_dlp.utils import ExtractorError

from src.data.downloads.clip import Reason, media_failure, page_failure
from tests.downloader.conftest import Downloads

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


@pytest.mark.parametrize(("reason", "text"), [(r, t) for r, ts in PAGES.items() for t in ts])
def test_a_refusal_in_words_has_its_class_and_keeps_its_words(reason: Reason, text: str) -> None:
    failure = page_failure(ExtractorError(text, expected=True, video_id="x"))
    assert (failure.reason, str(failure)) == (reason, text)


@pytest.mark.parametrize(("reason", "text"), [(r, t) for r, ts in MEDIA.items() for t in ts])
def test_what_ffmpeg_says_has_its_class(reason: Reason, text: str) -> None:
    failure = media_failure(f"[https @ 0x55] {text}\n" if text else "", "1 s of 2 s")
    assert failure.reason == reason
    assert str(failure) == f"1 s of 2 s: {text}".removesuffix(": ")


def test_a_page_that_no_extractor_expects_is_blocked() -> None:
    assert page_failure(ExtractorError("Failed to extract x")).reason == Reason.BLOCKED


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
