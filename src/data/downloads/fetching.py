"""All clips, several at a time, politely.

Workers fetch and write audio; this thread alone appends to the manifest, one row a clip. Clips
begin at most `rate_limit` times a minute; when a host is too busy, everybody waits, longer each
time. A run that meets the same wall again and again ends with advice instead of asking on.
"""

import logging
import queue
import random
import threading
import time
from collections.abc import Sequence

from src.data.downloads.manifest import (
    FolderError,
    Manifest,
    Row,
    failed_row,
    good_row,
    inspect_file,
    is_there,
    keep,
)
from src.data.downloads.reasons import BUSY, REASONS, WALLS
from src.data.downloads.settings import DownloadSettings
from src.data.downloads.source import ClipError, Source, Stopped, versions
from src.data.musiccaps import Section
from src.data.progress import bar

log = logging.getLogger(__name__)

WALL = 8  # clips that end at a wall, one after the other, before the run gives up
LONGEST_BACKOFF = 600.0


class Pace:
    """When the next clip may begin, for all workers together."""

    def __init__(self, per_minute: float, stop: threading.Event) -> None:
        self._interval = 60 / per_minute if per_minute else 0.0
        self._stop, self._lock, self._next = stop, threading.Lock(), 0.0

    def wait(self) -> None:
        """Until this caller's turn. Raises Stopped."""
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self._interval * random.uniform(0.75, 1.25)
        if self._stop.wait(max(0.0, turn - time.monotonic())):
            raise Stopped

    def back_off(self, seconds: float) -> None:
        """Nobody begins for this long. Raises Stopped."""
        until = time.monotonic() + seconds
        with self._lock:
            self._next = max(self._next, until)
        if self._stop.wait(seconds):
            raise Stopped


def wanted(
    settings: DownloadSettings, manifest: Manifest, sections: Sequence[Section]
) -> list[Section]:
    """The clips to be tried: not there, and not failed for good unless --retry asks for those.

    A file that no row calls good is taken in when it is the section (a run was killed between the
    two, or somebody had it), and left alone when it is not.
    """
    todo = []
    for section in sections:
        row, path = manifest.rows.get(section.ytid), manifest.audio(section)
        if is_there(manifest, section, settings.sample_rate):
            continue
        strange = row is None or (row["status"] != "ok" and row.get("reason") != "damaged")
        if strange and path.exists():
            facts, problem = inspect_file(path, section, settings.sample_rate)
            if problem:
                message = f"{path} was not made by this script: it {problem}"
                manifest.append(failed_row(section, "in_the_way", message))
            else:
                manifest.append(good_row(section, facts))
            continue
        reason = REASONS.get(str((row or {}).get("reason")), REASONS["other"])
        if reason.passes or settings.retry:
            todo.append(section)
    return todo


def fetch_all(
    settings: DownloadSettings, manifest: Manifest, sections: Sequence[Section], total: int
) -> str | None:
    """Try every section once. Returns the wall that ended the run early, None when nothing did.

    total: clips asked for, of which the others are settled already. Raises FolderError,
    KeyboardInterrupt; what is finished by then is in the manifest.
    """
    stop = threading.Event()
    todo: queue.SimpleQueue[Section] = queue.SimpleQueue()
    for section in sections:
        todo.put(section)
    results: queue.SimpleQueue[Row | BaseException] = queue.SimpleQueue()
    pace = Pace(settings.rate_limit, stop)
    workers = [
        threading.Thread(target=_work, args=(settings, manifest, todo, results, pace, stop))
        for _ in range(min(settings.workers, len(sections)))
    ]
    walls: list[str] = []
    with bar("download", total, total - len(sections), "clip") as progress:
        for worker in workers:
            worker.daemon = True  # one that waits for a host does not keep the process
            worker.start()
        try:
            for _ in sections:
                result = results.get()
                if isinstance(result, BaseException):
                    raise result
                manifest.append(result)
                progress.update()
                reason = result.get("reason", "")
                if reason:
                    log.warning("%s: %s: %s", result["ytid"], reason, result["message"])
                walls = [*walls, reason] if reason in WALLS else []
                if len(walls) == WALL:
                    return max(WALLS, key=walls.count)
        finally:
            stop.set()
            until = time.monotonic() + 2.0
            for worker in workers:
                worker.join(timeout=max(0.0, until - time.monotonic()))
    return None


def _work(
    settings: DownloadSettings,
    manifest: Manifest,
    todo: "queue.SimpleQueue[Section]",
    results: "queue.SimpleQueue[Row | BaseException]",
    pace: Pace,
    stop: threading.Event,
) -> None:
    """Fetch clips until none is left or the run ends; any surprise goes to the main thread."""
    try:
        with Source(settings, stop) as source:
            while not stop.is_set():
                results.put(_one(settings, manifest, todo.get_nowait(), source, pace))
    except (queue.Empty, Stopped):
        pass
    except OSError as error:
        results.put(FolderError(f"{manifest.data_dir} cannot be written: {error}"))
    except BaseException as error:  # unseen, the main thread would wait for ever
        results.put(error)


def _one(
    settings: DownloadSettings, manifest: Manifest, section: Section, source: Source, pace: Pace
) -> Row:
    """A clip's row, after its file is written. Raises Stopped; OSError when it cannot be written"""
    facts: Row = versions()
    for attempt in range(1, settings.tries + 1):
        pace.wait()
        try:
            clip, form = source.fetch(section)
        except ClipError as error:
            if error.reason not in BUSY or attempt == settings.tries:
                return failed_row(section, error.reason, str(error), {**facts, "tries": attempt})
            seconds = max(error.retry_after, settings.backoff * 2 ** (attempt - 1))
            seconds = min(LONGEST_BACKOFF, seconds) * random.uniform(1.0, 1.5)
            log.info("%s: %s; again in %.0f s", section.ytid, error.reason, seconds)
            pace.back_off(seconds)
        else:
            return good_row(
                section, {**keep(manifest.audio(section), clip), "source": form, **facts}
            )
    raise AssertionError("a clip ends in its last try")
