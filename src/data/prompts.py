"""Prompt sets: what the generator is asked for, and the reference audio where there is some.

One class of row for all of them. `load_prompts` takes what `--prompts` was given:

    musiccaps             MusicCaps' table as DATA_DIR/musiccaps.csv, references DATA_DIR/<ytid>.wav
    builtin               the 64 held-out prompts of the built-in stack, with rendered references
    my.csv                a table with a `caption` column (MusicCaps' columns are understood)
    "slow solo violin"    anything else is a prompt itself

and a Selection, which says which of them. No torch here: prompts are read, and complained about,
before anything heavy is loaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from src.data.files import ROOT
from src.data.hub import TABLE_NAME
from src.data.prompt_table import (
    ID,
    SUBSET_COLUMNS,
    Prompt,
    PromptError,
    SelectionError,
    Subset,
    clean_caption,
    digest,
    id_of_text,
    read_table,
    some_of,
)

BUILTIN_DIR = ROOT / "builtin"
BUILTIN_TABLE = BUILTIN_DIR / "prompts.csv"

Pick = Literal["first", "random"]


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


def load_prompts(source: str, selection: Selection, data_dir: Path) -> list[Prompt]:
    """The prompts of a set that `selection` takes; all that are left when these are fewer.

    data_dir: where MusicCaps' table lies, and `<ytid>.wav` references when a table has no `path`
    column. Raises PromptError.
    """
    if selection.limit is not None and selection.limit < 1:
        raise SelectionError(f"num_samples must be 1 or more, not {selection.limit}")
    table = _table(source, data_dir)
    if table is None:
        name, prompts, columns = "the prompt", [single_prompt(source)], list[str]()
    else:
        name, (prompts, columns) = str(table), read_table(table, data_dir)
    return _picked(_left(name, prompts, columns, selection), selection)


def single_prompt(text: str) -> Prompt:
    text = clean_caption(text, "the prompt")
    return Prompt(id=id_of_text(text), text=text, key=digest(text))


def read_ids(path: Path) -> set[str]:
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


def digest_of(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of what the prompts ask for, so that an edited table is another run."""
    return digest("\n".join(f"{p.id}\t{p.key}\t{p.text}" for p in prompts))


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


def _left(
    name: str, prompts: list[Prompt], columns: Sequence[str], selection: Selection
) -> list[Prompt]:
    """What subset, ids and references leave. Raises PromptError when that is nothing."""
    left, asked = prompts, []
    if selection.subset != "all":
        column = SUBSET_COLUMNS[selection.subset]
        if column not in columns:
            raise PromptError(
                f"{name} has no column {column}, which says what is in the subset "
                f"{selection.subset!r}: add it (True or False in each row), or ask for all"
            )
        left = [p for p in left if selection.subset in p.subsets]
        asked.append(f"in the subset {selection.subset!r}")
    if selection.ids is not None:
        wanted = read_ids(selection.ids)
        if unknown := sorted(wanted - {p.id for p in prompts}):
            raise SelectionError(
                f"{selection.ids}: {len(unknown)} of its {len(wanted)} ids are not in {name}; "
                f"correct or remove {some_of(unknown, 20)}"
            )
        left = [p for p in left if p.id in wanted]
        asked.append(f"named in {selection.ids}")
    if selection.referenced:
        left = [p for p in left if p.reference and p.reference.is_file()]
        asked.append("with its reference audio there (the table's `path`, or DATA_DIR/<id>.wav)")
    if not left:
        raise SelectionError(f"no prompt of {name} is {' and '.join(asked)}; ask for less")
    return left


def _picked(prompts: list[Prompt], selection: Selection) -> list[Prompt]:
    if selection.pick == "first":
        return prompts[: selection.limit]
    # Not the random module, whose way of drawing may be another in another version of Python.
    drawn = sorted(prompts, key=lambda p: digest(f"{selection.pick_seed}\t{p.id}"))
    chosen = {p.id for p in drawn[: selection.limit]}
    return [p for p in prompts if p.id in chosen]
