"""What download_data.py does: get the table, fetch or check the clips, sum up."""

import logging
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence

from src.data import musiccaps
from src.data.downloads.failures import Reason
from src.data.downloads.fetching import fetch_all, wanted
from src.data.downloads.manifest import Manifest, describe, row
from src.data.downloads.settings import DownloadSettings
from src.data.downloads.source import open_ydl
from src.data.prompt_table import Prompt
from src.data.prompts import Selection, load_prompts

log = logging.getLogger(__name__)

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

    Raises PromptError, SelectionError, CookiesError, FolderError, OSError, KeyboardInterrupt.
    """
    with Manifest(settings.data_dir) as manifest:
        selection = Selection(limit=settings.limit, subset=settings.split, ids=settings.ids)
        table = musiccaps.get_table(settings.data_dir, settings.csv)
        clips = load_prompts(str(table), selection, settings.data_dir)
        if settings.check:
            problems = check(manifest, clips)
            sys.stdout.write("\n".join([*problems, summary(manifest, clips), ""]))
            return not problems and not manifest.missing(clips)
        if settings.cookies or settings.cookies_from_browser:
            open_ydl(settings).close()  # complains before anything is begun
        todo = wanted(settings, manifest, clips)
        log.info("%s: %d of %d clips to fetch", settings.data_dir, len(todo), len(clips))
        early = fetch_all(settings, manifest, todo, len(clips)) if todo else None
        sys.stdout.write(f"{summary(manifest, clips, settings.sample_rate)}\n")
        if early:
            sys.stderr.write(f"stopped early. {early}\n")
        return not manifest.missing(clips, settings.sample_rate)


def check(manifest: Manifest, clips: Sequence[Prompt]) -> list[str]:
    """What is wrong with the files, a line each; offline.

    A file that is not what was written is marked in the manifest, so that the next run fetches it
    again. Clips that were never had are left to the summary. Raises OSError.
    """
    problems: list[str] = []
    for clip in clips:
        known, path = manifest.rows.get(clip.id, {"status": "failed"}), manifest.audio(clip)
        if known["status"] == "failed" and path.exists():
            problems.append(f"{path.name}: unlisted: no row of the manifest says it is good")
        if known["status"] != "ok":
            continue
        if not path.exists():
            problem = "missing, though the manifest lists it"
        elif describe(path)["sha256"] != known.get("sha256"):
            problem = "damaged: its sha256 is not the manifest's"
        else:
            continue
        problems.append(f"{path.name}: {problem}")
        manifest.append(row(clip, "damaged", message=problem))
    listed = {clip.id for clip in clips} | set(manifest.rows)
    names = sorted(path.name for path in manifest.data_dir.glob("*.wav") if path.stem not in listed)
    return problems + [f"{name}: unlisted: not a clip of the table" for name in names]


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
