"""What the messages of YouTube, yt-dlp and ffmpeg mean."""

import pytest

from src.data.downloads.reasons import BUSY, REASONS, WALLS, by_message

# As YouTube words them, and yt-dlp passes them on.
MESSAGES = {
    "[youtube] x: Video unavailable": "unavailable",
    "[youtube] x: This video is not available": "unavailable",
    "[youtube] x: Video unavailable. This video has been removed by the uploader": "removed",
    "[youtube] x: This video has been removed for violating YouTube's Terms": "removed",
    "[youtube] x: Video unavailable. This video is no longer available because the YouTube "
    "account associated with this video has been terminated.": "removed",
    "[youtube] x: Video unavailable. The uploader has closed their YouTube account": "removed",
    "[youtube] x: Video unavailable. This video is no longer available due to a copyright claim "
    "by somebody": "removed",
    "[youtube] x: Private video. Sign in if you've been granted access to this video": "private",
    "[youtube] x: This video is private": "private",
    "[youtube] x: Sign in to confirm your age. This video may be inappropriate for some users. "
    "Use --cookies-from-browser": "age_restricted",
    "[youtube] x: Sign in to confirm you\u2019re not a bot. Use --cookies-from-browser or "
    "--cookies for the authentication": "bot_check",
    "[youtube] x: Please sign in. Use --cookies": "bot_check",
    "[youtube] x: Video unavailable. YouTube is requiring a captcha challenge before playback": (
        "bot_check"
    ),
    "[youtube] x: The uploader has not made this video available in your country": "geo_blocked",
    "[youtube] x: Video unavailable. This video contains content from Y, who has blocked it in "
    "your country on copyright grounds": "geo_blocked",
    "[youtube] x: Video unavailable. This video contains content from Y, who has blocked it on "
    "copyright grounds": "removed",
    "This video is not available from your location due to geo restriction": "geo_blocked",
    "[youtube] x: Join this channel to get access to members-only content like this video": "paid",
    "[youtube] x: This video is available to this channel's members on level: Fan": "paid",
    "[youtube] x: This video is only available to Music Premium members": "paid",
    "[youtube] x: This video requires payment to watch": "paid",
    "[youtube] x: This video is DRM protected": "paid",
    "[youtube] x: Premieres in 3 hours": "upcoming",
    "[youtube] x: This live event will begin in 5 days.": "upcoming",
    "[youtube] x: This content isn't available, try again later. The current session has been "
    "rate-limited by YouTube for up to an hour.": "rate_limited",
    "[youtube] x: The following content is not available on this app. Watch on the latest version "
    "of YouTube": "refused",
    "[youtube] x: Requested format is not available. Use --list-formats": "no_formats",
    "[youtube] x: No video formats found!": "no_formats",
    "[youtube] x: Unable to download webpage: HTTP Error 404: Not Found": "removed",
    "[youtube] x: Unable to download API page: HTTP Error 429: Too Many Requests": "rate_limited",
    "[youtube] x: Unable to download API page: HTTP Error 503: Service Unavailable": "server_error",
    "unable to download video data: HTTP Error 403: Forbidden": "refused",
    "[youtube] x: Unable to download webpage: The read operation timed out": "network",
    "[youtube] x: Unable to download webpage: [Errno -2] Name or service not known": "network",
    "[youtube] x: Failed to resolve 'www.youtube.com'": "network",
    "[https @ 0x55] HTTP error 403 Forbidden": "refused",
    "[https @ 0x55] Stream ends prematurely at 100, should be 200": "network",
    "something that nobody has seen": "other",
}


@pytest.mark.parametrize(("message", "reason"), MESSAGES.items())
def test_a_message_gives_its_reason(message: str, reason: str) -> None:
    assert by_message(message) == reason


def test_the_classes_fit_together() -> None:
    assert set(MESSAGES.values()) <= set(REASONS)
    for name in (*BUSY, *WALLS):
        assert REASONS[name].passes
