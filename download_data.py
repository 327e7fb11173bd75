"""MusicCaps' table and reference audio.

    envs/setup.sh downloader
    envs/downloader/.venv/bin/python download_data.py --limit 10

`--help` has the flags, more examples and the exit codes. Runs in the downloader's environment.
"""

import logging
import signal
import sys
from collections.abc import Sequence

from src.runs.arguments import given
from src.runs.ending import DISK_ERRORS, Exit, check_environment

PACKAGES = ("yt_dlp", "yt_dlp_ejs", "deno", "imageio_ffmpeg", "soundfile", "soxr", "tyro", "tqdm")


def main(args: Sequence[str] | None = None) -> int:
    check_environment("downloader", PACKAGES)
    # What these import, only the downloader's environment has.
    from src.data.downloads.clip import CookiesError
    from src.data.downloads.command import run
    from src.data.downloads.manifest import FolderError
    from src.data.downloads.settings import parse
    from src.data.files import WriteError
    from src.data.prompts import PromptError, SelectionError

    settings = parse(given(args, "download_data.py"))
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("src").setLevel(settings.log_level.upper())
    # what yt-dlp says of a clip that failed is in the manifest
    quiet = settings.log_level != "debug"
    logging.getLogger("yt_dlp").setLevel(logging.CRITICAL if quiet else logging.DEBUG)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return Exit.DONE if run(settings) else Exit.PROMPTS_FAILED
    except (CookiesError, SelectionError) as error:
        message, code = str(error), Exit.USAGE
    except PromptError as error:
        message, code = str(error), Exit.MISSING
    except (FolderError, WriteError) as error:
        message, code = str(error), Exit.FOLDER
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        message, code = str(error), Exit.FOLDER
    except KeyboardInterrupt:
        message, code = "interrupted; the same command goes on from there.", Exit.INTERRUPTED
    sys.stderr.write(f"download_data.py: {message}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
