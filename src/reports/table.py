"""Tables: rows, written once as CSV for programs and once as text for people.

    rows = [{"method": "sbs", "frames": 2000, "difference": 0.5, "low": 0.3, "high": 0.8}]
    write_csv(folder / "summary.csv", rows)
    print("\\n".join(layout(rows, [Column("", shown("method"), left=True), ...])))

A row is a dictionary; the order of its keys is that of the CSV file's columns.
"""

import csv
import io
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.data.files import write_whole
from src.stats.intervals import Interval

WIDTH = 100  # columns of text
ABSENT = "-"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of text. write: from a row to what stands in it. left: not aligned to the right."""

    heading: str
    write: Callable[[Row], str]
    left: bool = False


def shown(key: str, form: str | Callable[[Any], str] = "") -> Callable[[Row], str]:
    """A column's `write` for a row's value, in Python's format `form` or by a function of it; "-"
    where there is none."""
    write = form if callable(form) else f"{{:{form}}}".format
    return lambda row: ABSENT if is_absent(row[key]) else write(row[key])


def is_absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def write_csv(path: Path, rows: Sequence[Row], header: Iterable[str] = ()) -> None:
    """header: the columns' names, for a table that may have no rows.

    Floats have six digits; None and NaN are empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0] if rows else header)
    writer.writerows([_plain(value) for value in row.values()] for row in rows)
    write_whole(path, text.getvalue())


def _plain(value: Any) -> Any:
    if is_absent(value):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def layout(
    rows: Sequence[Row] | Mapping[str, Sequence[Row]], *choices: Sequence[Column]
) -> list[str]:
    """Rows as lines of aligned text; a mapping has a heading over each group of them.

    choices: columns, from the widest to the narrowest; the first that fit WIDTH are taken.
    """
    groups = rows if isinstance(rows, Mapping) else {"": rows}
    lines: list[str] = []
    for columns in choices:
        lines = _aligned(groups, columns)
        if max(map(len, lines)) <= WIDTH:
            break
    return lines


def _aligned(groups: Mapping[str, Sequence[Row]], columns: Sequence[Column]) -> list[str]:
    texts = [[column.write(row) for column in columns] for rows in groups.values() for row in rows]
    texts.insert(0, [column.heading for column in columns])
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    aligned = [
        "  ".join(
            text.ljust(width) if column.left else text.rjust(width)
            for text, width, column in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in texts
    ]
    lines, rest = aligned[:1], iter(aligned[1:])
    for heading, rows in groups.items():
        lines += ["", heading] if heading else []
        lines += [next(rest) for _ in rows]
    return lines


def ruled(lines: Sequence[str]) -> list[str]:
    """The lines between two rules."""
    rule = "-" * min(WIDTH, max(map(len, lines), default=WIDTH))
    return [rule, *lines, rule]


def wrapped(sentences: Iterable[str]) -> list[str]:
    """Sentences as lines that are not over WIDTH."""
    wrapper = textwrap.TextWrapper(
        WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    return [line for sentence in sentences for line in wrapper.wrap(sentence)]


def listing(folder: Path) -> str:
    """A folder and what is in it, for the last line of a run."""
    names = [p.name + "/" * p.is_dir() for p in folder.iterdir() if not p.name.startswith(".")]
    return f"{folder}: {', '.join(sorted(names))}"


def brackets(
    found: Interval | None, digits: int = 2, write: Callable[[float], str] | None = None
) -> str:
    """Such as "+0.35 [+0.21, +0.48]"; without brackets where there are no ends.

    write: how a number is written; with its sign and `digits` after the point by default.
    """
    if found is None or not math.isfinite(found.mean):
        return ABSENT
    mean, low, high = ((write or f"{{:+.{digits}f}}".format)(value) for value in found)
    return f"{mean} [{low}, {high}]" if math.isfinite(found.low) else mean


def digits_of(values: Iterable[float | None], most: int = 6) -> int:
    """Digits after the point that show three of the largest."""
    largest = max((abs(x) for x in values if x and math.isfinite(x)), default=0)
    return min(most, max(0, 2 - math.floor(math.log10(largest)))) if largest else 2


def figures(value: float, decimals: int = 6) -> str:
    """Three figures, no exponent, at most `decimals` after the point: 0.0123, 1.23, 1,234."""
    digits = digits_of([value], decimals) if value else decimals
    return f"{value:,.{digits}f}" if math.isfinite(value) else ABSENT


def ends(name: str, found: Interval | None, prefix: str = "") -> dict[str, float | None]:
    """An estimate's column and those of its interval's ends, `low` and `high`."""
    values = found or (None, None, None)
    return dict(zip((name, f"{prefix}low", f"{prefix}high"), values, strict=True))


def interval_of(row: Row, name: str, prefix: str = "") -> Interval | None:
    """What `ends` made columns of; None where the row has no such number."""
    if is_absent(row[name]):
        return None
    return Interval(row[name], row[f"{prefix}low"], row[f"{prefix}high"])
