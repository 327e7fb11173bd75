"""Judges: measures of final clips that no search saw.

    judge = JUDGES["msd_kld"]()
    judge.judge([clip], [prompt])   # one float per clip; judge.higher_is_better tells the direction

The built-in judges are the musicnn networks that the verifier `tags` (MTT_musicnn) does not use.
The primary one, fixed before any result was seen, is `msd_kld`: another data set, and it compares
with reference audio instead of reading the prompt. No torch is imported until a judge is used.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from src.audio import AudioError, Clip, read_audio, resample, to_mono
from src.prompts import Prompt
from src.vocabulary import NoTagNamed, named_tags
from src.wire import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

    from src.tagger import Tagger

# Posteriors are kept this far from 0 and 1 in a divergence, so that no tag weighs over ln 1e6.
EPSILON = 1e-6


class JudgeError(ValueError):
    """A clip, prompt or reference that a judge has no number for; the message says why."""


class Judge(ABC):
    """One measure of a clip, given its prompt.

    shares_data_with: verifiers trained on the same data, from which it is not independent.
    note: what else to know when reading it.
    """

    name: ClassVar[str]
    higher_is_better: ClassVar[bool]
    needs_reference: ClassVar[bool]
    shares_data_with: ClassVar[tuple[str, ...]] = ()
    note: ClassVar[str] = ""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    @property
    @abstractmethod
    def checkpoint(self) -> Checkpoint:
        """The weights that it judges with; loads them."""

    @abstractmethod
    def judge(self, clips: Sequence[Clip], prompts: Sequence[Prompt]) -> list[float]:
        """Finite numbers for clips and their prompts, one each, in order. Raises JudgeError."""


class TaggerJudge(Judge):
    """A judge that hears clips through a tagger."""

    tagger_name: ClassVar[str]

    @cached_property
    def tagger(self) -> "Tagger":
        from src.tagger import load_tagger

        return load_tagger(self.tagger_name).to(self.device)

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(name=self.tagger.name, sha256=self.tagger.sha256)

    def hear(self, clip: Clip, name: str) -> NDArray[np.float64]:
        """Tag posterior of a clip, float64 [50]. `name` is what errors call it."""
        from src.tagger import TaggerError

        try:
            return self.tagger.posteriors([_samples(clip)])[0].double().numpy()
        except TaggerError as error:
            raise JudgeError(f"{name}: {error}") from error


class TagDivergence(TaggerJudge):
    """How far the tags heard in a clip are from those heard in its prompt's reference audio.

    Sum over the 50 tags of KL(Bernoulli(reference) || Bernoulli(clip)), in nats: the divergence of
    the tagger's posteriors taken as independent tags. 0 when the same is heard.
    """

    higher_is_better = False
    needs_reference = True

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        self.references: dict[Path, NDArray[np.float64]] = {}

    def judge(self, clips: Sequence[Clip], prompts: Sequence[Prompt]) -> list[float]:
        return [
            bernoulli_kl(self.reference(prompt), self.hear(clip, f"the clip of {prompt.id}"))
            for clip, prompt in zip(clips, prompts, strict=True)
        ]

    def reference(self, prompt: Prompt) -> NDArray[np.float64]:
        """Tag posterior of the prompt's whole reference, kept once heard."""
        path = prompt.reference
        if path is None:
            raise JudgeError(f"prompt {prompt.id} has no reference audio to compare with")
        if path not in self.references:
            try:
                clip = read_audio(path)
            except AudioError as error:
                raise JudgeError(f"reference of {prompt.id}: {error}") from error
            self.references[path] = self.hear(clip, str(path))
        return self.references[path]


class MsdKld(TagDivergence):
    name = "msd_kld"
    tagger_name = "tags_msd"
    shares_data_with = ("tags_msd", "tags_msd_vgg")


class MsdVggKld(TagDivergence):
    name = "msd_vgg_kld"
    tagger_name = "tags_msd_vgg"
    shares_data_with = ("tags_msd", "tags_msd_vgg")
    note = "same data as msd_kld, other architecture"


class MttVgg(TaggerJudge):
    """The score of the verifier `tags`, by the network of another architecture.

    Mean log-odds of the tags that the prompt names, less the mean of those that it negates.
    """

    name = "mtt_vgg"
    tagger_name = "tags_vgg"
    higher_is_better = True
    needs_reference = False
    shares_data_with = ("tags", "tags_vgg")

    def judge(self, clips: Sequence[Clip], prompts: Sequence[Prompt]) -> list[float]:
        return [self._one(clip, prompt) for clip, prompt in zip(clips, prompts, strict=True)]

    def _one(self, clip: Clip, prompt: Prompt) -> float:
        try:
            named = named_tags(prompt.text, self.tagger_name)
        except NoTagNamed as error:
            raise JudgeError(str(error)) from error
        posterior = self.hear(clip, f"the clip of {prompt.id}").clip(EPSILON, 1 - EPSILON)
        log_odds = dict(zip(self.tagger.tags, np.log(posterior / (1 - posterior)), strict=True))
        value = 0.0
        for sign, tags in ((1, named.wanted), (-1, named.unwanted)):
            if tags:
                value += sign * float(np.mean([log_odds[tag] for tag in tags]))
        return value


JUDGES: dict[str, type[Judge]] = {judge.name: judge for judge in (MsdKld, MttVgg, MsdVggKld)}

# What published results on MusicCaps are measured by, and what this version cannot judge by yet.
PLANNED = ("clap_score", "passt_kld")


def bernoulli_kl(reference: NDArray[np.float64], clip: NDArray[np.float64]) -> float:
    """Sum over tags of KL(Bernoulli(reference) || Bernoulli(clip)), nats; posteriors [tags]."""
    p, q = (x.clip(EPSILON, 1 - EPSILON) for x in (reference, clip))
    return float(np.sum(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))))


def instrument_heard(
    posteriors: NDArray[np.float64], tags: Sequence[str], instruments: Sequence[str]
) -> list[str]:
    """Which of `instruments` a tagger hears most of: posteriors or log-odds [B, 50] -> B tags."""
    columns = [tags.index(instrument) for instrument in instruments]
    return [instruments[best] for best in np.asarray(posteriors)[:, columns].argmax(1)]


def _samples(clip: Clip) -> "Tensor":
    """The clip as the taggers take it: float32 [T], mono, 16 kHz."""
    import torch

    from src.tagger import SAMPLE_RATE

    return torch.from_numpy(resample(to_mono(clip), SAMPLE_RATE).samples[0])
