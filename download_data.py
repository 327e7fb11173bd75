"""MusicCaps' table and reference audio.

    envs/setup.sh downloader
    envs/downloader/.venv/bin/python download_data.py --limit 10

Parse, get the table, fetch or check, sum up. `--help` has the flags, more examples and the exit
codes. Runs in the downloader's environment.
"""

import importlib.util
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from src.runs.ending import Exit

if TYPE_CHECKING:
    from src.data.downloads.manifest import Manifest
    from src.data.downloads.settings import DownloadSettings
    from src.data.musiccaps import Section

log = logging.getLogger("download_data")

PACKAGES = ("yt_dlp", "yt_dlp_ejs", "deno", "imageio_ffmpeg", "soundfile", "soxr", "tyro", "tqdm")
PYTHON = "envs/downloader/.venv/bin/python"


def main(args: Sequence[str] | None = None) -> int:
    check_environment()
    from src.data.downloads.manifest import FolderError, Manifest
    from src.data.downloads.settings import parse
    from src.data.downloads.source import CookiesError
    from src.data.musiccaps import MusicCapsError

    settings = parse(args)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for name in ("src", "download_data"):
        logging.getLogger(name).setLevel(settings.log_level.upper())
    # what yt-dlp says of a clip that failed is in the manifest
    quiet = settings.log_level != "debug"
    logging.getLogger("yt_dlp").setLevel(logging.CRITICAL if quiet else logging.DEBUG)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with Manifest(settings.data_dir) as manifest:
            return run(settings, manifest, sections_of(settings))
    except CookiesError as error:
        sys.stderr.write(f"download_data.py: {error}\n")
        return Exit.USAGE
    except MusicCapsError as error:
        sys.stderr.write(f"download_data.py: {error}\n")
        return Exit.MISSING
    except (FolderError, OSError) as error:
        sys.stderr.write(f"download_data.py: {error}\n")
        return Exit.FOLDER
    except KeyboardInterrupt:
        sys.stderr.write("\ndownload_data.py: interrupted; the same command goes on from there.\n")
        return Exit.INTERRUPTED


def run(settings: "DownloadSettings", manifest: "Manifest", sections: "Sequence[Section]") -> int:
    """Fetch or check these clips and say how it went. Returns the exit code."""
    from src.data.downloads.checking import check, summary
    from src.data.downloads.fetching import fetch_all, wanted
    from src.data.downloads.manifest import is_there
    from src.data.downloads.reasons import WALLS
    from src.data.downloads.source import Source

    if settings.check:
        problems, good = check(manifest, sections)
        for problem in problems:
            print(problem)
        print(summary(manifest, sections, rate=None))
        return Exit.DONE if good else Exit.PROMPTS_FAILED
    if settings.cookies or settings.cookies_from_browser:
        Source(settings)  # before anything is begun
    todo = wanted(settings, manifest, sections)
    log.info("%s: %d of %d clips to fetch", settings.data_dir, len(todo), len(sections))
    wall = fetch_all(settings, manifest, todo, len(sections)) if todo else None
    print(summary(manifest, sections, settings.sample_rate))
    if wall:
        sys.stderr.write(f"download_data.py: stopped early. {WALLS[wall]}.\n")
    done = all(is_there(manifest, section, settings.sample_rate) for section in sections)
    return Exit.DONE if done else Exit.PROMPTS_FAILED


def sections_of(settings: "DownloadSettings") -> "list[Section]":
    """The clips asked for. Raises MusicCapsError; exits 2 for an id that the table lacks."""
    from src.data import musiccaps
    from src.data.prompts import read_ids

    if settings.csv is not None:
        table = musiccaps.copy_table(settings.csv, settings.data_dir)
    else:
        there = musiccaps.find_table(settings.data_dir)
        table = there or musiccaps.fetch_table(settings.data_dir)
    sections = musiccaps.read_sections(table, settings.split)
    if settings.ids is not None:
        ids = sorted(read_ids(settings.ids))
        known = {section.ytid: section for section in sections}
        if strange := [ytid for ytid in ids if ytid not in known]:
            sys.stderr.write(
                f"download_data.py: --ids: {len(strange)} of {len(ids)} ids are not in the table "
                f"(split {settings.split}), the first is {strange[0]!r}\n"
            )
            raise SystemExit(Exit.USAGE)
        sections = [section for section in sections if section.ytid in ids]
    return sections[: settings.limit]


def check_environment() -> None:
    """Exit 3, saying which Python to use, when this one is not the downloader environment's."""
    absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if not absent:
        return
    there = (Path(__file__).resolve().parent / PYTHON).exists()
    build = "" if there else "It is not built yet: envs/setup.sh downloader\n"
    sys.stderr.write(
        f"download_data.py runs in the downloader environment. {sys.executable} lacks "
        f"{', '.join(absent)}.\n{build}Run it as   {PYTHON} download_data.py ..\n"
    )
    raise SystemExit(Exit.MISSING)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
