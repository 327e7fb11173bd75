"""A finished run in fewer bytes: read by the same loaders, and expanded when it is resumed.

    python -m src.runs.compact results/pool-builtin-m32-1a2b3c4d

records.jsonl becomes records.jsonl.xz with the latest record of each key; the .npy files of tokens/
become .npz. --no_trees leaves out what searches noted of the candidates that did not win, most of
a sweep's bytes: nothing in its tables is of them. Figures carry the records' digest: draw them anew
with `python -m src.reports`.
"""

import argparse
import io
import lzma
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src.data.files import as_json, remove, whole_file, write_whole
from src.runs.arguments import given
from src.runs.ending import Exit, ending
from src.runs.records import COMPRESSED, RECORDS, read_manifest, read_records, without_tree


def compact(folder: Path | str, trees: bool = True) -> tuple[int, int]:
    """Bytes of the folder before and after. trees: keep those of searches.

    Raises RunFolderError for a folder that is no run's, WriteError.
    """
    folder = Path(folder)
    read_manifest(folder)
    before = size_of(folder)
    records = read_records(folder)
    with whole_file(folder / COMPRESSED) as file, lzma.open(file, "wb", preset=9) as lines:
        for record in records.values():
            kept = record if trees else without_tree(record)
            lines.write(f"{as_json(kept)}\n".encode())
    remove(folder / RECORDS)
    for path in sorted(folder.glob("tokens/*.npy")):
        packed = io.BytesIO()
        np.savez_compressed(packed, tokens=np.load(path, allow_pickle=False))
        write_whole(path.with_suffix(".npz"), packed.getvalue())
        remove(path)
    return before, size_of(folder)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m src.runs.compact", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR")
    parser.add_argument("--no_trees", action="store_true", help="leave out searches' trees")
    asked = parser.parse_args(given(args, parser.prog))
    with ending("compact"):
        for folder in asked.runs:
            before, after = compact(folder, not asked.no_trees)
            sys.stdout.write(f"{folder}: {before / 1e6:.1f} MB, now {after / 1e6:.1f} MB\n")
    return Exit.DONE


if __name__ == "__main__":
    sys.exit(main())
