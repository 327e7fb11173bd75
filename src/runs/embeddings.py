"""Where a run keeps the embeddings from which a measure of sets is made; numpy only.

<run>/embeddings/<measure>/<method>/<prompt id>.npy     float32 [windows, D]
<run>/embeddings/<measure>/reference/<prompt id>.npy
"""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.data.files import write_whole
from src.runs.records import RunFolderError

REFERENCE = "reference"  # in a method's place


def place(folder: Path, measure: str, method: str, prompt_id: str) -> Path:
    """The file of one clip's embedding, or with REFERENCE of its prompt's reference."""
    return folder / "embeddings" / measure / method / f"{prompt_id}.npy"


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array's .npy file whole or not at all."""
    with io.BytesIO() as data:
        np.save(data, array)
        write_whole(path, data.getvalue())


def load(
    folder: Path, measure: str, method: str, prompt_ids: Iterable[str]
) -> dict[str, NDArray[np.float32]]:
    """Those of the prompts that have one, by prompt id.

    Raises RunFolderError for a damaged file.
    """
    found = {}
    for prompt_id in prompt_ids:
        path = place(folder, measure, method, prompt_id)
        if not path.exists():
            continue
        try:
            found[prompt_id] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise RunFolderError(
                f"{path} cannot be read ({error}). Remove it: its clip is then left out."
            ) from error
    return found
