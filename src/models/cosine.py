"""What verifiers share that embed clip and prompt: windows, their mean, the cosine."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from src.models.adapter import Adapter, finite_score, must_be_audible, window_starts
from src.models.isolation import computing, random_states_kept
from src.protocol import Score

if TYPE_CHECKING:
    import torch


class CosineVerifier(Adapter):
    """Cosine of the clip's and the prompt's embeddings, -1 to 1.

    A clip's embedding is the mean of the unit embeddings of fixed windows that cover it, scaled to
    unit length; where windows do not divide the clip, the last one ends with it and overlaps the
    one before. A clip no longer than a window is heard as a whole. Each prompt is embedded alone.
    """

    needs_text = True
    shortest: ClassVar[int] = 1  # samples
    window: int  # samples
    # The memory of a request of many long clips must have a bound.
    windows_at_once: ClassVar[int]

    def compute_on(self, device: str, dtype: str) -> None:
        """Where and how `score` computes; for `load`, after which no prompt's embedding is kept."""
        self.device, self.dtype = device, dtype
        self.text = lru_cache(maxsize=1024)(lambda prompt: unit(self.embed_text(prompt).float()))

    def score(self, clips: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Score]:
        import torch

        for clip in clips:
            must_be_audible(clip, self.shortest)  # some libraries take NaN for silence
        with random_states_kept(), computing(self.device, self.dtype):
            audio = self._embed_clips(clips)
            text = torch.stack([self.text(prompt) for prompt in prompts])
            # a sum of products, because autocast would round a matrix product
            cosines = (audio * text).sum(dim=1).tolist()
        return [finite_score(cosine, {}) for cosine in cosines]

    def _embed_clips(self, clips: Sequence[np.ndarray]) -> "torch.Tensor":
        """float32 [clips, D], unit length."""
        import torch

        of_clips = [
            [clip[start : start + self.window] for start in window_starts(len(clip), self.window)]
            for clip in clips
        ]
        windows = [window for of_clip in of_clips for window in of_clip]
        portions = [
            self.embed_windows(windows[at : at + self.windows_at_once])
            for at in range(0, len(windows), self.windows_at_once)
        ]
        units = unit(torch.cat(portions).float()).split([len(of_clip) for of_clip in of_clips])
        return unit(torch.stack([of_clip.mean(dim=0) for of_clip in units]))

    @abstractmethod
    def embed_windows(self, windows: Sequence[np.ndarray]) -> "torch.Tensor":
        """float32 [T <= window] each -> [windows, D] of any length."""

    @abstractmethod
    def embed_text(self, prompt: str) -> "torch.Tensor":
        """[D] of any length."""


def unit(vectors: "torch.Tensor") -> "torch.Tensor":
    """The vectors [..., D] at length 1; not numbers where a vector has no length."""
    return vectors / vectors.norm(dim=-1, keepdim=True)
