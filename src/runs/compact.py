"""A finished run in fewer bytes: read by the same loaders, and expanded when it is resumed.

    python -m src.runs.compact results/pool-builtin-m32-1a2b3c4d

records.jsonl becomes records.jsonl.gz with the latest record of each key and numbers of DIGITS
significant digits; a pool's tokens/*.npy become *.npz. Figures carry the records' digest: draw them
anew afterwards with `python -m src.reports`.
"""

import argparse
import gzip
import io
import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.data.files import write_whole
from src.runs.ending import Exit, ending
from src.runs.records import COMPRESSED, RECORDS, read_manifest, read_records

DIGITS = 10  # three more than a float32 has


def compact(folder: Path) -> tuple[int, int]:
    """Bytes of the folder before and after. Raises RunFolderError for a folder that is no run's."""
    read_manifest(folder)
    before = size_of(folder)
    lines = [
        json.dumps(rounded(record), sort_keys=True, separators=(",", ":"))
        for record in read_records(folder).values()
    ]
    text = "".join(f"{line}\n" for line in lines).encode()
    write_whole(folder / COMPRESSED, gzip.compress(text, mtime=0))
    (folder / RECORDS).unlink(missing_ok=True)
    for path in sorted(folder.glob("tokens/*.npy")):
        write_whole(path.with_suffix(".npz"), packed(np.load(path, allow_pickle=False)))
        path.unlink()
    return before, size_of(folder)


def packed(tokens: NDArray[np.int16]) -> bytes:
    """An .npz file's bytes, the same ones each time; bzip2 packs tokens a seventh smaller."""
    with io.BytesIO() as data:
        with zipfile.ZipFile(data, "w", zipfile.ZIP_BZIP2) as archive:
            member = zipfile.ZipInfo("tokens.npy")  # without the time of day
            member.compress_type = zipfile.ZIP_BZIP2
            with archive.open(member, "w") as file:
                np.lib.format.write_array(file, tokens, allow_pickle=False)
        return data.getvalue()


def rounded(value: Any) -> Any:
    """JSON values with floats of DIGITS significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded(x) for key, x in value.items()}
    return [rounded(x) for x in value] if isinstance(value, list) else value


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m src.runs.compact", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR")
    with ending("compact"):
        for folder in parser.parse_args(args).runs:
            before, after = compact(folder)
            sys.stdout.write(f"{folder}: {before / 1e6:.1f} MB, now {after / 1e6:.1f} MB\n")
    return Exit.DONE


if __name__ == "__main__":
    sys.exit(main())
