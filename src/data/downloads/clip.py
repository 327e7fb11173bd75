"""One clip: yt-dlp finds the audio of a video, ffmpeg reads the section alone and decodes it.

    with open_ydl(settings) as ydl:
        audio, form = fetch(ydl, clip, settings)

yt-dlp knows the sites. Its own way to cut (download_ranges) hides what the media host answered and
copies packets, which begins up to a packet early; so ffmpeg is called here, with the address,
headers and cookies that yt-dlp found: it seeks by range requests, so little more than the section
is transferred, and decodes from before the cut, so that it is exact to the sample. ffmpeg and the
JavaScript runtime are those of this environment; nothing is looked for on the PATH.

A clip that cannot be had is a ClipError with one of three reasons. yt-dlp's exceptions say most of
it: an HTTP status, a broken connection, or an error that its extractor expects (the video itself is
the matter). Only where YouTube answers 200 and refuses in words are words looked at.
"""

import contextlib
import io
import logging
import math
import optparse
import os
import re
import subprocess
import time
from collections.abc import Mapping
from enum import StrEnum
from typing import Any
from urllib.parse import unquote, urlsplit

import imageio_ffmpeg
from yt_dlp import YoutubeDL, parse_options
from yt_dlp.cookies import CookieLoadError
from yt_dlp.networking.exceptions import HTTPError, TransportError
from yt_dlp.utils import DownloadError, ExtractorError

from src.data.audio import AudioError, Clip, read_audio, resample
from src.data.downloads.settings import DownloadSettings
from src.data.prompts import Prompt

log = logging.getLogger(__name__)

TOLERANCE = 0.1  # seconds; encoders round a video's end to packets
FORMAT = "ba[protocol!=http_dash_segments]/b[protocol!=http_dash_segments]"
PREROLL = 1.0  # seconds decoded before the cut
SOCKET_SECONDS = 20.0
LONGEST_WAIT = 60.0  # seconds that a site may ask to wait between its answer and the media


class CookiesError(ValueError):
    """Cookies that cannot be read, from a file or a browser."""


class Reason(StrEnum):
    GONE = "gone"  # asking again does not help: left alone until --retry
    BLOCKED = "blocked"  # this machine is refused, or yt-dlp is too old: left to the next run
    AGAIN = "again"  # the host is busy or the connection broke: tried again after a pause


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


def open_ydl(settings: DownloadSettings) -> YoutubeDL:
    """yt-dlp, with its cookies read. Each worker has its own: it is not shared between threads.

    Cookies are read from a copy in memory: yt-dlp writes them back when it ends, and several at
    once would tear the user's file. Raises CookiesError.
    """
    options: dict[str, Any] = {
        "quiet": True,
        "no_warnings": True,
        "noprogress": True,
        "color": {"stdout": "no_color", "stderr": "no_color"},
        "logger": logging.getLogger("yt_dlp"),
        "format": FORMAT,
        "noplaylist": True,
        "socket_timeout": min(SOCKET_SECONDS, settings.timeout),
        "extractor_retries": 1,
        "ffmpeg_location": imageio_ffmpeg.get_ffmpeg_exe(),
        "enable_file_urls": settings.url_template.startswith("file:"),
        "sleep_interval_requests": 0.75 if settings.rate_limit else 0,
        "proxy": settings.proxy or None,
    }
    try:
        if settings.cookies:
            options["cookiefile"] = io.StringIO(settings.cookies.read_text(encoding="utf-8"))
        if settings.cookies_from_browser:
            parsed = parse_options(["--cookies-from-browser", settings.cookies_from_browser])
            options["cookiesfrombrowser"] = parsed.ydl_opts["cookiesfrombrowser"]
        ydl = YoutubeDL(options)
        _ = ydl.cookiejar  # it is read when first asked for
    except optparse.OptParseError as error:
        raise CookiesError(str(error).split("error: ")[-1]) from error
    except (CookieLoadError, DownloadError, OSError, UnicodeDecodeError) as error:
        raise CookiesError(f"the cookies cannot be read: {one_line(str(error))}") from error
    return ydl


def fetch(ydl: YoutubeDL, clip: Prompt, settings: DownloadSettings) -> tuple[Clip, str]:
    """The clip's section at settings.sample_rate, float32 [channels, samples], not over its length
    and at most TOLERANCE under it; and the format that it came in. Raises ClipError."""
    try:
        found = ydl.extract_info(settings.url_template.replace("{ytid}", clip.id), download=False)
    except Exception as error:  # extractors meet pages that nobody foresaw
        log.debug("%s", clip.id, exc_info=True)
        raise page_failure(error) from error
    if not found or not found.get("url"):
        raise ClipError(Reason.BLOCKED, "yt-dlp found no audio with an address of its own")
    length = found.get("duration")
    if length and length < clip.end_s - 1:  # sites give whole seconds
        raise ClipError(
            Reason.GONE, f"the video lasts {length:g} s, the section ends at {clip.end_s:g} s"
        )
    wait = float(found.get("available_at") or 0) - time.time()
    time.sleep(min(max(wait, 0.0), LONGEST_WAIT))
    rate = settings.sample_rate
    audio = resample(_decode(_command(ydl, found, clip, settings), clip, settings), rate)
    codec = found.get("acodec") or found.get("ext") or "unknown"
    samples = audio.samples[:, : round(clip.seconds * rate)]
    return Clip(samples, rate), f"{found.get('format_id') or '?'} {codec}"


def _decode(command: list[str], clip: Prompt, settings: DownloadSettings) -> Clip:
    """The section as ffmpeg decodes it, at the source's rate. Raises ClipError."""
    proxy = {name: settings.proxy for name in ("http_proxy", "HTTP_PROXY") if settings.proxy}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=os.environ | proxy,
            timeout=settings.timeout,
            start_new_session=True,  # the terminal's Ctrl-C is for this process
        )
    except subprocess.TimeoutExpired:
        late = f"not there after {settings.timeout:g} s (--timeout)"
        raise ClipError(Reason.AGAIN, late) from None
    seconds = 0.0
    with contextlib.suppress(AudioError):  # not one sample came
        audio = read_audio(io.BytesIO(done.stdout))
        seconds = audio.seconds
        if done.returncode == 0 and seconds >= clip.seconds - TOLERANCE:
            return audio
    have = f"{seconds:.2f} s of the section's {clip.seconds:g} s"
    raise media_failure(done.stderr.decode("utf-8", "replace"), have)


def _command(
    ydl: YoutubeDL, found: Mapping[str, Any], clip: Prompt, settings: DownloadSettings
) -> list[str]:
    """ffmpeg's command line: the section of what was found, as raw samples on its stdout."""
    url = str(found["url"])
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    command = [ffmpeg, "-nostdin", "-hide_banner", "-loglevel", "warning"]
    if url.startswith("http"):
        patience = math.ceil(min(SOCKET_SECONDS, settings.timeout) * 1e6)
        command += ["-rw_timeout", str(patience), "-reconnect", "1", "-reconnect_delay_max", "4"]
        headers: Mapping[str, str] = found.get("http_headers") or {}
        command += ["-headers", "".join(f"{k}: {v}\r\n" for k, v in headers.items())]
        if cookies := ydl.cookiejar.get_cookies_for_url(url):
            jar = (f"{c.name}={c.value}; path={c.path}; domain={c.domain};" for c in cookies)
            command += ["-cookies", "\r\n".join(jar) + "\r\n"]
    elif url.startswith("file:"):
        url = "file:" + unquote(urlsplit(url).path)
    # -ss alone is up to 20 ms early, by the codec's delay; so it seeks to somewhat before the
    # section, and the cut is by the source's own time stamps.
    command += ["-copyts", "-start_at_zero"]
    if clip.start_s > PREROLL:
        command += ["-ss", f"{clip.start_s - PREROLL:.6f}"]
    cut = f"atrim=start={clip.start_s:.6f}:end={clip.end_s:.6f},asetpts=PTS-STARTPTS"
    command += ["-i", url, "-map", "0:a:0", "-af", cut]
    # AU is the container of raw samples that needs no length in its header
    return [*command, "-c:a", "pcm_f32be", "-f", "au", "pipe:1"]


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
