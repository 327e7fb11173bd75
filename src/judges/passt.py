"""KLD, as audiocraft computes it for MusicGen: is in the clip what is in its reference?

The classifier is PaSST in the version with 20 s of time encodings (hear21passt.base20sec), because
audiocraft's configuration of its evaluations (config/solver/default.yaml in its repository) sets
`pretrained_length: 20`. The network, its pieces and its softmax are audiocraft's own metric's.
"""

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from src.data.audio import AudioError, Clip, read_audio
from src.data.prompts import Prompt
from src.judges.base import CLIPS_KEPT, ClipJudge, JudgeError, Listener
from src.judges.published import (
    at_published_loudness,
    at_rate,
    computing_as_published,
    speaking_of,
)
from src.models.adapter import random_states_kept
from src.models.clap_network import float32_default, without_warnings
from src.protocol import Checkpoint
from src.weights import files as verifier_weights
from src.weights.files import WeightFile, locate, unusable
from src.weights.unpickling import first_sentence, misfits, read_tensors

if TYPE_CHECKING:
    import torch

SAMPLE_RATE = 32_000
FETCHED_AS = "kld_pq"  # by which --fetch knows the file
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
        self._pairs: deque[tuple[Clip, Path, Pair]] = deque(maxlen=CLIPS_KEPT)
        self._starts: dict[tuple[Path, int], NDArray[np.float32]] = {}

    @cached_property
    def _loaded(self) -> tuple[Any, Checkpoint]:
        return load_passt(self.device)

    @property
    def checkpoint(self) -> Checkpoint:
        return self._loaded[1]

    def listen(self, clip: Clip) -> NDArray[np.float32]:
        return self._posteriors(at_rate(clip, SAMPLE_RATE))

    def hear_pair(self, clip: Clip, prompt: Prompt) -> Pair:
        """What is heard in a generated clip and in its prompt's reference, over the same time.

        The longer of the two is cut to the other's length; then the clip is brought to audiocraft's
        loudness. Both have the same number of pieces. Raises JudgeError.
        """
        path = prompt.reference
        if path is None:
            raise JudgeError(f"prompt {prompt.id} has no reference audio to compare with")
        for known, other, pair in self._pairs:
            if known is clip and other == path:
                return pair
        try:
            reference = read_audio(path)
        except AudioError as error:
            raise JudgeError(f"reference of {prompt.id}: {error}") from error
        seconds = min(clip.seconds, reference.seconds)
        with speaking_of(f"the clip of {prompt.id}"):
            samples = at_rate(at_published_loudness(_first(clip, seconds)), SAMPLE_RATE)
        with speaking_of(f"reference of {prompt.id}: {path}"):
            compared = at_rate(_first(reference, seconds), SAMPLE_RATE)
        # of two rates, one may come out a sample longer, which must not become a piece
        length = min(len(samples), len(compared))
        with speaking_of(f"the clip of {prompt.id}"):
            heard = self._posteriors(samples[:length])
        if (path, length) not in self._starts:
            self._starts[path, length] = self._posteriors(compared[:length])
        pair = heard, self._starts[path, length]
        self._pairs.append((clip, path, pair))
        return pair

    def _posteriors(self, samples: "torch.Tensor") -> NDArray[np.float32]:
        """Of float32 [T] at 32 kHz. Raises JudgeError where no piece is over 0.15 s long."""
        import torch

        metric = self._loaded[0]
        with computing_as_published(self.device):
            posteriors = metric._get_label_distribution(
                samples[None, None],
                sizes=torch.tensor([len(samples)]),
                sample_rates=torch.tensor([SAMPLE_RATE]),
            )
        if posteriors is None:
            raise JudgeError(f"{len(samples) / SAMPLE_RATE:.2f} s is too short: more than 0.15 s")
        return posteriors.float().cpu().numpy()


class PasstDivergence(ClipJudge):
    """How far PaSST's posterior of a clip is from that of its reference, in nats.

    As audiocraft's PasstKLDivergenceMetric computes it for MusicGen's published figures: the clip
    is normalised in loudness, the reference is not; 1e-6 is added to the probability under the
    logarithm. Here each clip has a number, the mean over its pieces of 20 s; audiocraft has one for
    the whole set, the mean over all pieces, which is the mean over clips where none is over 20 s.

    Where clip and reference differ in length, the longer is cut: a clip of 5 s is compared with the
    first 5 s of its reference (audiocraft generates as much as the reference lasts, so that it
    knows no such clips), and of a clip that outlasts its reference the rest is not heard.
    """

    higher_is_better = False
    needs_reference = True
    note: ClassVar[str] = (
        "PaSST learnt AudioSet's tags; MusicCaps' clips come from AudioSet, which the verifiers "
        "clap and imagebind saw too, with other labels; the longer of clip and reference is cut"
    )
    licence = CHECKPOINT.licence
    listener_class = PasstListener

    def judge(self, clips: Sequence[Clip], prompts: Sequence[Prompt]) -> list[float]:
        return [self._one(clip, prompt) for clip, prompt in zip(clips, prompts, strict=True)]

    def _one(self, clip: Clip, prompt: Prompt) -> float:
        assert isinstance(self.listener, PasstListener)
        value = self.divergence(*self.listener.hear_pair(clip, prompt))
        if not np.isfinite(value):
            raise JudgeError(f"the clip of {prompt.id}: PaSST gave no finite number")
        return value

    @staticmethod
    @abstractmethod
    def divergence(generated: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
        """Of posteriors [pieces, 527]."""


class KldPq(PasstDivergence):
    """KL(reference || clip): the published one."""

    name = "kld_pq"

    @staticmethod
    def divergence(generated: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
        return mean_kl(reference, generated)


class KldQp(PasstDivergence):
    """KL(clip || reference)."""

    name = "kld_qp"

    @staticmethod
    def divergence(generated: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
        return mean_kl(generated, reference)


class KldBoth(PasstDivergence):
    """The sum of the two, not their mean."""

    name = "kld_both"

    @staticmethod
    def divergence(generated: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
        return mean_kl(reference, generated) + mean_kl(generated, reference)


def mean_kl(p: NDArray[np.float32], q: NDArray[np.float32]) -> float:
    """KL(p || q) by audiocraft, of posteriors [pieces, 527], mean over pieces, in nats."""
    import torch

    from src.generator import audiocraft_without_clap

    with audiocraft_without_clap():
        from audiocraft.metrics.kld import kl_divergence

    return float(kl_divergence(torch.from_numpy(q), torch.from_numpy(p)).mean())


def load_passt(device: str) -> tuple[Any, Checkpoint]:
    """audiocraft's metric, its PaSST with the weights of this machine's file. Raises WeightsError.

    Its own way is to build the network with weights that torch.hub downloads and unpickles freely.
    """
    from src.generator import audiocraft_without_clap

    path = locate(CHECKPOINT)
    state = read_checkpoint(path)
    with audiocraft_without_clap():
        from audiocraft.metrics.kld import PasstKLDivergenceMetric

    with random_states_kept(), float32_default(), without_warnings(), _untrained():
        metric = PasstKLDivergenceMetric(pretrained_length=20)
    network = metric.model.net
    if problems := misfits(network.state_dict(), state):
        raise unusable(FETCHED_AS, path, f"does not fit PaSST of 20 s: {problems}")
    network.load_state_dict(state)
    metric = metric.requires_grad_(False).eval().to(device)
    return metric, Checkpoint(name=CHECKPOINT.name, sha256=verifier_weights.sha256(path))


def read_checkpoint(path: Path) -> "dict[str, torch.Tensor]":
    """PaSST's weights by name. Raises WeightsError."""
    import torch
    from hear21passt.models.helpers.vit_helpers import adapt_input_conv

    try:
        state = read_tensors(path)
    except Exception as error:  # the unpickler raises whatever a damaged file leads it to
        reason = f"cannot be read ({first_sentence(error)})"
        raise unusable(FETCHED_AS, path, reason) from error
    if not isinstance(state, dict) or not state or not all(map(torch.is_tensor, state.values())):
        raise unusable(FETCHED_AS, path, "holds no weights")
    state = {str(name): tensor for name, tensor in state.items()}
    if FIRST_LAYER in state and state[FIRST_LAYER].ndim == 4:
        # as hear21passt loads it: a first layer for pictures takes a spectrogram as all colours
        state[FIRST_LAYER] = adapt_input_conv(1, state[FIRST_LAYER])
    return state


@contextmanager
def _untrained() -> Iterator[None]:
    """Within, hear21passt builds its 20 s network without weights, and so without torch.hub."""
    from hear21passt import base20sec

    build = base20sec.get_model_passt
    base20sec.get_model_passt = partial(build, pretrained=False)
    try:
        yield
    finally:
        base20sec.get_model_passt = build


def _first(clip: Clip, seconds: float) -> Clip:
    """The clip's first seconds."""
    return Clip(clip.samples[:, : round(seconds * clip.rate)], clip.rate)
