"""One table for a machine: what is there, what is missing, and whether each model does its work.

    python -m src.experiments.doctor
    python -m src.experiments.doctor --model facebook/musicgen-medium --server http://127.0.0.1:9000

For a first run with new weights, and to paste into a report of a bug: names and paths of the user
are left out unless --paths asks for them, tokens always. What goes wrong in one row is that row's
FAILED. Exit codes: 0; 1 when a row is FAILED (what is missing is no failure); 2 wrong usage; 3
without the generator environment; 130 interrupted.
"""

import argparse
import json
import os
import platform
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from getpass import getuser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from src.data.files import ROOT, write_whole
from src.data.progress import bar
from src.runs.arguments import given
from src.runs.ending import check_environment, ending

PROG = "python -m src.experiments.doctor"
SERVER = "http://127.0.0.1:8000"
NOBODY = ("127.0.0.1", "localhost", "huggingface.co", "root", "", None)  # no one's own names


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows by group, how many there are of each status, and how to get what is missing."""
    from src.reports.table import document, layout

    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        seconds = f"{row['seconds']:.1f}" if row["seconds"] >= 0.05 else ""
        cells = {"": row["name"], "status": row["status"], "s": seconds, "found": row["found"]}
        groups[row["group"]].append(cells)
    counts = Counter(row["status"] for row in rows)
    summary = ", ".join(f"{count} {status}" for status, count in counts.items())
    hints = [f"{row['name']}: {row['how']}" for row in rows if row["how"]]
    return document([], layout(groups, left=("status", "found")), [f"{summary}.", *hints])


def private_words(model: str, server: str) -> dict[str, str]:
    """What names the user, the machines or folders of theirs, and what stands in its place."""
    paths = {value: f"${name}" for name, value in os.environ.items() if ":" not in value}
    words = {value: name for value, name in paths.items() if re.match("/+[^/]", value)}
    words |= {str(Path.home()): "~", str(ROOT): "."}
    if model != "builtin" and Path(model).is_dir():
        words |= {model: "<model>", str(Path(model).absolute()): "<model>"}
    for url in map(urlsplit, (server, os.environ.get("HF_ENDPOINT", ""))):
        if url.hostname not in NOBODY:
            words |= {url.netloc: "<server>", str(url.hostname): "<server>"}
    names = {platform.node(): "<host>"}
    with suppress(KeyError, OSError):  # a user without a name
        names[getuser()] = "<user>"
    return words | {name: place for name, place in names.items() if name not in NOBODY}


def without(text: str, words: dict[str, str]) -> str:
    """The text with what stands in the place of the words, and without secrets.

    Of paths that remain, the last name alone.
    """
    for word in sorted(words, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", words[word], text)
    if words:
        text = re.sub(r"(?<![\w.~$>:/])/(?:[^\s/,;:'\")]+/)+([^\s/,;:'\")]*)", r"/../\1", text)
    for name, value in os.environ.items():
        if value and re.search("TOKEN|SECRET|PASSWORD", name):
            text = text.replace(value, "<secret>")
    return text


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", default="builtin", help="as for benchmark.py")
    parser.add_argument("--server", default=SERVER, help=f"a verifier server ({SERVER})")
    parser.add_argument("--no_selftest", action="store_true", help="load no model")
    parser.add_argument("--paths", action="store_true", help="show names and paths")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there, too")
    asked = parser.parse_args(given(args, PROG))
    with ending("doctor"):
        check_environment()
        from src.experiments.checks import checks_of, examine

        rows: list[dict[str, Any]] = []
        words = {} if asked.paths else private_words(asked.model, asked.server)
        with ExitStack() as stack:
            checks = checks_of(asked.model, asked.server, not asked.no_selftest, stack)
            progress = stack.enter_context(bar("doctor", len(checks), 0, "check"))
            for group, name, look in checks:
                progress.set_description(without(name, words))
                begin = time.monotonic()
                found = examine(look)
                texts = {"name": name, "found": found.text, "how": found.how}
                row = {"group": group, "status": found.status, "seconds": time.monotonic() - begin}
                rows.append(row | {key: without(text, words) for key, text in texts.items()})
                progress.update()
        if asked.json:
            write_whole(asked.json, json.dumps(rows, indent=2) + "\n")
    sys.stdout.write(table(rows) + "\n")
    return int(any(row["status"] == "FAILED" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
