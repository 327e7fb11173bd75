"""How far two runs of the same commands agree: `make results` beside the committed results.

    python -m src.reports.reproduction results/again results/builtin

A run's folder is named after all that decides its results, so runs of one name should be alike:
the same tokens where processor and library versions round alike, else most of them; and tables
whose numbers differ by as much as the other tokens make. Seconds are not compared. No torch.
"""

import argparse
import csv
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from src.reports.text import columns
from src.runs.ending import Exit
from src.runs.pool import Pool, load_pool
from src.runs.records import MANIFEST, RunFolderError, read_manifest, read_records

TIMED = "second"  # in a column's name: what no two runs share


class Agreement(NamedTuple):
    """same, clips: how many clips have the same tokens, of those that both runs have. furthest: the
    largest difference of a number in the tables, relative to the largest of its column; where: in
    which table and column."""

    name: str
    same: int
    clips: int
    furthest: float
    where: str


def compare(folder: Path, other: Path) -> Agreement:
    """Two runs of one name. Raises RunFolderError."""
    if read_manifest(folder)["identity"]["script"] == "pool":
        same, clips = _alike_candidates(load_pool(folder), load_pool(other))
    else:
        same, clips = _alike_winners(folder, other)
    furthest, where = 0.0, ""
    for path in sorted(folder.glob("*.csv")):
        if (other / path.name).exists():
            for column, apart in _apart(path, other / path.name).items():
                if not apart <= furthest:
                    furthest, where = apart, f"{path.name}: {column}"
    return Agreement(folder.name, same, clips, furthest, where)


def _alike_winners(folder: Path, other: Path) -> tuple[int, int]:
    first, second = read_records(folder), read_records(other)
    both = [
        (record["winner"]["tokens_sha256"], second[key]["winner"]["tokens_sha256"])
        for key, record in first.items()
        if record["status"] == "ok" and second.get(key, {}).get("status") == "ok"
    ]
    return sum(a == b for a, b in both), len(both)


def _alike_candidates(pool: Pool, other: Pool) -> tuple[int, int]:
    prompts = [prompt for prompt in pool.prompts if prompt in other.candidates]
    same = sum(int((pool.tokens(p) == other.tokens(p)).all(axis=(1, 2)).sum()) for p in prompts)
    return same, pool.size * len(prompts)


def _apart(path: Path, other: Path) -> dict[str, float]:
    """By column; infinite where the tables have other rows, or one of them a number less."""
    first, second = _rows(path), _rows(other)
    if len(first) != len(second) or (first and first[0].keys() != second[0].keys()):
        return {"its rows": math.inf}
    found: dict[str, float] = {}
    for column in first[0] if first else ():
        if TIMED in column:
            continue
        both = zip(first, second, strict=True)
        pairs = [(_number(one[column]), _number(other[column])) for one, other in both]
        size = max((abs(x) for pair in pairs for x in pair if x is not None), default=0.0)
        found[column] = max((_difference(a, b) for a, b in pairs), default=0.0) / (size or 1.0)
    return found


def _difference(a: float | None, b: float | None) -> float:
    if a is None or b is None:
        return 0.0 if a is b else math.inf
    return abs(a - b)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m src.reports.reproduction", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, help="runs, such as results/again")
    parser.add_argument("other", type=Path, help="runs to hold them against: results/builtin")
    asked = parser.parse_args(arguments)
    runs = sorted(path.parent for path in asked.folder.glob(f"*/{MANIFEST}"))
    known = [run for run in runs if (asked.other / run.name / MANIFEST).exists()]
    try:
        found = [
            compare(run, asked.other / run.name)
            for run in known
            if read_manifest(run)["identity"]["script"] != "latency"
        ]
    except RunFolderError as error:
        parser.exit(Exit.FOLDER, f"{error}\n")
    rows = [("run", "same tokens", "tables apart by at most", "")]
    rows += [(f.name, f"{f.same} of {f.clips}", f"{f.furthest:.2g}", f.where) for f in found]
    sys.stdout.write("\n".join(columns(rows, left=(0, 3))) + "\n")
    for run in runs:
        if run not in known:
            sys.stdout.write(f"{run.name}: {asked.other} has no run of the same settings.\n")
    return Exit.DONE


if __name__ == "__main__":
    sys.exit(main())
