"""What download_data.py does: get the table, fetch or check the clips, sum up.

Clips are fetched several at a time, politely. Workers fetch and write audio; one thread alone
appends to the manifest, one row a clip. Clips begin at most `rate_limit` times a minute; when a
host is too busy, everybody waits, longer each time. A run that is refused again and again ends with
advice instead of asking on.
"""

import logging
import random
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from multiprocessing.pool import ThreadPool

from yt_dlp import YoutubeDL

from src.data.downloads.clip import ClipError, Reason, fetch, open_ydl
from src.data.downloads.manifest import Manifest, Row, describe, keep, misfit
from src.data.downloads.settings import DownloadSettings
from src.data.hub import musiccaps_table
from src.data.progress import bar
from src.data.prompts import Prompt, Selection, load_prompts

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
MEANINGS = {
    Reason.GONE: "gone: removed, private, paid, too short; for adults (--cookies) or other "
    "countries (--proxy) only; left alone without --retry",
    Reason.BLOCKED: "blocked: the host refuses this machine, or yt-dlp is out of date",
    Reason.AGAIN: "again: the host is busy, the connection broke, a file is in the way",
    "damaged": "damaged: the file changed since it was written",
    "ok": "to do",
}
MESSAGES = 3  # of each class, in the summary


def run(settings: DownloadSettings) -> bool:
    """Fetch or check, and print what is there. Returns whether every clip asked for is.

    Raises PromptError, SelectionError, CookiesError, FolderError, WriteError, KeyboardInterrupt;
    what is finished by then is in the manifest.
    """
    with Manifest(settings.data_dir) as manifest:
        selection = Selection(limit=settings.limit, subset=settings.split, ids=settings.ids)
        table = musiccaps_table(settings.data_dir, settings.csv, "--csv")
        clips = load_prompts(str(table), selection, settings.data_dir)
        if settings.check:
            problems = check(manifest, clips)
            sys.stdout.write("\n".join([*problems, summary(manifest, clips), ""]))
            return not problems and not manifest.missing(clips)
        if settings.dry_run:
            sys.stdout.write(f"{cost(settings, manifest, clips)}\n")
            return True
        if settings.cookies or settings.cookies_from_browser:
            open_ydl(settings).close()  # complains before anything is begun
        todo = wanted(settings, manifest, clips)
        log.info("%s: %d of %d clips to fetch", settings.data_dir, len(todo), len(clips))
        early = fetch_all(settings, manifest, todo) if todo else None
        sys.stdout.write(f"{summary(manifest, clips, settings.sample_rate)}\n")
        if early:
            sys.stderr.write(f"stopped early. {early}\n")
        return not manifest.missing(clips, settings.sample_rate)


def check(manifest: Manifest, clips: Sequence[Prompt]) -> list[str]:
    """What is wrong with the files, a line each; offline.

    A file that is not what was written is marked in the manifest, so that the next run fetches it
    again. Clips that were never had are left to the summary. Raises FolderError, WriteError.
    """
    problems: list[str] = []
    for clip in clips:
        known, path = manifest.rows.get(clip.id, {}), manifest.audio(clip)
        if known.get("status") != "ok":
            continue
        if not path.exists():
            problem = "missing, though the manifest lists it"
        elif describe(path)["sha256"] != known.get("sha256"):
            problem = "damaged: its sha256 is not the manifest's"
        else:
            continue
        problems.append(f"{path.name}: {problem}")
        manifest.append(clip, "damaged", message=problem)
    made = {ytid for ytid, known in manifest.rows.items() if known["status"] != "failed"}
    names = sorted(path.name for path in manifest.data_dir.glob("*.wav") if path.stem not in made)
    return [*problems, *(f"{name}: unlisted: the manifest does not call it good" for name in names)]


def cost(settings: DownloadSettings, manifest: Manifest, clips: Sequence[Prompt]) -> str:
    """What is left to fetch, as a sentence: at most so many clips, for those that are gone fail."""
    left = [
        clip
        for clip in manifest.missing(clips, settings.sample_rate)
        if settings.retry or manifest.rows.get(clip.id, {}).get("reason") != Reason.GONE
    ]
    mono = sum(clip.seconds for clip in left) * settings.sample_rate * 2 / 1e6
    text = f"{len(left)} of {len(clips)} clips to fetch: {mono:.1f} MB, or {2 * mono:.1f} in stereo"
    if not settings.rate_limit:
        return text
    minutes = len(left) / settings.rate_limit
    return f"{text}; at least {minutes:.0f} minutes at --rate_limit {settings.rate_limit:g}"


def summary(manifest: Manifest, clips: Sequence[Prompt], rate: int | None = None) -> str:
    """How many clips are there, and how many of the others are not for which reason, with its most
    frequent messages.

    rate: Hz that a file must have to count; None for any.
    """
    missing = manifest.missing(clips, rate)
    lines = [f"{len(clips) - len(missing)} of {len(clips)} clips are in {manifest.data_dir}"]
    messages: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for clip in missing:
        known = manifest.rows.get(clip.id, {"status": "ok"})
        name = known.get("reason") or known["status"]  # ok: at another rate, or its file is gone
        messages[name][known.get("message", "")] += 1
    for name, counts in sorted(messages.items(), key=lambda item: -item[1].total()):
        lines.append(f"{counts.total():6d}  {MEANINGS[name]}")
        for message, count in counts.most_common(MESSAGES):
            lines += [f"{count:15d}  {message[:100]}"] if message else []
    return "\n".join(lines)


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
                manifest.append(clip, "failed", reason=Reason.AGAIN, message=message)
            else:
                manifest.append(clip, "ok", **facts)
        elif settings.retry or known.get("reason") != Reason.GONE:
            todo.append(clip)
    return todo


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


def fetch_all(
    settings: DownloadSettings, manifest: Manifest, clips: Sequence[Prompt]
) -> str | None:
    """Try every clip once. Returns why the run ended early and what to do; None when it did not.

    Raises WriteError, CookiesError, KeyboardInterrupt.
    """
    pace, mine = Pace(settings.rate_limit), threading.local()

    def one(clip: Prompt) -> tuple[Prompt, Row]:
        if not hasattr(mine, "ydl"):
            mine.ydl = open_ydl(settings)
        return clip, _one(settings, clip, manifest, mine.ydl, pace)

    refused = 0
    with (
        bar("download", len(clips), 0, "clip") as progress,
        # of daemons: none that waits for a host keeps the process
        ThreadPool(min(settings.workers, len(clips))) as pool,
    ):
        for clip, found in pool.imap_unordered(one, clips):
            manifest.append(clip, **found)
            progress.update()
            reason = found.get("reason")
            if reason:
                log.warning("%s: %s: %s", clip.id, reason, found["message"])
            refused = refused + 1 if reason in ADVICE else 0
            if refused == WALL:
                return f"{ADVICE[found['reason']]}. The last message: {found['message']}"
    return None


def _one(
    settings: DownloadSettings, clip: Prompt, manifest: Manifest, ydl: YoutubeDL, pace: Pace
) -> Row:
    """What the manifest is to have of a clip, after its file is written. Raises WriteError."""
    versions = {"yt_dlp": version("yt-dlp"), "yt_dlp_ejs": version("yt-dlp-ejs")}
    tries = 1
    while True:
        pace.wait()
        try:
            audio, form = fetch(ydl, clip, settings)
        except ClipError as error:
            if error.reason != Reason.AGAIN or tries == settings.tries:
                why = {"reason": error.reason, "message": str(error), "tries": tries}
                return {"status": "failed", **why, **versions}
            seconds = max(error.retry_after, settings.backoff * 2 ** (tries - 1))
            seconds = min(LONGEST_BACKOFF, seconds) * random.uniform(1.0, 1.5)
            log.info("%s: %s; again in %.0f s", clip.id, error, seconds)
            pace.back_off(seconds)
            tries += 1
        else:
            facts = keep(manifest.audio(clip), audio)
            return {"status": "ok", **facts, "source": form, **versions}
