"""One clip: yt-dlp finds the audio of a video, ffmpeg reads the section alone and decodes it.

    with Source(settings) as source:
        clip, form = source.fetch(section)

yt-dlp knows the sites. Its own way to cut (download_ranges) hides what the media host answered and
copies packets, which begins up to a packet early; so ffmpeg is called here, with the address,
headers and cookies that yt-dlp found: it seeks by range requests, so little more than the section
is transferred, and decodes from before the cut, so that it is exact to the sample. ffmpeg and the
JavaScript runtime are those of this environment; nothing is looked for on the PATH.
"""

import io
import logging
import math
import optparse
import os
import re
import subprocess
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import numpy as np
import soundfile

from src.data.audio import Clip, resample
from src.data.downloads.reasons import by_message, by_status
from src.data.downloads.settings import DownloadSettings
from src.data.musiccaps import Section

log = logging.getLogger(__name__)

TOLERANCE = 0.1  # seconds; encoders round a video's end to packets
FORMAT = "ba[protocol!=http_dash_segments]/b[protocol!=http_dash_segments]"
PREROLL = 1.0  # seconds decoded before the cut
SOCKET_SECONDS = 20.0
LONGEST_WAIT = 60.0  # seconds that a site may ask to wait between its answer and the media


class ClipError(Exception):
    """A clip that could not be had. reason: of reasons.REASONS. retry_after: seconds that the host
    asked to wait, if it did."""

    def __init__(self, reason: str, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after = retry_after


class CookiesError(ValueError):
    """Cookies that cannot be read, from a file or a browser."""


class Stopped(Exception):
    """The run ends; nothing is known about the clip."""


class Source:
    """Fetches clips, one after the other. Each worker has its own: yt-dlp's object is not shared
    between threads. Raises CookiesError. Once `stop` is set, fetch ends with Stopped."""

    def __init__(self, settings: DownloadSettings, stop: threading.Event | None = None) -> None:
        from yt_dlp import YoutubeDL
        from yt_dlp.cookies import CookieLoadError
        from yt_dlp.utils import DownloadError

        self._settings = settings
        self._stop = stop or threading.Event()
        try:
            self._ydl = YoutubeDL(_options(settings))
            _ = self._ydl.cookiejar  # it is read when first asked for
        except (CookieLoadError, DownloadError, OSError, UnicodeDecodeError) as error:
            raise CookiesError(f"the cookies cannot be read: {_tidy(str(error))}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ydl.close()

    def fetch(self, section: Section) -> tuple[Clip, str]:
        """The section at settings.sample_rate, float32 [channels, samples], not over its length and
        at most TOLERANCE under it; and the codec that it came in. Raises ClipError, Stopped."""
        found = self._find(self._settings.url_template.replace("{ytid}", section.ytid))
        length = found.get("duration")
        if length and length < section.end_s - 1:  # sites give whole seconds
            raise ClipError("short", f"the video lasts {length:g} s, the section ends at "
                            f"{section.end_s:g} s")  # fmt: skip
        wait = float(found.get("available_at") or 0) - time.time()
        if wait > 0 and self._stop.wait(min(wait, LONGEST_WAIT)):
            raise Stopped
        rate = self._settings.sample_rate
        clip = resample(self._decode(found, section), rate)
        samples = clip.samples[:, : round(section.seconds * rate)]
        seconds = samples.shape[1] / rate
        if seconds < section.seconds - TOLERANCE:
            raise ClipError("short", f"{seconds:.2f} s of the section's {section.seconds:g} s")
        codec = found.get("acodec") or found.get("ext") or "unknown"
        return Clip(samples, rate), f"{found.get('format_id') or '?'} {codec}"

    def _find(self, url: str) -> dict[str, Any]:
        """yt-dlp's description of the best audio behind a page: its address, headers, protocol."""
        from yt_dlp.networking.exceptions import HTTPError, TransportError
        from yt_dlp.utils import DownloadError, YoutubeDLError

        try:
            found = self._ydl.extract_info(url, download=False)
        except (YoutubeDLError, OSError) as error:
            inner = error.exc_info[1] if isinstance(error, DownloadError) else error
            cause = getattr(inner, "cause", None) or inner
            message = _tidy(str(error))
            if isinstance(cause, HTTPError):
                after = cause.response.headers.get("Retry-After") or ""
                raise ClipError(
                    by_status(cause.status), message, float(after) if after.isdigit() else 0.0
                ) from error
            reason = by_message(message)
            if reason in ("other", "unavailable") and isinstance(cause, TransportError | OSError):
                reason = "network"
            raise ClipError(reason, message) from error
        except Exception as error:  # extractors meet pages that nobody foresaw
            log.debug("%s", url, exc_info=True)
            raise ClipError("other", f"{type(error).__name__}: {error}") from error
        if not found or not found.get("url"):
            raise ClipError("no_formats", "yt-dlp found no audio with an address of its own")
        return dict(found)

    def _decode(self, found: Mapping[str, Any], section: Section) -> Clip:
        """The section as ffmpeg decodes it, at the source's rate, float32 [channels, samples]."""
        process = subprocess.Popen(
            self._command(found, section),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment(),
            start_new_session=True,  # the terminal's Ctrl-C is for this process to pass on
        )
        deadline = time.monotonic() + self._settings.timeout
        try:
            while True:
                try:
                    output, errors = process.communicate(timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    if self._stop.is_set():
                        raise Stopped from None
                    if time.monotonic() > deadline:
                        raise ClipError(
                            "network", f"not there after {self._settings.timeout:g} s (--timeout)"
                        ) from None
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
        message = _tidy(errors.decode("utf-8", "replace"))
        clip = _read(output)
        if process.returncode == 0 and clip and clip.seconds >= section.seconds - TOLERANCE:
            return clip
        reason = by_message(message)
        if reason in ("other", "unavailable", "no_formats"):
            reason = "decoding" if process.returncode else "short"
        if reason == "removed":  # the page was there a moment ago
            reason = "refused"
        if reason == "short":
            message = ""  # only that nothing was left to decode
        seconds = clip.seconds if clip else 0.0
        what = f"{seconds:.2f} s of the section's {section.seconds:g} s"
        raise ClipError(reason, f"{what}: {message}" if message else what)

    def _command(self, found: Mapping[str, Any], section: Section) -> list[str]:
        url = str(found["url"])
        command = [ffmpeg_path(), "-nostdin", "-hide_banner", "-loglevel", "warning"]
        if url.startswith("http"):
            patience = math.ceil(min(SOCKET_SECONDS, self._settings.timeout) * 1e6)
            command += ["-rw_timeout", str(patience), "-reconnect", "1"]
            command += ["-reconnect_delay_max", "4"]
            headers: Mapping[str, str] = found.get("http_headers") or {}
            command += ["-headers", "".join(f"{k}: {v}\r\n" for k, v in headers.items())]
            if cookies := self._ydl.cookiejar.get_cookies_for_url(url):
                jar = (f"{c.name}={c.value}; path={c.path}; domain={c.domain};" for c in cookies)
                command += ["-cookies", "\r\n".join(jar) + "\r\n"]
        elif url.startswith("file:"):
            url = "file:" + unquote(urlsplit(url).path)
        # -ss alone is up to 20 ms early, by the codec's delay; so it seeks to somewhat before the
        # section, and the cut is by the source's own time stamps.
        command += ["-copyts", "-start_at_zero"]
        if section.start_s > PREROLL:
            command += ["-ss", f"{section.start_s - PREROLL:.6f}"]
        cut = f"atrim=start={section.start_s:.6f}:end={section.end_s:.6f},asetpts=PTS-STARTPTS"
        command += ["-i", url, "-map", "0:a:0", "-af", cut]
        # AU is the container of raw samples that needs no length in its header
        return [*command, "-c:a", "pcm_f32be", "-f", "au", "pipe:1"]

    def _environment(self) -> dict[str, str]:
        proxy = self._settings.proxy
        return {**os.environ, **({"http_proxy": proxy, "HTTP_PROXY": proxy} if proxy else {})}


def ffmpeg_path() -> str:
    """The ffmpeg inside imageio-ffmpeg's wheel, or that of IMAGEIO_FFMPEG_EXE."""
    import imageio_ffmpeg

    return str(imageio_ffmpeg.get_ffmpeg_exe())


def versions() -> dict[str, str]:
    """What decides how a clip is found."""
    from importlib.metadata import version

    return {"yt_dlp": version("yt-dlp"), "yt_dlp_ejs": version("yt-dlp-ejs")}


def _options(settings: DownloadSettings) -> dict[str, Any]:
    """For YoutubeDL. Cookies are read from a copy in memory: yt-dlp writes them back when it ends,
    and several at once would tear the user's file."""
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
        "ffmpeg_location": ffmpeg_path(),
        "enable_file_urls": settings.url_template.startswith("file:"),
        "sleep_interval_requests": 0.75 if settings.rate_limit else 0,
    }
    if settings.proxy:
        options["proxy"] = settings.proxy
    if settings.cookies:
        options["cookiefile"] = io.StringIO(settings.cookies.read_text(encoding="utf-8"))
    if settings.cookies_from_browser:
        from yt_dlp import parse_options

        try:
            parsed = parse_options(["--cookies-from-browser", settings.cookies_from_browser])
        except optparse.OptParseError as error:
            raise CookiesError(str(error).split("error: ")[-1]) from error
        options["cookiesfrombrowser"] = parsed.ydl_opts["cookiesfrombrowser"]
    return options


def _read(data: bytes) -> Clip | None:
    """An AU file, cut short or not; None where there is no sample in it."""
    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except soundfile.SoundFileError:
        return None
    return Clip(np.ascontiguousarray(samples.T), rate) if samples.size else None


def _tidy(message: str) -> str:
    """A message in one line, without what is the same in all of them."""
    text = re.sub(r"\[[^\]\s]+ @ 0x[0-9a-f]+\]", "", message)
    text = " ".join(text.split()).removeprefix("ERROR: ")
    return text.split("; please report this issue")[0][:500]
