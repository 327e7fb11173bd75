"""Why a clip could not be had: one of three classes, and the message of yt-dlp or ffmpeg.

yt-dlp's exceptions say most of it: an HTTP status, a broken connection, or an error that its
extractor expects (the video itself is the matter). Only where YouTube answers 200 and refuses in
words are words looked at.
"""

import re
from enum import StrEnum

from yt_dlp.networking.exceptions import HTTPError, TransportError
from yt_dlp.utils import ExtractorError


class Reason(StrEnum):
    """GONE: asking again does not help; left alone until --retry. BLOCKED: the host refuses this
    machine, or yt-dlp is too old for it; tried again by the next run. AGAIN: the host is busy or
    the connection broke; tried again after a pause, and by the next run."""

    GONE = "gone"
    BLOCKED = "blocked"
    AGAIN = "again"


class ClipError(Exception):
    """A clip that could not be had. retry_after: seconds that the host asked to wait, if it did."""

    def __init__(self, reason: Reason, message: str, retry_after: float = 0.0) -> None:
        super().__init__(one_line(message))
        self.reason = reason
        self.retry_after = retry_after


# Words of pages, the first that fits: private videos and those for adults say "sign in" too.
_PAGE = (
    (Reason.GONE, r"private video|confirm your age|age.restricted"),
    (Reason.AGAIN, r"try again later|rate.?limit|too many requests"),
    (
        Reason.BLOCKED,
        r"not a bot|captcha|unusual traffic|blocked by youtube|sign in|log ?in|registered users|"
        r"on this app|latest version of youtube|unsupported url|\bformats?\b",
    ),
)
_STATUSES = {  # others are BLOCKED
    **dict.fromkeys((404, 410, 451), Reason.GONE),
    **dict.fromkeys((408, 425, 429, *range(500, 600)), Reason.AGAIN),
}
_BROKEN = (
    r"timed? ?out|connection|unreachable|name or service|resol(ve|ution)|prematurely|"
    r"input/output error|end of file|\bssl\b|\btls\b|http error (408|425|429|5\d\d)"
)


def page_failure(error: Exception) -> ClipError:
    """What an error of yt-dlp's says about the page that it read."""
    inner = error.__context__ if isinstance(error.__context__, ExtractorError) else error
    cause, expected = getattr(inner, "cause", None), getattr(inner, "expected", False)
    message = getattr(inner, "orig_msg", None) or f"{type(inner).__name__}: {inner}"
    if cause and not expected:
        message = f"{message} ({cause!r})"
    if isinstance(cause, HTTPError):
        after = cause.response.headers.get("Retry-After") or ""
        reason = _STATUSES.get(cause.status, Reason.BLOCKED)
        return ClipError(reason, message, float(after) if after.isdigit() else 0.0)
    if isinstance(cause or inner, TransportError | OSError):
        return ClipError(Reason.AGAIN, message)
    for reason, words in _PAGE:
        if re.search(words, message, re.I):
            return ClipError(reason, message)
    # What no extractor expects is a page that this yt-dlp does not understand.
    return ClipError(Reason.GONE if expected else Reason.BLOCKED, message)


def media_failure(message: str, have: str) -> ClipError:
    """What ffmpeg's messages say about the media behind a page; have: how much of it came."""
    reason = Reason.GONE
    if re.search(_BROKEN, message, re.I):
        reason = Reason.AGAIN
    elif re.search(r"http error", message, re.I):  # even 404: the page was there a moment ago
        reason = Reason.BLOCKED
    return ClipError(reason, f"{have}: {message}" if message.strip() else have)


def one_line(message: str) -> str:
    """A message in one line, without what is the same in all of them."""
    text = re.sub(r"\[[^\]\s]+ @ 0x[0-9a-f]+\]", "", message)
    text = " ".join(text.split()).removeprefix("ERROR: ")
    return text.split("; please report this issue")[0][:500]
