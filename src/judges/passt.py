"""KLD, as audiocraft computes it for MusicGen: is in the clip what is in its reference?

The classifier is PaSST in the version with 20 s of time encodings (hear21passt.base20sec), because
audiocraft's configuration of its evaluations (config/solver/default.yaml in its repository) sets
`pretrained_length: 20`. The network, its pieces and its softmax are audiocraft's own metric's.
"""

from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from src.data.audio import Clip, read_audio
from src.data.prompts import Prompt
from src.judges.base import (
    CLIPS_KEPT,
    JudgeError,
    Listener,
    ReferenceJudge,
    speaking_of,
)
from src.judges.published import (
    at_published_loudness,
    at_rate,
    audiocrafts,
    computing_as_published,
)
from src.models.adapter import undisturbed
from src.protocol import Checkpoint
from src.weights.checkpoints import CheckpointFile
from src.weights.files import WeightFile

if TYPE_CHECKING:
    import torch

SAMPLE_RATE = 32_000
FIRST_LAYER = "patch_embed.proj.weight"

CHECKPOINT = WeightFile(
    "passt-s-f128-20sec-p16-s10-ap.474-swa.pt",
    url="https://github.com/kkoutini/PaSST/releases/download/v0.0.5/"
    "passt-s-f128-20sec-p16-s10-ap.474-swa.pt",
    licence="Apache-2.0",
    size="345 MB",
)

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]


class PasstListener(Listener):
    """PaSST's posteriors of AudioSet's 527 tags, float32 [pieces, 527], each piece's sum 1.

    A clip is cut into pieces of 20 s, the last one without padding; a piece of up to 0.15 s is
    skipped.
    """

    files = (CHECKPOINT,)

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        self.samples_of = lru_cache(maxsize=CLIPS_KEPT)(
            lambda clip, seconds: at_rate(at_published_loudness(clip.first(seconds)), SAMPLE_RATE)
        )
        self.hear_first = lru_cache(maxsize=CLIPS_KEPT)(
            lambda clip, seconds, length: self._posteriors(self.samples_of(clip, seconds)[:length])
        )
        # Of references, by path and seconds.
        self.seconds_of = cache(lambda path: read_audio(path).seconds)
        self.length_of = cache(lambda *start: len(_reference(*start)))
        self.hear_start = cache(
            lambda path, seconds, length: self._posteriors(_reference(path, seconds)[:length])
        )

    def load(self) -> tuple[Any, Checkpoint]:
        """audiocraft's metric, its PaSST with the weights of this machine's file.

        Its own way is to build the network with weights that torch.hub downloads and unpickles
        freely.
        """
        file = CheckpointFile.of("kld_pq", CHECKPOINT)
        weights = file.weights(file.read())
        audiocrafts_kld = audiocrafts("metrics.kld")
        from hear21passt import base20sec
        from hear21passt.models.helpers.vit_helpers import adapt_input_conv

        if FIRST_LAYER in weights and weights[FIRST_LAYER].ndim == 4:
            # as hear21passt loads it: a first layer for pictures takes a spectrogram as all colours
            weights[FIRST_LAYER] = adapt_input_conv(1, weights[FIRST_LAYER])
        # hear21passt then builds its network without weights, and so without torch.hub.
        without_weights = partial(base20sec.get_model_passt, pretrained=False)
        untrained = patch.object(base20sec, "get_model_passt", without_weights)
        with undisturbed(), untrained:
            metric = audiocrafts_kld.PasstKLDivergenceMetric(pretrained_length=20)
        file.fill(metric.model.net, weights, "PaSST of 20 s")
        return metric.requires_grad_(False).eval().to(self.device), file.identity()

    def listen(self, clip: Clip) -> NDArray[np.float32]:
        return self._posteriors(at_rate(clip, SAMPLE_RATE))

    def hear_pair(self, clip: Clip, prompt: Prompt, path: Path) -> Pair:
        """What is heard in a clip of the prompt and in a reference, over the same time.

        The longer of the two is cut to the other's length; then the clip is brought to audiocraft's
        loudness. Both have the same number of pieces. Raises JudgeError.
        """
        generated, reference = f"the clip of {prompt.id}", f"reference of {prompt.id}: {path}"
        with speaking_of(reference):
            seconds = min(clip.seconds, self.seconds_of(path))
        with speaking_of(generated):
            samples = self.samples_of(clip, seconds)
        with speaking_of(reference):
            # of two rates, one may come out a sample longer, which must not become a piece
            length = min(len(samples), self.length_of(path, seconds))
        with speaking_of(generated):
            heard = self.hear_first(clip, seconds, length)
        with speaking_of(reference):
            return heard, self.hear_start(path, seconds, length)

    def _posteriors(self, samples: "torch.Tensor") -> NDArray[np.float32]:
        """Of float32 [T] at 32 kHz. Raises JudgeError where no piece is over 0.15 s long."""
        import torch

        metric = self.loaded[0]
        with computing_as_published(self.device):
            posteriors = metric._get_label_distribution(
                samples[None, None],
                sizes=torch.tensor([len(samples)]),
                sample_rates=torch.tensor([SAMPLE_RATE]),
            )
        if posteriors is None:
            raise JudgeError(f"{len(samples) / SAMPLE_RATE:.2f} s is too short: more than 0.15 s")
        return posteriors.float().cpu().numpy()


class PasstDivergence(ReferenceJudge):
    """How far PaSST's posterior of a clip is from that of its reference, in nats.

    As audiocraft's PasstKLDivergenceMetric computes it for MusicGen's published figures: the clip
    is normalised in loudness, the reference is not; 1e-6 is added to the probability under the
    logarithm. Here each clip has a number, the mean over its pieces of 20 s; audiocraft has one for
    the whole set, the mean over all pieces, which is the mean over clips where none is over 20 s.

    Where clip and reference differ in length, the longer is cut: a clip of 5 s is compared with the
    first 5 s of its reference (audiocraft generates as much as the reference lasts, so that it
    knows no such clips), and of a clip that outlasts its reference the rest is not heard.
    """

    note: ClassVar[str] = (
        "PaSST learnt AudioSet's tags; MusicCaps' clips come from AudioSet, which the verifiers "
        "clap and imagebind saw too, with other labels; the longer of clip and reference is cut"
    )
    licence = CHECKPOINT.licence
    listener_class = PasstListener
    from_reference = False  # whether KL(reference || clip) counts
    from_clip = False  # whether KL(clip || reference) counts

    def compare(self, clip: Clip, prompt: Prompt, reference: Path) -> float:
        assert isinstance(self.listener, PasstListener)
        heard, start = self.listener.hear_pair(clip, prompt, reference)
        value = mean_kl(start, heard) if self.from_reference else 0.0
        return value + mean_kl(heard, start) if self.from_clip else value


class KldPq(PasstDivergence):
    """KL(reference || clip): the published one."""

    name = "kld_pq"
    from_reference = True


class KldQp(PasstDivergence):
    """KL(clip || reference)."""

    name = "kld_qp"
    from_clip = True


class KldBoth(PasstDivergence):
    """The sum of the two, not their mean."""

    name = "kld_both"
    from_reference = from_clip = True


def mean_kl(p: NDArray[np.float32], q: NDArray[np.float32]) -> float:
    """KL(p || q) by audiocraft, of posteriors [pieces, 527], mean over pieces, in nats."""
    import torch

    kl_divergence = audiocrafts("metrics.kld").kl_divergence
    return float(kl_divergence(torch.from_numpy(q), torch.from_numpy(p)).mean())


def _reference(path: Path, seconds: float) -> "torch.Tensor":
    """A reference's first seconds, float32 [T] at 32 kHz, at its own loudness."""
    return at_rate(read_audio(path).first(seconds), SAMPLE_RATE)
