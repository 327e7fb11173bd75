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
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.reports.table import Column, layout, shown
from src.runs.ending import Exit
from src.runs.pool import Pool, load_pool
from src.runs.records import MANIFEST, RunFolderError, read_manifest, read_records

TIMED = "second"  # in a column's name: what no two runs share


@dataclass(frozen=True)
class Agreement:
    """same, clips: how many clips have the same tokens, of those that both runs have. furthest: the
    largest difference of a number in the tables, relative to the largest of its column; where: in
    which table and column."""

    run: str
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
        a, b = (np.array([_number(row[column]) for row in rows]) for rows in (first, second))
        largest, furthest = (np.nan_to_num(np.abs(x)).max(initial=0) for x in ([a, b], a - b))
        alike = (np.isnan(a) == np.isnan(b)).all()
        found[column] = float(furthest / (largest or 1.0)) if alike else math.inf
    return found


def _number(text: str) -> float:
    """NaN for what is no number."""
    try:
        return float(text)
    except ValueError:
        return math.nan


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
    columns = [
        Column("run", shown("run"), left=True),
        Column("same tokens", lambda row: f"{row['same']} of {row['clips']}"),
        Column("tables apart by at most", shown("furthest", ".2g")),
        Column("", shown("where"), left=True),
    ]
    sys.stdout.write("\n".join(layout([vars(one) for one in found], columns)) + "\n")
    for run in runs:
        if run not in known:
            sys.stdout.write(f"{run.name}: {asked.other} has no run of the same settings.\n")
    return Exit.DONE


if __name__ == "__main__":
    sys.exit(main())
