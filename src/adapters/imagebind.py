"""ImageBind: cosine similarity of the clip's and the prompt's embeddings."""

from collections.abc import Sequence

import numpy as np

from src.adapters.base import Adapter
from src.verifier_weights import WeightFile
from src.wire import Checkpoint, Score


class ImageBindVerifier(Adapter):
    """ImageBind: cosine similarity of the clip's and the prompt's embeddings."""

    summary = "cosine of clip and prompt (ImageBind)"
    licence = "CC-BY-NC-SA 4.0 (no commercial use)"
    sample_rate = 16_000
    needs_text = True
    files = (
        WeightFile(
            "imagebind_huge.pth",
            url="https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth",
            licence="CC-BY-NC-SA 4.0 (no commercial use)",
            size="4.8 GB",
        ),
    )

    def load(self, device: str, dtype: str = "float32") -> Checkpoint:
        raise NotImplementedError

    def score(self, clips: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Score]:
        raise NotImplementedError
