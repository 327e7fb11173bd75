"""How far two runs of the same commands agree: `make results` beside the committed results.

    python -m src.reports.reproduction results/again results/builtin

A run's folder is named after all that decides its results, so runs of one name should be alike:
the same tokens where processor and library versions round alike, else most of them; and tables
whose numbers differ by as much as the other tokens make. Seconds are not compared. No torch.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from src.reports.table import Row
from src.runs.ending import Exit
from src.runs.pool import load_pool
from src.runs.records import MANIFEST, RunFolderError, read_manifest, read_records

TIMED = "second"  # in a column's name: what no two runs share


def compare(folder: Path | str, other: Path | str) -> Row:
    """Two runs of one name. Raises RunFolderError.

    same, clips: how many clips have the same tokens, of those that both runs have. furthest: the
    largest difference of a number in the tables, relative to the largest of its column; where: in
    which table and column.
    """
    folder, other = Path(folder), Path(other)
    alike = _alike(folder, other)
    furthest, where = 0.0, ""
    for path in sorted(folder.glob("*.csv")):
        if (other / path.name).exists():
            for column, apart in _apart(path, other / path.name).items():
                if apart > furthest:
                    furthest, where = apart, f"{path.name}: {column}"
    found = {"run": folder.name, "same": sum(alike), "clips": len(alike)}
    return found | {"furthest": furthest, "where": where}


def _alike(folder: Path, other: Path) -> list[bool]:
    """Of each clip that both runs have, whether its tokens are the same."""
    if read_manifest(folder)["identity"]["script"] == "pool":
        pool, known = load_pool(folder), load_pool(other)
        prompts = [p for p in pool.prompts if pool.has_tokens(p) and known.has_tokens(p)]
        alike = [(pool.tokens(p) == known.tokens(p)).all(axis=(1, 2)) for p in prompts]
        return [bool(same) for of_prompt in alike for same in of_prompt]
    first, second = read_records(folder), read_records(other)
    return [
        record["winner"]["tokens_sha256"] == second[key]["winner"]["tokens_sha256"]
        for key, record in first.items()
        if record["status"] == "ok" and second.get(key, {}).get("status") == "ok"
    ]


def _apart(path: Path, other: Path) -> dict[str, float]:
    """By column of numbers; infinite where the tables have other rows, or one a number less."""
    first, second = (pd.read_csv(file, dtype=str) for file in (path, other))
    if len(first) != len(second) or list(first) != list(second):
        return {"its rows": math.inf}
    found: dict[str, float] = {}
    for column in (name for name in first if TIMED not in name):
        a, b = (pd.to_numeric(table[column], errors="coerce") for table in (first, second))
        largest = pd.concat([a, b]).abs().max()  # NaN: no number in either
        alike = a.isna().equals(b.isna())
        found[column] = (a - b).abs().max() / (largest or 1.0) if alike else math.inf
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m src.reports.reproduction", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, help="runs, such as results/again")
    parser.add_argument("other", type=Path, help="runs to hold them against: results/builtin")
    asked = parser.parse_args(arguments)
    runs = sorted(path.parent for path in asked.folder.glob(f"*/{MANIFEST}"))
    if not runs:
        parser.exit(Exit.FOLDER, f"{asked.folder} holds no runs\n")
    found, lacking = [], []
    try:
        for run in runs:
            if not (asked.other / run.name / MANIFEST).exists():
                lacking.append(f"{run.name}: {asked.other} has no run of the same settings.")
            elif read_manifest(run)["identity"]["script"] != "latency":
                found.append(compare(run, asked.other / run.name))
    except RunFolderError as error:
        parser.exit(Exit.FOLDER, f"{error}\n")
    for row in found:
        sys.stdout.write(
            f"{row['run']}: {row['same']} of {row['clips']} clips have the same tokens; tables are "
            f"apart by at most {row['furthest']:.2g} {row['where']}\n"
        )
    sys.stdout.writelines(f"{line}\n" for line in lacking)
    return Exit.DONE


if __name__ == "__main__":
    sys.exit(main())
