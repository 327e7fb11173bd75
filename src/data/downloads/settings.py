"""The settings of download_data.py, and its command line."""

import inspect
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from src.data.prompts import Subset

YOUTUBE = "https://www.youtube.com/watch?v={ytid}"


@dataclass(frozen=True, kw_only=True)
class DownloadSettings:
    """MusicCaps' table and reference audio, into one folder.

    The table comes from the hub or from --csv, and each clip is the section of a YouTube video that
    its caption describes, as <data_dir>/<ytid>.wav: 16 bit, the source's channels, resampled. What
    became of each clip is a row of <data_dir>/manifest.jsonl: status, reason, duration, sha256,
    date. The same command goes on where a run stopped. What failed has one of three reasons, and
    yt-dlp's message: gone (removed, private, restricted, too short: left alone from then on),
    blocked (this machine is refused) or again (busy, or a broken connection).

    yt-dlp's users count some 300 videos an hour until YouTube blocks a guest: --rate_limit stays
    there, and the 5,521 clips (7 GB) take most of a day. Many are gone. YouTube's terms do not
    allow downloading in general: whether you may is for you to know.

    Examples:
      # the first ten, to see whether it works from here
      python download_data.py --limit 10
      # the balanced subset (1,000 clips), as benchmark.py reads it
      python download_data.py --split balanced
      # the hub is out of reach: a table saved elsewhere
      python download_data.py --csv musiccaps-public.csv --limit 10
      # YouTube asks for a sign-in: a browser that is signed in (of an account that you can spare)
      python download_data.py --split balanced --cookies_from_browser firefox
      # everything that failed, once more
      python download_data.py --split balanced --retry
      # are the files still what was downloaded? (offline)
      python download_data.py --split balanced --check
      # audio that you have already, whole, by id
      python download_data.py --url_template "file:///mnt/audioset/{ytid}.m4a" --rate_limit 0

    Exit codes: 0 every clip asked for is there; 1 some are not; 2 wrong usage; 3 the table or the
    environment is missing; 5 the folder is in use or cannot be written; 130 interrupted.
    """

    #: MusicCaps' table as a CSV file, instead of asking the hub. It is copied into the folder.
    csv: Path | None = None
    #: Folder of the table, the audio and the manifest.
    data_dir: Path = Path("music_data")
    #: Clips wanted: all 5,521; balanced: 1,000 with genres in equal number; eval: those of
    #: AudioSet's evaluation set.
    split: Subset = "all"
    #: Clips wanted at most, from the top of the table.
    limit: int | None = None
    #: File of ids, one a line: only these clips.
    ids: Path | None = None
    #: Try every clip again that failed, also those that are gone.
    retry: bool = False
    #: Download nothing; compare the files with the manifest and the table. Damaged files are
    #: marked, so that the next run fetches them again.
    check: bool = False
    #: Say how many clips are left to fetch, how long it takes at least and how much disk; fetch
    #: nothing but the table.
    dry_run: bool = False
    #: Sample rate of the files in Hz. Clips that are there at another rate are fetched again.
    sample_rate: int = 32000
    #: Clips downloaded side by side.
    workers: int = 4
    #: Clips begun a minute, over all workers; 0 for as fast as they come (not for YouTube).
    rate_limit: float = 5.0
    #: Seconds until the second try of a clip for which a host was too busy; doubles with each try.
    backoff: float = 10.0
    #: Tries of one clip in a run, while the host is busy or the connection breaks.
    tries: int = 3
    #: Seconds that a clip may take once its download has begun.
    timeout: float = 180.0
    #: Cookies of a browser in Netscape's format (cookies.txt); the file is read, never written.
    cookies: Path | None = None
    #: Browser whose cookies are used: firefox, chrome, chromium, edge, .. (and :PROFILE).
    cookies_from_browser: str | None = None
    #: Proxy for YouTube: http://host:port.
    proxy: str | None = None
    #: Where clips come from; {ytid} stands for the id. A mirror of the whole audio works, also as
    #: file:///folder/{ytid}.m4a.
    url_template: str = YOUTUBE
    #: How much is said on stderr.
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], tyro.conf.arg(metavar="LEVEL")
    ] = "info"

    def problem(self) -> str | None:
        """What cannot work, before anything is done."""
        counts = [self.workers, self.tries, 1 if self.limit is None else self.limit]
        rules = {
            "--limit, --workers and --tries must be 1 or more": min(counts) >= 1,
            "--sample_rate must be within 8000 and 192000 Hz": 8000 <= self.sample_rate <= 192000,
            "--rate_limit must be 0 or more": 0 <= self.rate_limit < math.inf,
            "--backoff must be 0 or more": 0 <= self.backoff < math.inf,
            "--timeout must be more than 0": 0 < self.timeout < math.inf,
            "--url_template must contain {ytid}": "{ytid}" in self.url_template,
            "--proxy must begin with http:// (ffmpeg knows no other)": not self.proxy
            or self.proxy.startswith(("http://", "https://")),
            "--cookies and --cookies_from_browser: one of the two": not (
                self.cookies and self.cookies_from_browser
            ),
            "--check and --retry: one of the two": not (self.check and self.retry),
            "--check and --dry_run: one of the two": not (self.check and self.dry_run),
        }
        for path in filter(None, (self.cookies, self.ids, self.csv)):
            rules[f"there is no file {path}"] = path.is_file()
        return next((rule for rule, holds in rules.items() if not holds), None)


def parse(args: Sequence[str] | None = None) -> DownloadSettings:
    """Settings from a command line; exits 2 on wrong usage."""
    name = "download_data.py"
    description = inspect.getdoc(DownloadSettings)
    settings = tyro.cli(
        DownloadSettings, prog=name, description=description, args=args, use_underscores=True
    )
    if problem := settings.problem():
        sys.stderr.write(f"{name}: {problem}\n")
        raise SystemExit(2)
    return settings
