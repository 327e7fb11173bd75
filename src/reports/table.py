"""Tables: rows, written once as CSV for programs and once as text for people.

    rows = [{"method": "sbs", "frames": 2000, "difference": 0.5, "low": 0.3, "high": 0.8}]
    write_tables(folder, {"summary": rows})
    texts = [{"": r["method"], "change": brackets(interval_of(r, "difference"))} for r in rows]
    print("\\n".join(layout({"": texts})))

A row is a dictionary; the order of its keys is that of the columns.
"""

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from src.data.files import remove, write_whole
from src.runs.measures import CLAIMS, Measure
from src.stats.intervals import ALPHA, Interval, holm

WIDTH = 100  # columns of text
ABSENT = "-"
FEW_PROMPTS = 10  # from fewer nobody can tell how skewed a measure is
# What legends and captions say of all tables alike.
INTERVALS = "95% intervals over prompts (t and bootstrap-t, at each end the farther one)"
HOLM = "is 0.05 at most, adjusted for all comparisons of the table (Holm)"
LONGEST_REASON = 200  # characters; records have it whole
# Of measures that are no evidence.
ROLES = {
    "selector": "own verifier (selector): no evidence",
    "own verifier": "the selector's number or a part of it: no evidence",
}

Row = Mapping[str, Any]
Texts = Mapping[str, str]  # a row as text, by heading


def write_tables(output: Path, tables: Mapping[str, Sequence[Row]]) -> None:
    """A CSV file for each table by its name; none for one without rows.

    Floats have six digits; None and NaN are empty.
    """
    for name, rows in tables.items():
        path = output / f"{name}.csv"
        if rows:
            frame = pd.DataFrame(rows)
            write_whole(path, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
        else:
            remove(path)


def layout(groups: Mapping[str, Sequence[Texts]], left: Sequence[str] = ("verdict",)) -> list[str]:
    """Rows as lines of aligned text, under their group's heading where it has one.

    left: columns that are not aligned to the right, besides the first.
    """
    rows = [row for own in groups.values() for row in own]
    headings = {name: name for name in rows[0]}
    widths = {name: max(len(row[name]) for row in (headings, *rows)) for name in headings}
    left = [*list(headings)[:1], *left]

    def line(row: Texts) -> str:
        cells = (
            row[name].ljust(width) if name in left else row[name].rjust(width)
            for name, width in widths.items()
        )
        return "  ".join(cells).rstrip()

    lines = [line(headings)]
    for heading, own in groups.items():
        lines += ["", heading] if heading else []
        lines += map(line, own)
    return lines


def document(head: Iterable[str], lines: Sequence[str], notes: Iterable[str]) -> str:
    """A report's text: what it is of, its tables between two rules, and sentences."""
    wrapper = textwrap.TextWrapper(
        WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    above, below = ([x for text in texts for x in wrapper.wrap(text)] for texts in (head, notes))
    rule = ["-" * min(WIDTH, max(map(len, lines)))] if lines else []
    return "\n".join([*above, *rule, *lines, *rule, *below])


def listing(folder: Path) -> str:
    """A folder and what is in it, for the last line of a run."""
    names = [p.name + "/" * p.is_dir() for p in folder.iterdir() if not p.name.startswith(".")]
    return f"{folder}: {', '.join(sorted(names))}"


def describe(measure: Measure) -> str:
    """What a measure is worth, what it is a number of, and its weights."""
    role = ROLES.get(measure.role, measure.role)
    together = ", one number for a method's clips" if measure.kind == "set" else ""
    return role + together + (f"; {measure.checkpoint}" if measure.checkpoint else "")


def few_prompts(count: int, what: str = "prompts", reliable: int = FEW_PROMPTS) -> str:
    """Whether intervals over so many prompts (or `what`) can be relied on; empty where they can."""
    if count < 2:
        return f"No intervals are given: they need 2 finished {what} or more."
    return f"{count} {what} are too few to rely on these intervals." if count < reliable else ""


def shortened(reason: str) -> str:
    return textwrap.shorten(reason, LONGEST_REASON, placeholder=" ..")


def shown(value: Any, form: str = "") -> str:
    """A value in Python's format `form`; "-" where there is none."""
    return ABSENT if pd.isna(value) else format(value, form)


def brackets(found: Interval | None, form: str | Callable[[float], str] = "+.2f") -> str:
    """Such as "+0.35 [+0.21, +0.48]"; without brackets where there are no ends.

    form: how a number is written, in Python's format or by a function.
    """
    if found is None or not math.isfinite(found.mean):
        return ABSENT
    mean, low, high = (form(x) if callable(form) else format(x, form) for x in found)
    return f"{mean} [{low}, {high}]" if math.isfinite(found.low) else mean


def digits_of(values: Iterable[float | None], most: int = 6) -> int:
    """Digits after the point that show three of the largest."""
    largest = max((abs(x) for x in values if x and math.isfinite(x)), default=0)
    return min(most, max(0, 2 - math.floor(math.log10(largest)))) if largest else 2


def figures(value: float | None, decimals: int = 6) -> str:
    """Three figures, no exponent, at most `decimals` after the point: 0.0123, 1.23, 1,234."""
    return shown(value, f",.{digits_of([value], decimals) if value else decimals}f")


def ends(name: str, found: Interval | None, prefix: str = "") -> dict[str, float | None]:
    """An estimate's column and those of its interval's ends, `low` and `high`."""
    values = found or (None, None, None)
    return dict(zip((name, f"{prefix}low", f"{prefix}high"), values, strict=True))


def adjusted(rows: Sequence[Row], alpha: float = ALPHA) -> list[Row]:
    """Rows of one table with `p_holm`: their p adjusted for there being so many, and only what is
    clear by it called better or worse. The family: rows with a p whose verdict is a claim; a claim
    without a p is unclear."""
    claims = [at for at, row in enumerate(rows) if row["verdict"] in CLAIMS and row["p"] <= 1]
    of = dict(zip(claims, holm([rows[at]["p"] for at in claims]), strict=True))
    return [
        {
            **row,
            "p_holm": of.get(at),
            "verdict": row["verdict"]
            if row["verdict"] not in CLAIMS or of.get(at, 1) <= alpha
            else "unclear",
        }
        for at, row in enumerate(rows)
    ]


def without_absent(rows: Sequence[Row], names: Iterable[str]) -> list[Row]:
    """The rows without those of these columns that are None in all of them."""
    absent = {name for name in names if all(row[name] is None for row in rows)}
    return [{name: row[name] for name in row if name not in absent} for row in rows]


def interval_of(row: Row, name: str, prefix: str = "") -> Interval | None:
    """What `ends` made columns of; None where the row has no such number."""
    found = Interval(row[name], row[f"{prefix}low"], row[f"{prefix}high"])
    return None if pd.isna(found.mean) else found
