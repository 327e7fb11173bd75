"""Prompt sets: what the generator is asked for, and the reference audio where there is some.

One class of row for all of them. `load_prompts` takes what `--prompts` was given:

    builtin               the 64 held-out prompts of the built-in stack, with rendered references
    my.csv                a table with a `caption` column (MusicCaps' columns are understood)
    "slow solo violin"    anything else is a prompt itself

No torch here: prompts are read, and complained about, before anything heavy is loaded.
"""

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BUILTIN_DIR = Path(__file__).resolve().parent.parent / "builtin"
BUILTIN_TABLE = BUILTIN_DIR / "prompts.csv"
MAX_CAPTION = 2000  # characters; MusicCaps' longest caption has about a thousand


class PromptError(ValueError):
    """A prompt set that cannot be used; the message names the file, the row and what to change."""


@dataclass(frozen=True)
class Prompt:
    """One thing to generate.

    id: names its files; unique in its set (MusicCaps' ytid where there is one).
    text: the caption that conditions the generator and that verifiers score against.
    key: noise key. It depends on the row alone, so a prompt's candidates are the same in any
    subset. reference: audio file that the caption describes, if there is one. start_s, end_s: the
    section of the source that the caption describes, in seconds.
    """

    id: str
    text: str
    key: str
    reference: Path | None = None
    start_s: float = 0.0
    end_s: float = 10.0


def load_prompts(source: str, limit: int, data_dir: Path) -> list[Prompt]:
    """The first `limit` prompts of a set; a shorter set is used whole.

    data_dir: where `<ytid>.wav` references lie when a table has no `path` column.
    Raises PromptError.
    """
    if limit < 1:
        raise PromptError(f"num_samples must be 1 or more, not {limit}")
    if source == "musiccaps":
        raise PromptError("MusicCaps cannot be loaded by name yet; give its table as a CSV file")
    if source == "builtin":
        return read_table(BUILTIN_TABLE, data_dir)[:limit]
    if looks_like_table(source):
        return read_table(Path(source), data_dir)[:limit]
    return [single_prompt(source)]


def looks_like_table(source: str) -> bool:
    """Whether `--prompts` means a file: it ends in .csv, or a file of that name is there."""
    return source.lower().endswith(".csv") or (len(source) < 256 and Path(source).is_file())


def single_prompt(text: str) -> Prompt:
    text = _clean_caption(text, "the prompt")
    digest = _digest(text)
    return Prompt(id=f"{_slug(text)}-{digest[:6]}", text=text, key=digest)


def read_table(path: Path, data_dir: Path) -> list[Prompt]:
    """Rows of a CSV file: `caption`, and where they are there `ytid` or `id`, `path`, `start_s`,
    `end_s`.

    `path` is relative to the table's folder. A row without an id gets one from its text. Raises
    PromptError for a missing column, an empty caption, an id that cannot name a file, a repeated
    id.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            rows = [(reader.line_num, row) for row in reader]
    except FileNotFoundError:
        raise PromptError(f"there is no prompt table {path}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PromptError(f"{path} cannot be read as a CSV file in UTF-8: {error}") from error
    if "caption" not in columns:
        raise PromptError(
            f"{path} has no `caption` column (its columns: {', '.join(columns) or 'none'}). "
            "The first line of a prompt table names its columns."
        )
    if not rows:
        raise PromptError(f"{path} has no rows below its header")
    prompts = [_row(path, number, row, data_dir) for number, row in rows]
    repeated = [name for name, count in Counter(p.id.lower() for p in prompts).items() if count > 1]
    if repeated and "ytid" not in columns and "id" not in columns:
        return _number_repeats(prompts)
    if repeated:
        raise PromptError(
            f"{path}: ids name files, so they must differ in more than their case; these do not: "
            f"{', '.join(repeated[:5])}"
        )
    return prompts


def digest_of(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of what the prompts ask for, so that an edited table is another run."""
    return _digest("\n".join(f"{p.id}\t{p.key}\t{p.text}" for p in prompts))


def _row(path: Path, number: int, row: dict[str, str | None], data_dir: Path) -> Prompt:
    where = f"{path}, line {number}"
    text = _clean_caption(row.get("caption") or "", where)
    name = (row.get("ytid") or row.get("id") or "").strip()
    if name and not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise PromptError(
            f"{where}: the id {name!r} names files, so it is made of letters, digits, - and _ "
            "(up to 64)"
        )
    try:
        start, end = float(row.get("start_s") or 0.0), float(row.get("end_s") or 10.0)
    except ValueError as error:
        raise PromptError(f"{where}: start_s and end_s are seconds: {error}") from error
    reference = None
    if row.get("path"):
        reference = path.parent / str(row["path"])
    elif name and (data_dir / f"{name}.wav").is_file():
        reference = data_dir / f"{name}.wav"
    digest = _digest(text)
    return Prompt(
        id=name or f"{_slug(text)}-{digest[:6]}",
        text=text,
        key=name or digest,
        reference=reference,
        start_s=start,
        end_s=end,
    )


def _number_repeats(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The same text twice is two prompts, with noise of their own."""
    seen: Counter[str] = Counter()
    numbered = []
    for p in prompts:
        seen[p.id] += 1
        suffix = f"-{seen[p.id]}" if seen[p.id] > 1 else ""
        numbered.append(
            Prompt(p.id + suffix, p.text, p.key + suffix, p.reference, p.start_s, p.end_s)
        )
    return numbered


def _clean_caption(text: str, where: str) -> str:
    text = " ".join(text.split())
    if not text:
        raise PromptError(f"{where}: the caption is empty")
    if len(text) > MAX_CAPTION:
        raise PromptError(f"{where}: the caption has {len(text)} characters; at most {MAX_CAPTION}")
    return text


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "prompt"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
