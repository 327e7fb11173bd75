"""What a verifier's adapter is, and what helps every module of this package to keep to it: a
library's code leaves no trace in its surroundings, nor they in its numbers.

torch is imported where it is used, so that a command line can ask adapters what they are.
"""

import math
import random
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from src.protocol import Checkpoint, EmbeddedScore, Score
from src.weights.files import WeightFile, absent, fetch_command

if TYPE_CHECKING:
    import torch


# Peak to peak, one step of 16 bits. As 16-bit audio such a clip has one value, or two neighbouring
# ones: there is nothing to hear, and what a network makes of it is an accident.
DIGITAL_SILENCE = 2**-15
# Probabilities of tags are kept this far from 0 and 1 before their logarithms are taken: log-odds
# are within +-13.8, and no tag weighs over ln 1e6 in a divergence.
EPSILON = 1e-6


class ScoreError(RuntimeError):
    """A clip that came out of a model without a finite score."""


class PromptUnusable(ValueError):
    """A prompt that this verifier has no score for, whatever the clip; the message says why."""


class Adapter(ABC):
    """One model as a verifier.

    All but `name`, `missing`, `check` and `unread_tokens` is used by one thread only.
    """

    summary: ClassVar[str]
    licence: ClassVar[str]
    sample_rate: ClassVar[int]  # Hz; clips arrive mono at this rate
    needs_text: ClassVar[bool]
    files: tuple[WeightFile, ...] = ()  # what `load` needs
    max_batch: ClassVar[int] = 32  # clips in one call of `score`
    vocabulary: tuple[str, ...] = ()  # a prompt must name one of these; empty: any prompt will do
    # Verifiers whose networks learnt from the same data and labels: none is independent.
    shares_data_with: tuple[str, ...] = ()
    # Components of a score that are worth a column each where it judges; higher is more.
    axes: tuple[str, ...] = ()
    embeds: ClassVar[bool] = False  # its scores are EmbeddedScores

    def __init__(self, name: str) -> None:
        self.name = name

    def missing(self) -> str | None:
        """What is not there that `load` needs, and how to get it, in one line; None: all there."""
        lacking = ", ".join(file.described for file in absent(self.files))
        return f"{lacking} not found; get it with: {fetch_command(self.name)}" if lacking else None

    @abstractmethod
    def load(self, device: str, dtype: str = "float32") -> Checkpoint:
        """Load the weights onto `device` and say which they are; compute in `dtype`.

        dtype: "float32", "bfloat16" or "float16". Raises WeightsError for a file that is missing
        or is not what it should be.
        """

    def check(self, prompt: str) -> None:  # noqa: B027 (most verifiers take any prompt)
        """Raise PromptUnusable for a prompt that has no score. Quick, and needs no weights."""

    def unread_tokens(self, prompt: str) -> int:  # noqa: ARG002 (some read any prompt whole)
        """How many tokens at the prompt's end have no influence on its scores: it is too long.

        Asked once `load` is done, by any thread, also while another one scores. Quick.
        """
        return 0

    @abstractmethod
    def score(self, clips: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Score]:
        """clips: float32 [T] mono at `sample_rate`, prompts: one each -> one score each, in order.

        A clip's score must not depend on the others of the call. Raises ScoreError (through
        `must_be_audible` and `finite_score`) rather than make one up: the clips of the call are
        then tried one by one, and the one that it is about has no score.
        """


def finite_score(
    value: float, components: Mapping[str, float], embedding: "torch.Tensor | None" = None
) -> Score:
    """A Score, or a ScoreError that names what is not finite. embedding: [D]."""
    vector = [] if embedding is None else embedding.tolist()
    numbers = {"score": value, **components, "the embedding": sum(vector)}
    if bad := [name for name, x in numbers.items() if not math.isfinite(x)]:
        raise ScoreError(f"the model gave no finite number for {', '.join(bad)}")
    if embedding is None:
        return Score(value=value, components=dict(components))
    return EmbeddedScore(value=value, components=dict(components), embedding=vector)


def must_be_finite(clip: np.ndarray, shortest: int = 1) -> None:
    """Raise ScoreError for a clip with fewer samples than `shortest`, or with some not finite."""
    if len(clip) < shortest:
        raise ScoreError(f"a clip of {len(clip)} samples is too short: at least {shortest}")
    if not np.isfinite(clip).all():
        raise ScoreError("the clip holds NaN or infinite samples")


def must_be_audible(clip: np.ndarray, shortest: int = 1) -> None:
    """Raise ScoreError as `must_be_finite`, and for digital silence."""
    must_be_finite(clip, shortest)
    if float(clip.max()) - float(clip.min()) <= DIGITAL_SILENCE:
        raise ScoreError("the clip is digital silence")


def window_starts(samples: int, window: int) -> list[int]:
    """Where fixed windows start that cover every sample of a clip: the last one ends with it.

    A clip that is no longer than one window has the start 0.
    """
    return [*range(0, samples - window, window), max(0, samples - window)]


class CosineVerifier(Adapter):
    """Cosine of the clip's and the prompt's embeddings, -1 to 1.

    A clip's embedding is the mean of the unit embeddings of fixed windows that cover it, scaled to
    unit length; where windows do not divide the clip, the last one ends with it and overlaps the
    one before. A clip no longer than a window is heard as a whole. Each prompt is embedded alone.
    """

    needs_text = True
    embeds = True
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
        heard = zip(cosines, audio.cpu(), strict=True)
        return [finite_score(cosine, {}, embedding) for cosine, embedding in heard]

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


def known_fields(dataclass: type, found: Mapping[str, Any]) -> dict[str, Any]:
    """Of a configuration, what the dataclass has: a later version may write more.

    As the hub's mixin (PyTorchModelHubMixin) reads a config.json.
    """
    names = {field.name for field in fields(dataclass)}
    return {name: value for name, value in found.items() if name in names}


@contextmanager
def computing(device: str, dtype: str) -> Iterator[None]:
    """No gradients, and matrix products in `dtype` where that is not float32."""
    import torch

    precision = getattr(torch, dtype)
    kind = torch.device(device).type
    with torch.inference_mode(), torch.autocast(kind, precision, precision != torch.float32):
        yield


@contextmanager
def random_states_kept() -> Iterator[None]:
    """The global random states afterwards as before.

    Building a model draws its initial weights from them, and some draw in every layer of every
    forward for a layer drop that only training does.
    """
    import torch

    python, legacy_numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy_numpy)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within, a library builds or computes in float32, whatever torch's default dtype is outside.

    The global random states are afterwards as before, and warnings are not shown.
    """
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with random_states_kept(), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        torch.set_default_dtype(before)


def exempt_from_autocast(owner: object, method: str, device: str) -> None:
    """Let a method of a module compute in the dtype of its input inside `computing`.

    For spectrograms, whose powers are infinite in float16 and too coarse in bfloat16.
    """
    import torch

    exact = torch.autocast(torch.device(device).type, enabled=False)
    setattr(owner, method, exact(getattr(owner, method)))
