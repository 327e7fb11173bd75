"""LAION-CLAP: cosine similarity of the clip's and the prompt's embeddings.

src/models/clap_network.py loads library and weights; the judge `clap_score` shares it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from src.models.clap_network import (
    FILES,
    LICENCE,
    SAMPLE_RATE,
    WINDOW,
    load_clap,
    load_tokenizer,
    unread_tokens,
)
from src.models.cosine import CosineVerifier
from src.models.isolation import exempt_from_autocast
from src.protocol import Checkpoint

if TYPE_CHECKING:
    import torch


class ClapVerifier(CosineVerifier):
    """LAION-CLAP: cosine similarity of the clip's and the prompt's embeddings.

    A clip of over 10 s is cut into windows of 10 s (`CosineVerifier`). This replaces the library's
    own way with long clips, which is to hear 10 s cropped at random by numpy's global generator:
    the same clip would get another score each time. Up to 10 s the library's way is kept: it
    repeats a clip as often as it fits whole and fills the rest with zeros; and samples pass through
    16 bits, as in the library's documented calls, which clips them at full scale.

    Prompts are cut by the library at RoBERTa's 77th token, about 60 words.
    """

    summary = "cosine of clip and prompt (LAION-CLAP, music checkpoint)"
    licence = LICENCE
    sample_rate = SAMPLE_RATE
    window = WINDOW
    windows_at_once = 16  # activations take 40 MB each
    files = FILES

    def load(self, device: str, dtype: str = "float32") -> Checkpoint:
        self._library, checkpoint = load_clap(device)
        self._tokenizer = load_tokenizer()  # not the library's, which another thread may be using
        # A spectrogram's power goes up to 2.6e5 at full scale.
        audio_branch = self._library.model.audio_branch
        exempt_from_autocast(audio_branch.spectrogram_extractor, "forward", device)
        exempt_from_autocast(audio_branch.logmel_extractor, "forward", device)
        self.compute_on(device, dtype)
        return checkpoint

    def unread_tokens(self, prompt: str) -> int:
        return unread_tokens(self._tokenizer, prompt)

    def embed_windows(self, windows: Sequence[np.ndarray]) -> "torch.Tensor":
        """[windows, 512]."""
        import torch
        from laion_clap.training.data import float32_to_int16, int16_to_float32

        waves = [torch.from_numpy(int16_to_float32(float32_to_int16(w))) for w in windows]
        return self._library.get_audio_embedding_from_data(waves, use_tensor=True)

    def embed_text(self, prompt: str) -> "torch.Tensor":
        """[512]."""
        return self._library.get_text_embedding([prompt], use_tensor=True)[0]
