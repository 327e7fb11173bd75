"""One row of a prompt set, and the CSV files that hold such rows."""

import csv
import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

MAX_CAPTION = 2000  # characters; MusicCaps' longest caption has about a thousand
SECTION = 10.0  # seconds of the source that a row describes, unless it says otherwise
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

Subset = Literal["all", "balanced", "eval"]
# As MusicCaps names them: the rows with balanced genres, those of AudioSet's evaluation split.
SUBSET_COLUMNS: Mapping[Subset, str] = {
    "balanced": "is_balanced_subset",
    "eval": "is_audioset_eval",
}
TRUE, FALSE = ("true", "1", "1.0"), ("false", "0", "0.0", "")


class PromptError(ValueError):
    """A prompt set that cannot be had or used; the message names the file and what to change."""


class SelectionError(PromptError):
    """What is asked of a prompt set, and is not in it or cannot be read."""


@dataclass(frozen=True)
class Prompt:
    """One thing to generate.

    id: names its files; unique in its set (MusicCaps' ytid where there is one).
    text: the caption that conditions the generator and that verifiers score against.
    key: noise key. It depends on the row alone, so a prompt's candidates are the same in any
    subset. reference: audio file that the caption describes, if there is one. start_s, end_s: the
    section of the source that the caption describes, in seconds. subsets: MusicCaps' subsets that
    it is in.
    """

    id: str
    text: str
    key: str
    reference: Path | None = None
    start_s: float = 0.0
    end_s: float = SECTION
    subsets: frozenset[Subset] = frozenset()

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s


def read_table(path: Path, data_dir: Path | None = None) -> tuple[list[Prompt], list[str]]:
    """A CSV file's prompts and its columns: `caption`, and where they are there `ytid` or `id`,
    `path`, `start_s`, `end_s`, `is_balanced_subset`, `is_audioset_eval`.

    A `path` is relative to the table's folder; without that column the reference is
    <data_dir>/<id>.wav. A row without an id gets one from its text. Raises PromptError for a file
    or field that cannot be read, a missing column, an empty caption, an id that cannot name a file,
    and a repeated id; ids that differ in case alone are repeated, as many file systems see it.
    """
    try:
        columns, rows = _rows(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PromptError(f"{path} cannot be read as a CSV file in UTF-8: {error}") from error
    if "caption" not in columns:
        raise PromptError(
            f"{path} has no `caption` column (its columns: {', '.join(columns) or 'none'}). "
            "The first line of a prompt table names its columns, separated by commas."
        )
    if not rows:
        raise PromptError(f"{path} has no rows below its header")
    named = "ytid" in columns or "id" in columns
    prompts = []
    places = defaultdict[str, list[str]](list)
    for line, row in rows:
        prompt = _prompt(path, line, row, data_dir)
        same = places[prompt.id.lower()]
        same.append(f"{prompt.id} in line {line}")
        if len(same) > 1 and not named:  # the same text twice is two prompts, with their own noise
            suffix = f"-{len(same)}"
            prompt = replace(prompt, id=prompt.id + suffix, key=prompt.key + suffix)
        prompts.append(prompt)
    if named and (repeated := [" and ".join(same) for same in places.values() if len(same) > 1]):
        raise PromptError(
            f"{path}: ids name files, so each row needs one that differs from the others in more "
            f"than case: {some_of(repeated, 5)}"
        )
    return prompts, columns


def clean_caption(text: str, where: str) -> str:
    """The caption on one line. Raises PromptError, which says `where`."""
    text = " ".join(text.split())
    if not text:
        raise PromptError(f"{where}: the caption is empty")
    if len(text) > MAX_CAPTION:
        raise PromptError(
            f"{where}: the caption has {len(text)} characters; at most {MAX_CAPTION} "
            "(in a table, a double quote that is not closed takes in what follows)"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(f"{where}: the caption is not text in UTF-8 ({error})") from error
    return text


def id_of_text(text: str) -> str:
    """A name for files, from the text alone."""
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "prompt"
    return f"{slug}-{digest(text)[:6]}"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def some_of(names: Iterable[str], count: int) -> str:
    """The first `count` names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def _rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns; and of each row the line that it begins on, and its fields by column."""
    rows = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, skipinitialspace=True)
        columns = [name.strip() for name in next(reader, [])]
        line = reader.line_num + 1
        for fields in reader:
            if any(fields[len(columns) :]):
                raise PromptError(
                    f"{path}, line {line}: {len(fields)} fields, but {len(columns)} columns; "
                    "put a caption with commas in double quotes"
                )
            if fields:
                rows.append((line, dict(zip(columns, fields, strict=False))))
            line = reader.line_num + 1
    return columns, rows


def _prompt(path: Path, line: int, row: Mapping[str, str], data_dir: Path | None) -> Prompt:
    where = f"{path}, line {line}"
    text = clean_caption(row.get("caption", ""), where)
    name = (row.get("ytid") or row.get("id") or "").strip()
    if name and not ID.fullmatch(name):
        raise PromptError(
            f"{where}: the id {name!r} names files, so it is made of letters, digits, - and _ "
            "(up to 64)"
        )
    reference = None
    if row.get("path"):
        reference = path.parent / row["path"]
    elif name and data_dir and (data_dir / f"{name}.wav").is_file():
        reference = data_dir / f"{name}.wav"
    start, end = _section(row, where)
    return Prompt(
        id=name or id_of_text(text),
        text=text,
        key=name or digest(text),
        reference=reference,
        start_s=start,
        end_s=end,
        subsets=frozenset(s for s, column in SUBSET_COLUMNS.items() if _truth(row, column, where)),
    )


def _section(row: Mapping[str, str], where: str) -> tuple[float, float]:
    try:
        start = float(row.get("start_s") or 0.0)
        end = float(row.get("end_s") or start + SECTION)
    except ValueError as error:
        raise PromptError(f"{where}: start_s and end_s are seconds: {error}") from error
    if not 0 <= start < end < math.inf:
        raise PromptError(
            f"{where}: start_s and end_s are seconds, the start first; not {start:g} and {end:g}"
        )
    return start, end


def _truth(row: Mapping[str, str], column: str, where: str) -> bool:
    value = row.get(column, "").strip().lower()
    if value not in TRUE + FALSE:
        raise PromptError(f"{where}: {column} is True or False, not {row[column]!r}")
    return value in TRUE
