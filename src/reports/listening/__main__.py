"""A blind listening test of two methods of a run, and what listeners answered.

    python -m src.reports.listening RUN_DIR --methods baseline best_of_n --repeats 4
    python -m src.reports.listening --read listener-*.json --key RUN_DIR/listening/key-1a2b3c4d.json

The first writes a page, to be sent to listeners, and its key, to be kept from them. Each listener
sends a file back; the second reads these and prints which method is preferred, by question.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from src.data.files import write_whole
from src.reports.command import parser_of, printed
from src.reports.listening import QUESTIONS, Key
from src.reports.listening.make import make_test
from src.reports.listening.read import read_answers, tables, text_of
from src.reports.table import write_tables
from src.runs.arguments import given


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of("src.reports.listening", __doc__)
    parser.add_argument("run", type=Path, nargs="?", metavar="RUN_DIR", help="with saved audio")
    parser.add_argument("--methods", nargs=2, help="two of the run's", metavar="METHOD")
    parser.add_argument(
        "--questions",
        nargs="+",
        type=question,
        default=list(QUESTIONS.items()),
        help=f"{', '.join(QUESTIONS)} (both by default), or one of your own: name='Which ..?'",
    )
    parser.add_argument("--pairs", type=int, help="so many prompts, drawn at random; else all")
    parser.add_argument("--repeats", type=int, default=0, help="pairs shown twice, sides swapped")
    parser.add_argument("--read", type=Path, nargs="+", default=[], help="files of listeners")
    parser.add_argument("--key", type=Path, help="the key of their page")
    parser.add_argument("--output", type=Path, help="default: RUN_DIR/listening; the key's folder")
    asked = parser.parse_args(given(arguments, parser.prog))
    if asked.read:
        if asked.run or not asked.key:
            parser.error("--read takes listeners' files and --key, and no run")
    elif not asked.run or not asked.methods or len(set(asked.methods)) < 2:
        parser.error("name a run's folder and two --methods; or --read files with their --key")
    elif asked.repeats < 0 or (asked.pairs is not None and asked.pairs < 1):
        parser.error("--pairs is 1 or more, --repeats 0 or more")
    return printed(lambda: _read(asked) if asked.read else _make(asked))


def question(given: str) -> tuple[str, str]:
    """A question's name and text."""
    name, _, text = given.partition("=")
    if not (text := text or QUESTIONS.get(name, "")):
        raise argparse.ArgumentTypeError(f"{given}: {' or '.join(QUESTIONS)}, or name=text")
    return name, text


def _make(asked: argparse.Namespace) -> str:
    methods, questions = tuple(asked.methods), dict(asked.questions)
    key, page = make_test(asked.run, methods, questions, asked.repeats, asked.pairs)
    output, number = asked.output or asked.run / "listening", key.page[:8]
    for_listeners, for_you = output / f"test-{number}.html", output / f"key-{number}.json"
    write_whole(for_you, key.model_dump_json(indent=1) + "\n")
    write_whole(for_listeners, page)
    lines = [
        f"{for_listeners}: {len(key.pairs)} pairs, {len(page) / 1e6:.1f} MB, for listeners",
        f"{for_you}: says which is which; keep it to yourself",
    ]
    if key.identical:
        lines.append(f"Not heard, the clips are the same: {', '.join(key.identical)}")
    if key.left_out:
        lines.append(f"Left out, a method has no audio: {', '.join(key.left_out)}")
    return "\n".join(lines)


def _read(asked: argparse.Namespace) -> str:
    key = Key.read(asked.key)
    answers = read_answers(key, asked.read)
    found = tables(key, answers)
    write_tables(asked.output or asked.key.parent, found)
    return text_of(key, answers, found)


if __name__ == "__main__":
    sys.exit(main())
