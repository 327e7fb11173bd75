"""LAION-CLAP: cosine similarity of the clip's and the prompt's embeddings.

src/models/clap_network.py loads library and weights; the judge `clap_score` shares it.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from src.models.adapter import Adapter, finite_score, must_be_audible, window_starts
from src.models.clap_network import (
    FILES,
    LICENCE,
    SAMPLE_RATE,
    WINDOW,
    load_clap,
    load_tokenizer,
    unit,
    unread_tokens,
)
from src.models.isolation import computing, exempt_from_autocast
from src.protocol import Checkpoint, Score

if TYPE_CHECKING:
    import torch

# A window's activations take 40 MB: a request of many long clips must not go in one call.
WINDOWS_AT_ONCE = 16


class ClapVerifier(Adapter):
    """LAION-CLAP: cosine similarity of the clip's and the prompt's embeddings.

    A clip of over 10 s is cut into fixed windows of 10 s that cover it, the last one ending with
    it; the windows' unit embeddings are averaged and the mean is normalised. This replaces the
    library's own way with long clips, which is to hear 10 s cropped at random by numpy's global
    generator: the same clip would get another score each time. Up to 10 s the library's way is
    kept: it repeats a clip as often as it fits whole and fills the rest with zeros; and samples
    pass through 16 bits, as in the library's documented calls, which clips them at full scale.

    Prompts are cut by the library at RoBERTa's 77th token, about 60 words.
    """

    summary = "cosine of clip and prompt (LAION-CLAP, music checkpoint)"
    licence = LICENCE
    sample_rate = SAMPLE_RATE
    needs_text = True
    files = FILES

    def load(self, device: str, dtype: str = "float32") -> Checkpoint:
        self._library, checkpoint = load_clap(device)
        self._tokenizer = load_tokenizer()  # not the library's, which another thread may be using
        # Its power goes up to 2.6e5 at full scale.
        audio_branch = self._library.model.audio_branch
        exempt_from_autocast(audio_branch.spectrogram_extractor, "forward", device)
        exempt_from_autocast(audio_branch.logmel_extractor, "forward", device)
        self.device, self.dtype = device, dtype
        self._text_embedding: Callable[[str], torch.Tensor] = lru_cache(maxsize=1024)(
            self._embed_text
        )
        return checkpoint

    def score(self, clips: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Score]:
        for clip in clips:
            must_be_audible(clip)  # the library takes NaN for silence
        scores = []
        with computing(self.device, self.dtype):
            for embedding, prompt in zip(self._embed_clips(clips), prompts, strict=True):
                # a sum of products, because autocast would round a matrix product
                cosine = (embedding * self._text_embedding(prompt)).sum()
                scores.append(finite_score(cosine.item(), {}))
        return scores

    def unread_tokens(self, prompt: str) -> int:
        return unread_tokens(self._tokenizer, prompt)

    def _embed_clips(self, clips: Sequence[np.ndarray]) -> "list[torch.Tensor]":
        """Unit embeddings, float32 [512] each."""
        import torch
        from laion_clap.training.data import float32_to_int16, int16_to_float32

        windows, counts = [], []
        for clip in clips:
            starts = window_starts(len(clip), WINDOW)
            windows += [clip[start : start + WINDOW] for start in starts]
            counts.append(len(starts))
        embeddings = []
        for at in range(0, len(windows), WINDOWS_AT_ONCE):
            waves = [
                torch.from_numpy(int16_to_float32(float32_to_int16(window)))
                for window in windows[at : at + WINDOWS_AT_ONCE]
            ]
            embeddings.append(self._library.get_audio_embedding_from_data(waves, use_tensor=True))
        return [
            unit(unit(of_clip).mean(0)) for of_clip in torch.cat(embeddings).float().split(counts)
        ]

    def _embed_text(self, prompt: str) -> "torch.Tensor":
        """Unit embedding, float32 [512]."""
        return unit(self._library.get_text_embedding([prompt], use_tensor=True)[0].float())
