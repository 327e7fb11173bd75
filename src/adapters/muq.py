"""MuQ-MuLan: cosine similarity of the clip's and the prompt's embeddings."""

from collections.abc import Sequence

import numpy as np

from src.adapters.base import Adapter
from src.verifier_weights import WeightFile
from src.wire import Checkpoint, Score


class MuqVerifier(Adapter):
    """MuQ-MuLan: cosine similarity of the clip's and the prompt's embeddings."""

    summary = "cosine of clip and prompt (MuQ-MuLan)"
    licence = "CC-BY-NC 4.0 (no commercial use)"
    sample_rate = 24_000
    needs_text = True
    files = (
        WeightFile("config.json", repository="OpenMuQ/MuQ-MuLan-large"),
        WeightFile(
            "model.safetensors",
            repository="OpenMuQ/MuQ-MuLan-large",
            licence="CC-BY-NC 4.0 (no commercial use)",
        ),
    )

    def load(self, device: str, dtype: str = "float32") -> Checkpoint:
        raise NotImplementedError

    def score(self, clips: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Score]:
        raise NotImplementedError
