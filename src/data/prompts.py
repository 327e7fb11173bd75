"""Prompt sets: what the generator is asked for, and the reference audio where there is some.

One class of row for all of them. `load_prompts` takes what `--prompts` was given:

    musiccaps             MusicCaps' table as DATA_DIR/musiccaps.csv, references DATA_DIR/<ytid>.wav
    builtin               the 64 held-out prompts of the built-in stack, with rendered references
    my.csv                a table with a `caption` column (MusicCaps' columns are understood)
    "slow solo violin"    anything else is a prompt itself

and a Selection, which says which of them. No torch here: prompts are read, and complained about,
before anything heavy is loaded.
"""

import ast
import csv
import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from operator import add
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from src.data.files import ROOT

BUILTIN_TABLE = ROOT / "builtin" / "prompts.csv"
TABLE_NAME = "musiccaps.csv"

MAX_CAPTION = 2000  # characters; MusicCaps' longest caption has about a thousand
SECTION = 10.0  # seconds of the source that a row describes, unless it says otherwise
WRONG_REFERENCES = 8
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

Pick = Literal["first", "random"]
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
    it is in. aspects: the words for single traits that the table lists beside the caption. wrong:
    references of other prompts of its set, by `with_wrong`. given: tokens, int16 [codebooks,
    frames], with which its clips begin.
    """

    id: str
    text: str
    key: str
    reference: Path | None = None
    start_s: float = 0.0
    end_s: float = SECTION
    subsets: frozenset[Subset] = frozenset()
    aspects: tuple[str, ...] = ()
    wrong: tuple[Path, ...] = ()
    given: NDArray[np.int16] | None = field(default=None, compare=False)

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s

    @property
    def given_frames(self) -> int:
        return 0 if self.given is None else self.given.shape[-1]

    @property
    def is_referenced(self) -> bool:
        """Whether its reference audio file is there."""
        return self.reference is not None and self.reference.is_file()


@dataclass(frozen=True)
class Selection:
    """Which prompts of a set are used.

    First those are left out that are not in `subset`, that `ids` (a file with one id a line) does
    not name, or, if `referenced`, whose reference audio file is not there. Of the others `pick`
    takes `limit` (None: all): the first ones, or ones drawn by `pick_seed`. A draw depends on the
    seed and the ids alone: it is the same on every machine, and a larger one holds the smaller
    ones. The set's order is kept, whatever is selected.
    """

    limit: int | None = 10
    subset: Subset = "all"
    pick: Pick = "first"
    pick_seed: int = 0
    ids: Path | None = None
    referenced: bool = False


def load_prompts(source: str, selection: Selection, data_dir: Path | str) -> list[Prompt]:
    """The prompts of a set that `selection` takes; all that are left when these are fewer.

    data_dir: where MusicCaps' table lies, and `<ytid>.wav` references when a table has no `path`
    column. Raises PromptError.
    """
    data_dir = Path(data_dir)
    table = _table(source, data_dir)
    if table is None:
        return _select([single_prompt(source)], "the prompt", selection)
    columns = [SUBSET_COLUMNS[selection.subset]] if selection.subset != "all" else []
    return _select(with_wrong(read_table(table, data_dir, columns)), str(table), selection)


def single_prompt(text: str) -> Prompt:
    text = _on_one_line(text, "the prompt")
    return Prompt(id=_id_of_text(text), text=text, key=_digest(text))


def read_table(
    path: Path | str, data_dir: Path | str | None = None, needed: Sequence[str] = ()
) -> list[Prompt]:
    """A CSV file's prompts, from its columns `caption`, and where they are there `ytid` or `id`,
    `path`, `start_s`, `end_s`, `is_balanced_subset`, `is_audioset_eval`, `aspect_list`.

    A `path` is relative to the table's folder; without that column the reference is
    <data_dir>/<id>.wav. A row without an id gets one from its text. Raises PromptError for a file
    or field that cannot be read, a column that is `needed` and missing, an empty caption, an id
    that cannot name a file, and a repeated id; ids that differ in case alone are repeated, as many
    file systems see it.
    """
    path, data_dir = Path(path), None if data_dir is None else Path(data_dir)
    try:
        columns, rows = _rows(path)
    except FileNotFoundError:
        raise PromptError(f"there is no file {path}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PromptError(f"{path} cannot be read as a CSV file in UTF-8: {error}") from error
    if lacking := [name for name in ("caption", *needed) if name not in columns]:
        raise PromptError(
            f"{path} has no column {', '.join(lacking)} (its columns: "
            f"{', '.join(columns) or 'none'}). The first line of a prompt table names its columns, "
            "separated by commas. That of a subset is True or False in each row; or ask for all."
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
            f"than case: {_some_of(repeated, 5)}"
        )
    return prompts


def with_wrong(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts of a set, with the references that controls compare their clips with.

    In a circle of those whose reference is there, in an order drawn by their ids, these are the
    next WRONG_REFERENCES that are other files, for other captions: so each is as often a wrong
    reference as any other, whichever prompts are selected later.
    """
    there = [prompt for prompt in prompts if prompt.is_referenced]
    circle = sorted(there, key=lambda prompt: _digest(prompt.id))
    found = {}
    for at, prompt in enumerate(circle):
        after = (circle[(at + ahead) % len(circle)] for ahead in range(1, len(circle)))
        others = (
            other.reference
            for other in after
            if other.reference and other.reference != prompt.reference and other.text != prompt.text
        )
        found[prompt.id] = tuple(islice(others, WRONG_REFERENCES))
    return [replace(prompt, wrong=found.get(prompt.id, ())) for prompt in prompts]


def digest_of(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of what the prompts ask for, so that an edited table is another run."""
    given = ["" if p.given is None else f"\t{digest_of_tokens(p.given)}" for p in prompts]
    asked = (f"{p.id}\t{p.key}\t{p.text}" for p in prompts)
    return _digest("\n".join(map(add, asked, given)))


def digest_of_tokens(tokens: NDArray[Any]) -> str:
    """SHA-256 of a clip's tokens, [codebooks, frames], by which two runs can be compared."""
    return hashlib.sha256(tokens.astype("<i2").tobytes()).hexdigest()


def _table(source: str, data_dir: Path) -> Path | None:
    """The file that `--prompts` means: a .csv, or any that is there; None: it is a prompt."""
    if source == "builtin":
        return BUILTIN_TABLE
    if source == "musiccaps":
        if (table := data_dir / TABLE_NAME).is_file():
            return table
        raise PromptError(
            f"MusicCaps' table, {table}, is not there: download_data.py gets it; "
            "or pass a copy of your own: --prompts musiccaps-public.csv"
        )
    try:
        is_file = source.lower().endswith(".csv") or Path(source).is_file()
    except (OSError, ValueError):  # longer than a file's name can be, or with a character of none
        is_file = False
    return Path(source) if is_file else None


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
    text = _on_one_line(row.get("caption", ""), where)
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
    try:
        start = float(row.get("start_s") or 0.0)
        end = float(row.get("end_s") or start + SECTION)
    except ValueError as error:
        raise PromptError(f"{where}: start_s and end_s are seconds: {error}") from error
    if not 0 <= start < end < math.inf:
        raise PromptError(
            f"{where}: start_s and end_s are seconds, the start first; not {start:g} and {end:g}"
        )
    subsets = set()
    for subset, column in SUBSET_COLUMNS.items():
        value = row.get(column, "").strip().lower()
        if value in TRUE:
            subsets.add(subset)
        elif value not in FALSE:
            raise PromptError(f"{where}: {column} is True or False, not {row[column]!r}")
    key, aspects = name or _digest(text), _aspects(row.get("aspect_list", ""))
    own = (name or _id_of_text(text), text, key, reference, start, end)
    return Prompt(*own, frozenset(subsets), aspects)


def _aspects(listed: str) -> tuple[str, ...]:
    """The column aspect_list: a list of strings as Python writes it, or words with commas."""
    try:
        found = ast.literal_eval(listed.strip() or "[]")
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(aspect, str) for aspect in found):
        found = listed.split(",")
    return tuple(" ".join(aspect.split()) for aspect in found if aspect.strip())


def _on_one_line(text: str, where: str) -> str:
    """A caption. Raises PromptError, which says `where`."""
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


def _id_of_text(text: str) -> str:
    """A name for files, from the text alone."""
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "prompt"
    return f"{slug}-{_digest(text)[:6]}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _select(prompts: list[Prompt], name: str, selection: Selection) -> list[Prompt]:
    """The prompts of the set `name` that the selection takes. Raises SelectionError for none."""
    left, asked = prompts, []
    if selection.subset != "all":
        left = [p for p in left if selection.subset in p.subsets]
        asked.append(f"in the subset {selection.subset!r}")
    if selection.ids is not None:
        wanted = _read_ids(selection.ids)
        if unknown := sorted(wanted - {p.id for p in prompts}):
            raise SelectionError(
                f"{selection.ids}: {len(unknown)} of its {len(wanted)} ids are not in {name}; "
                f"correct or remove {_some_of(unknown, 20)}"
            )
        left = [p for p in left if p.id in wanted]
        asked.append(f"named in {selection.ids}")
    if selection.referenced:
        left = [p for p in left if p.is_referenced]
        asked.append("with its reference audio there (the table's `path`, or DATA_DIR/<id>.wav)")
    if not left:
        raise SelectionError(f"no prompt of {name} is {' and '.join(asked)}; ask for less")
    if selection.pick == "first":
        return left[: selection.limit]
    # Not the random module, whose way of drawing may be another in another version of Python.
    drawn = sorted(left, key=lambda p: _digest(f"{selection.pick_seed}\t{p.id}"))
    chosen = {p.id for p in drawn[: selection.limit]}
    return [p for p in left if p.id in chosen]


def _read_ids(path: Path) -> set[str]:
    """The ids of a text file: one a line, with blank lines and `# comments`. Raises
    SelectionError."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SelectionError(f"{path} cannot be read as text in UTF-8: {error}") from error
    ids = {line.partition("#")[0].strip() for line in lines} - {""}
    if wrong := [name for name in ids if not ID.fullmatch(name)]:
        raise SelectionError(f"{path}: {min(wrong)[:80]!r} is no id; write one a line")
    if not ids:
        raise SelectionError(f"{path} names no ids; write one a line")
    return ids


def _some_of(names: Sequence[str], count: int) -> str:
    """The first `count` names, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
