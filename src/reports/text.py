"""How tables and sentences are laid out for people, and CSV files for programs."""

import csv
import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.data.files import write_whole

if TYPE_CHECKING:
    from src.stats.best_of_n import Interval

WIDTH = 100  # columns of text


def listing(folder: Path) -> str:
    """A folder and what is in it, for the last line of a run."""
    names = [p.name + "/" * p.is_dir() for p in folder.iterdir() if not p.name.startswith(".")]
    return f"{folder}: {', '.join(sorted(names))}"


def columns(rows: Sequence[Sequence[str]], left: tuple[int, ...]) -> list[str]:
    """Rows as lines of aligned text; `left`: the columns that are not aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if i in left else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def wrapped(sentences: Iterable[str]) -> list[str]:
    wrapper = textwrap.TextWrapper(
        WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    return [line for sentence in sentences for line in wrapper.wrap(sentence)]


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_whole(path, text.getvalue())


def brackets(found: "Interval | None", digits: int = 2) -> str:
    """Such as "+0.35 [+0.21, +0.48]"."""
    if found is None or not math.isfinite(found.mean):
        return "-"
    if not math.isfinite(found.low):
        return f"{found.mean:+.{digits}f}"
    return f"{found.mean:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"


def digits_of(values: Iterable[float]) -> int:
    """Digits after the point that show three of the largest."""
    largest = max((abs(value) for value in values), default=0)
    return min(6, max(0, 2 - math.floor(math.log10(largest)))) if largest else 2
