"""All clips, several at a time, politely.

Workers fetch and write audio; this thread alone appends to the manifest, one row a clip. Clips
begin at most `rate_limit` times a minute; when a host is too busy, everybody waits, longer each
time. A run that is refused again and again ends with advice instead of asking on.
"""

import logging
import random
import threading
import time
from collections.abc import Sequence
from importlib.metadata import version
from multiprocessing.pool import ThreadPool
from pathlib import Path

from yt_dlp import YoutubeDL

from src.data.downloads.failures import ClipError, Reason
from src.data.downloads.manifest import Manifest, Row, describe, keep, misfit, row
from src.data.downloads.settings import DownloadSettings
from src.data.downloads.source import fetch, open_ydl
from src.data.progress import bar
from src.data.prompt_table import Prompt

log = logging.getLogger(__name__)

WALL = 8  # clips that are refused, one after the other, before the run gives up
LONGEST_BACKOFF = 600.0
ADVICE = {
    Reason.BLOCKED: "The host refuses this machine, or yt-dlp is out of date. Where YouTube asks "
    "for a sign-in: sign in to it in a browser and pass --cookies_from_browser firefox (or chrome, "
    "..), or a cookies.txt with --cookies. Such an account can be blocked for too many requests: "
    "use one that you can spare, and a low --rate_limit. Otherwise upgrade yt-dlp (see "
    "envs/downloader/requirements.in), or pass --proxy",
    Reason.AGAIN: "The host is busy or cannot be reached. Look at the network, --proxy and "
    "--url_template. After too many requests wait an hour, then go on with a lower --rate_limit",
}


class Pace:
    """When the next clip may begin, for all workers together."""

    def __init__(self, per_minute: float) -> None:
        self._interval = 60 / per_minute if per_minute else 0.0
        self._lock, self._next = threading.Lock(), 0.0

    def wait(self) -> None:
        """Until this caller's turn."""
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self._interval * random.uniform(0.75, 1.25)
        time.sleep(max(0.0, turn - time.monotonic()))

    def back_off(self, seconds: float) -> None:
        """Nobody begins for this long."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


def wanted(settings: DownloadSettings, manifest: Manifest, clips: Sequence[Prompt]) -> list[Prompt]:
    """The clips to be tried: not there, and not gone unless --retry asks for those.

    A file that no row calls good is taken in when it is the section (a run was killed between the
    two, or somebody had it), and left alone when it is not.
    """
    todo = []
    for clip in manifest.missing(clips, settings.sample_rate):
        known, path = manifest.rows.get(clip.id, {}), manifest.audio(clip)
        if known.get("status", "failed") == "failed" and path.exists():
            facts = describe(path)
            if problem := misfit(facts, clip, settings.sample_rate):
                message = f"{path} was not made by this script: it {problem}. Move it away"
                log.warning("%s", message)
                manifest.append(row(clip, "failed", reason=Reason.AGAIN, message=message))
            else:
                manifest.append(row(clip, "ok", **facts))
        elif settings.retry or known.get("reason") != Reason.GONE:
            todo.append(clip)
    return todo


def fetch_all(
    settings: DownloadSettings, manifest: Manifest, clips: Sequence[Prompt], total: int
) -> str | None:
    """Try every clip once. Returns why the run ended early and what to do; None when it did not.

    total: clips asked for, of which the others are settled already. Raises OSError,
    CookiesError, KeyboardInterrupt; what is finished by then is in the manifest.
    """
    pace, mine = Pace(settings.rate_limit), threading.local()

    def one(clip: Prompt) -> Row:
        if not hasattr(mine, "ydl"):
            mine.ydl = open_ydl(settings)
        return _one(settings, clip, manifest.audio(clip), mine.ydl, pace)

    refused: list[Reason] = []
    workers = min(settings.workers, len(clips))
    with (
        bar("download", total, total - len(clips), "clip") as progress,
        ThreadPool(workers) as pool,  # of daemons: none that waits for a host keeps the process
    ):
        for found in pool.imap_unordered(one, clips):
            manifest.append(found)
            progress.update()
            reason = found.get("reason")
            if reason:
                log.warning("%s: %s: %s", found["ytid"], reason, found["message"])
            refused = [*refused, reason] if reason in ADVICE else []
            if len(refused) == WALL:
                advice = ADVICE[max(ADVICE, key=refused.count)]
                return f"{advice}. The last message: {found['message']}"
    return None


def _one(settings: DownloadSettings, clip: Prompt, path: Path, ydl: YoutubeDL, pace: Pace) -> Row:
    """A clip's row, after its file is written. Raises OSError when it cannot be written"""
    versions = {"yt_dlp": version("yt-dlp"), "yt_dlp_ejs": version("yt-dlp-ejs")}
    tries = 1
    while True:
        pace.wait()
        try:
            audio, form = fetch(ydl, clip, settings)
        except ClipError as error:
            if error.reason != Reason.AGAIN or tries == settings.tries:
                why = {"reason": error.reason, "message": str(error), "tries": tries}
                return row(clip, "failed", **why, **versions)
            seconds = max(error.retry_after, settings.backoff * 2 ** (tries - 1))
            seconds = min(LONGEST_BACKOFF, seconds) * random.uniform(1.0, 1.5)
            log.info("%s: %s; again in %.0f s", clip.id, error, seconds)
            pace.back_off(seconds)
            tries += 1
        else:
            return row(clip, "ok", **keep(path, audio), source=form, **versions)
