"""Judges that hear through CLAP: audiocraft's CLAP score, and measures of sets."""

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from src.data.audio import Clip
from src.data.prompts import Prompt
from src.judges.base import ClipJudge, KernelJudge, Listener, SetJudge, SpreadJudge
from src.judges.published import at_published_loudness, at_rate, computing_as_published
from src.models import clap
from src.models.adapter import unit, window_starts
from src.protocol import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor


class ClapListener(Listener):
    """LAION-CLAP's audio embeddings, unit vectors, float32 [windows, 512].

    A clip of up to 10 s is one window, which the library fills with whole repeats and zeros. A
    longer one is cut into fixed windows of 10 s that cover it, the last one ending with it, as for
    the verifier `clap`. A generated clip is first brought to audiocraft's loudness; a
    reference is heard as it is.
    """

    files = clap.FILES

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        self.embed_text = lru_cache(maxsize=1024)(self._embed_text)

    def load(self) -> tuple[Any, Checkpoint]:
        return clap.load_clap(self.device)

    @cached_property
    def tokenizer(self) -> Any:
        """RoBERTa's; needs no checkpoint. Raises WeightsError."""
        return clap.load_roberta()[0]

    def listen_to_generated(self, clip: Clip) -> NDArray[np.float32]:
        return self.listen(at_published_loudness(clip))

    def listen(self, clip: Clip) -> NDArray[np.float32]:
        samples = at_rate(clip, clap.SAMPLE_RATE)
        library, window = self.loaded[0], clap.WINDOW
        starts = window_starts(len(samples), window)
        with computing_as_published(self.device):
            embeddings = [
                library.get_audio_embedding_from_data(
                    samples[None, start : start + window], use_tensor=True
                )[0]
                for start in starts
            ]
        return np.stack([unit(embedding).cpu().numpy() for embedding in embeddings])

    def _embed_text(self, text: str) -> "Tensor":
        """Float32 [512], on the CPU. The library cuts texts at RoBERTa's 77th token."""
        with computing_as_published(self.device):
            return self.loaded[0].get_text_embedding([text], use_tensor=True)[0].cpu()


class ClapScore(ClipJudge):
    """Cosine similarity of the clip's and the caption's LAION-CLAP embeddings, -1 to 1.

    As audiocraft's CLAPTextConsistencyMetric computes it for MusicGen's published figures, with the
    checkpoint music_audioset_epoch_15_esc_90.14.pt, HTSAT-base, no fusion: on the
    loudness-normalised clip, in float samples (the verifier `clap` passes them through 16 bits),
    resampled and then mixed to mono by audiocraft. It differs for clips of over 10 s alone: there
    the library hears 10 s that it crops at random by numpy's global generator, and here the
    normalised mean over fixed windows is taken (`ClapListener`), so that a clip has one score.
    """

    name = "clap_score"
    higher_is_better = True
    needs_reference = False
    is_verifier = ("clap",)
    note = "its checkpoint was trained on AudioSet, from which MusicCaps' clips come"
    licence = clap.LICENCE
    listener_class = ClapListener

    def number(self, clip: Clip, prompt: Prompt) -> float:
        import torch

        assert isinstance(self.listener, ClapListener)
        windows = torch.from_numpy(self.hear(clip, prompt))
        text = self.listener.embed_text(prompt.text)
        return torch.nn.functional.cosine_similarity(windows.mean(0), text, dim=0).item()

    def unread(self, prompt: Prompt) -> int:
        """Tokens of the caption beyond the 77 that CLAP reads. Raises WeightsError."""
        assert isinstance(self.listener, ClapListener)
        return clap.unread_tokens(self.listener.tokenizer, prompt.text)


class FadClap(SetJudge):
    """On unit embeddings of windows of 10 s. Clips are brought to audiocraft's loudness first."""

    name = embeddings = "fad_clap"
    shares_data_with = ("clap",)
    licence = clap.LICENCE
    listener_class = ClapListener


class KadClap(KernelJudge, FadClap):
    name = "kad_clap"


class SpreadClap(SpreadJudge, FadClap):
    name = "spread_clap"
