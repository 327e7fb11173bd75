"""The repository's root, and files that a kill leaves whole. Standard library only."""

import logging
import os
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]


def write_whole(path: Path, data: str | bytes) -> None:
    """Write a file whole or not at all (text in UTF-8); its folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        try:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def drop_torn_line(path: Path) -> None:
    """Cut off what follows the last line end: a line whose write was interrupted."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        torn = len(data) - whole
        log.warning("%s: dropping a last line that was cut short (%d bytes)", path, torn)
        with path.open("r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())
