"""Audiobox Aesthetics: production quality and content enjoyment, without the prompt."""

from collections.abc import Sequence

import numpy as np

from src.adapters.base import Adapter
from src.verifier_weights import WeightFile
from src.wire import Checkpoint, Score


class QualityVerifier(Adapter):
    """Audiobox Aesthetics: production quality and content enjoyment, without the prompt."""

    summary = "production quality and enjoyment (Audiobox Aesthetics)"
    licence = "CC-BY 4.0"
    sample_rate = 16_000
    needs_text = False
    files = (
        WeightFile("checkpoint.pt", repository="facebook/audiobox-aesthetics", licence="CC-BY 4.0"),
    )

    def load(self, device: str, dtype: str = "float32") -> Checkpoint:
        raise NotImplementedError

    def score(self, clips: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Score]:
        raise NotImplementedError
