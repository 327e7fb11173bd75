"""What the clips of a pool sound like to a network: one vector a clip, by which sets are measured.

    <pool>/embeddings/<name>/<prompt id>.npz

name: one for all judges of a network (`SetJudge.embeddings`). A file holds `candidates` [m, D] and
`reference` [1, D], or [0, D] where there is none, float16, the means over a clip's windows (a
candidate that cannot be heard is NaN), and `checkpoint`, the network's weights. They can be made
again from tokens, and are not committed.
"""

import io
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from src.runs.records import RunFolderError

Heard = dict[str, NDArray[np.generic]]


def pool_embeddings(folder: Path | str) -> list[str]:
    """The names under which a pool has embeddings."""
    return sorted(path.name for path in Path(folder, "embeddings").glob("*/"))


def pool_embedding_file(folder: Path | str, name: str, prompt_id: str) -> Path:
    return Path(folder, "embeddings", name, f"{prompt_id}.npz")


def npz(heard: Heard) -> bytes:
    """A prompt's file."""
    with io.BytesIO() as data:
        np.savez(data, **heard)  # type: ignore[arg-type]
        return data.getvalue()


def load_pool_embedding(path: Path) -> Heard | None:
    """A prompt's file; None where there is none. Raises RunFolderError for a damaged one."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as found:
            return {name: found[name] for name in ("candidates", "reference", "checkpoint")}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise RunFolderError(
            f"{path} cannot be read ({error}). Remove it: it is made again."
        ) from None
