"""LAION-CLAP: cosine similarity of the clip's and the prompt's embeddings."""

from collections.abc import Sequence

import numpy as np

from src.adapters.base import Adapter
from src.verifier_weights import WeightFile
from src.wire import Checkpoint, Score


class ClapVerifier(Adapter):
    """LAION-CLAP: cosine similarity of the clip's and the prompt's embeddings."""

    summary = "cosine of clip and prompt (LAION-CLAP, music checkpoint)"
    licence = "see https://huggingface.co/lukewys/laion_clap"
    sample_rate = 48_000
    needs_text = True
    files = (
        WeightFile(
            "music_audioset_epoch_15_esc_90.14.pt", repository="lukewys/laion_clap", size="2.4 GB"
        ),
    )

    def load(self, device: str, dtype: str = "float32") -> Checkpoint:
        raise NotImplementedError

    def score(self, clips: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Score]:
        raise NotImplementedError
