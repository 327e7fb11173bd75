"""The repository's root, and files that are written whole or not at all. Standard library only."""

import os
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all; its folder is made where it is missing."""
    write_bytes_whole(path, text.encode())


def write_bytes_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; its folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)
