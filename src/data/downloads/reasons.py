"""Why a clip could not be had: the classes of the manifest, and what yt-dlp's messages mean.

YouTube says most things in words only, so messages are matched; the first pattern that fits
decides. The tests hold the texts that the installed yt-dlp knows.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """text: for the summary. passes: another try later may succeed, so the next run makes one."""

    text: str
    passes: bool


REASONS: dict[str, Reason] = {
    "removed": Reason("the video or its channel is gone", passes=False),
    "unavailable": Reason("YouTube says unavailable, and not why", passes=False),
    "private": Reason("the video is private", passes=False),
    "age_restricted": Reason("wants a signed-in adult: --cookies with --retry", passes=False),
    "paid": Reason("for members or payment only, or DRM", passes=False),
    "geo_blocked": Reason("not shown in this country: --proxy with --retry", passes=False),
    "short": Reason("the video ends before the section does", passes=False),
    "decoding": Reason("what arrived is not audio that ffmpeg decodes", passes=False),
    "upcoming": Reason("announced, not shown yet", passes=True),
    "bot_check": Reason("YouTube asks for a sign-in to see that this is no bot", passes=True),
    "rate_limited": Reason("too many requests", passes=True),
    "refused": Reason("the host refused (403)", passes=True),
    "no_formats": Reason("yt-dlp found no audio: it may be out of date", passes=True),
    "server_error": Reason("the host failed (5xx)", passes=True),
    "network": Reason("no answer, or the connection broke", passes=True),
    "damaged": Reason("the file changed since it was written", passes=True),
    "in_the_way": Reason("another file has its name: move it away", passes=True),
    "other": Reason("see the message in the manifest", passes=True),
}
# Worth another try within seconds.
BUSY = frozenset({"rate_limited", "server_error", "network"})
# Whoever meets these again and again should stop asking.
WALLS = {
    "bot_check": "YouTube takes this machine for a bot. Sign in to YouTube in a browser and pass "
    "--cookies_from_browser firefox (or chrome, ..), or a cookies.txt with --cookies. Such an "
    "account can be blocked for too many requests: use one that you can spare, and a low "
    "--rate_limit",
    "rate_limited": "YouTube has had too many requests from here. Wait an hour, then go on with a "
    "lower --rate_limit",
    "refused": "The host refuses every clip. Upgrade yt-dlp (see envs/downloader/requirements.in), "
    "or pass --cookies or --proxy",
    "no_formats": "yt-dlp finds no audio in any video. Upgrade it (see "
    "envs/downloader/requirements.in), or pass --cookies",
    "server_error": "The host fails again and again. Try later",
    "network": "Nothing can be reached. Look at the network, --proxy and --url_template",
}

_PATTERNS: tuple[tuple[str, str], ...] = tuple(
    (reason, pattern)
    for reason, patterns in (
        ("rate_limited", ["try again later", "rate.?limit", "too many requests"]),
        ("bot_check", ["not a bot", "captcha", "unusual traffic"]),
        ("private", ["private video", "video is private"]),
        (
            "age_restricted",
            ["confirm your age", "age.?restrict", "age.?verif", "inappropriate for some users"],
        ),
        (
            "paid",
            [
                r"members.only",
                r"members? (of|on) ",
                "premium members",
                "join this channel",
                "requires? (payment|purchase)",
                r"\brent\b",
                r"\bdrm\b",
            ],
        ),
        ("geo_blocked", ["your country", "your location", "geo.?restrict", "geo.?block"]),
        ("bot_check", ["sign in", "login required", "login details", "registered users"]),
        ("upcoming", ["premieres? (in|will)", "live event will begin", "offline", "not started"]),
        (
            "removed",
            [
                "removed",
                "terminated",
                "closed their",
                "no longer available",
                "deleted",
                "copyright",
                "does(n.t| not) exist",
                "violat",
            ],
        ),
        ("refused", ["not available on this app", "latest version of youtube", "forbidden"]),
        (
            "no_formats",
            ["no video formats", "requested format", "only images", "unsupported url"],
        ),
        ("unavailable", ["unavailable", "not available", "isn.t available"]),
        (
            "network",
            [
                "timed? ?out",
                "connection",
                "network is unreachable",
                "name or service",
                "name resolution",
                "failed to resolve",
                "incomplete",
                "ends prematurely",
                "input/output error",
                "end of file",
                r"\bssl\b",
                r"\btls\b",
                "unable to download",
            ],
        ),
    )
    for pattern in patterns
)


def by_message(message: str) -> str:
    """The reason class of a message of yt-dlp's or ffmpeg's; an HTTP status in it decides first."""
    if status := re.search(r"\bHTTP error (\d{3})\b", message, re.I):
        return by_status(int(status[1]))
    for reason, pattern in _PATTERNS:
        if re.search(pattern, message, re.I):
            return reason
    return "other"


def by_status(status: int) -> str:
    """The reason class of an HTTP status."""
    if status in (404, 410):
        return "removed"
    if status in (408, 425, 429):
        return "network" if status == 408 else "rate_limited"
    if status == 451:
        return "geo_blocked"
    if status in (401, 402, 403, 407):
        return "refused"
    return "server_error" if status >= 500 else "other"
