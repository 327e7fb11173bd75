"""What a judge is, and the networks that judges hear through.

Several judges may share a network (three divergences of one classifier): a `Listener` loads it once
and hears a clip once, whoever asks, and each prompt's reference once in a run. No torch here.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from src.data.audio import AudioError, Clip, read_audio
from src.data.prompts import Prompt
from src.models.adapter import ScoreError
from src.protocol import Checkpoint
from src.weights.files import WeightFile

# What is heard of a clip is kept for the judges that come next; a clip is judged by all in turn.
CLIPS_KEPT = 4
WRONG, CONTRAST = "_wrong", "_contrast"  # ends of the names of a judge's controls


class JudgeError(ValueError):
    """A clip, prompt or reference that a judge has no number for; the message says why."""


@contextmanager
def speaking_of(name: str) -> Iterator[None]:
    """Turn what is wrong with audio or its score within into a JudgeError about `name`."""
    try:
        yield
    except (AudioError, JudgeError, ScoreError) as error:
        raise JudgeError(f"{name}: {error}") from error


class Codec(Protocol):
    """A generator's codec (src/generator.py, Renderer)."""

    def reconstruct(self, clip: Clip) -> Clip:
        """The clip, encoded and decoded."""


class Listener(ABC):
    """A network that turns a clip into an array: posteriors or an embedding.

    `shared` gives one instance for each class and device. Weights are loaded when they are first
    needed; one without weights has a `checkpoint` of its own instead of `load`.
    """

    files: ClassVar[tuple[WeightFile, ...]] = ()  # what loading needs

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        # What is heard is kept for the judge that asks next.
        self.hear = lru_cache(maxsize=CLIPS_KEPT)(self.listen_to_generated)
        self.hear_file = cache(self._listen_to_file)

    @classmethod
    @cache
    def shared(cls, device: str) -> Self:
        """The instance that all judges of a process hear through."""
        return cls(device)

    def load(self) -> tuple[Any, Checkpoint]:
        """The network on the device, and its weights. Raises WeightsError."""
        raise NotImplementedError

    @cached_property
    def loaded(self) -> tuple[Any, Checkpoint]:
        """What `load` gave."""
        return self.load()

    @property
    def checkpoint(self) -> Checkpoint:
        """The weights; loads them. Raises WeightsError."""
        return self.loaded[1]

    def _listen_to_file(
        self, path: Path, seconds: float | None = None, codec: Codec | None = None
    ) -> NDArray[np.float32]:
        """What is heard in a reference: whole or its first seconds, through a codec if given."""
        clip = read_audio(path)
        clip = clip if seconds is None else clip.first(seconds)
        return self.listen(clip if codec is None else codec.reconstruct(clip))

    @abstractmethod
    def listen(self, clip: Clip) -> NDArray[np.float32]:
        """What is heard in a clip of any rate and number of channels.

        Raises JudgeError or ScoreError for a clip of which nothing finite can be heard.
        """

    def listen_to_generated(self, clip: Clip) -> NDArray[np.float32]:
        """What is heard in a generated clip, if it is made ready in another way than a reference.

        Raises JudgeError or ScoreError.
        """
        return self.listen(clip)


def reference_path(prompt: Prompt) -> Path:
    """Where the prompt's reference audio lies. Raises JudgeError for a prompt without one."""
    if prompt.reference is None:
        raise JudgeError(f"prompt {prompt.id} has no reference audio to compare with")
    return prompt.reference


class Judge(ABC):
    """One measure of final clips, given their prompts.

    is_verifier: verifiers whose own number this is; where one of them selected the clips, it is no
    evidence. shares_data_with: verifiers trained on the same data and labels, of which it is not
    independent. note: what else to know when reading it. definition: what it computes, in a few
    words, once that has changed; empty until then. Numbers of two definitions are neither mixed nor
    compared, as those of other weights. codec: the generator's, for those that hear references
    through it.
    """

    name: ClassVar[str]
    higher_is_better: ClassVar[bool]
    needs_reference: ClassVar[bool]
    is_verifier: ClassVar[tuple[str, ...]] = ()
    shares_data_with: ClassVar[tuple[str, ...]] = ()
    note: ClassVar[str] = ""
    definition: ClassVar[str] = ""
    licence: ClassVar[str] = ""
    listener_class: ClassVar[type[Listener]]

    def __init__(self, device: str = "cpu", codec: Codec | None = None) -> None:
        self.listener, self.codec = self.listener_class.shared(device), codec

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The weights that it judges with; loads them. Raises WeightsError."""
        return self.listener.checkpoint

    def hear(self, clip: Clip, prompt: Prompt) -> NDArray[np.float32]:
        """What the listener hears in a clip of the prompt. Raises JudgeError."""
        with speaking_of(f"the clip of {prompt.id}"):
            return self.listener.hear(clip)

    def hear_reference(self, prompt: Prompt) -> NDArray[np.float32]:
        """What the listener hears in the prompt's whole reference. Raises JudgeError."""
        path = reference_path(prompt)
        with speaking_of(f"reference of {prompt.id}: {path}"):
            return self.listener.hear_file(path)

    def unread(self, prompt: Prompt) -> int:  # noqa: ARG002 (most judges read all or nothing)
        """How many tokens at the end of the caption it does not read."""
        return 0


class ClipJudge(Judge):
    """A judge with a number for each clip.

    parts: names of further numbers that come with it (`parts_of`), each a measure of its own.
    """

    parts: ClassVar[tuple[str, ...]] = ()

    def judge(self, clip: Clip, prompt: Prompt) -> float:
        """A finite number for a clip of the prompt. Raises JudgeError."""
        number = self.number(clip, prompt)
        if not math.isfinite(number):
            raise JudgeError(f"the clip of {prompt.id}: {self.name} gave no finite number")
        return number

    def parts_of(self, clip: Clip, prompt: Prompt) -> dict[str, float]:  # noqa: ARG002
        """Of a clip that `judge` has a number for the further ones, by name."""
        return {}

    @abstractmethod
    def number(self, clip: Clip, prompt: Prompt) -> float:
        """What a clip of the prompt is worth; `judge` refuses what is not finite.

        Raises JudgeError.
        """


class ReferenceJudge(ClipJudge):
    """A judge that compares a clip with its reference; it has two controls (controls.py).

    A clip of S seconds is compared with the reference's first S seconds; one that outlasts its
    reference, with all of it. through_codec: the reference is encoded and decoded first, so that
    what the generator's codec costs every clip is no part of the number; where there is no codec,
    `judge` raises JudgeError.
    """

    higher_is_better = False  # most are distances
    needs_reference = True
    through_codec: ClassVar[bool] = False

    def number(self, clip: Clip, prompt: Prompt) -> float:
        return self.compare(clip, prompt, reference_path(prompt))

    @abstractmethod
    def compare(self, clip: Clip, prompt: Prompt, reference: Path) -> float:
        """A clip of the prompt with a reference, its own or another's. Raises JudgeError."""

    def hear_start(self, clip: Clip, prompt: Prompt, reference: Path) -> NDArray[np.float32]:
        """What the listener hears in a reference for as long as the clip lasts."""
        if self.through_codec and self.codec is None:
            raise JudgeError(f"{self.name} hears references through a codec, and there is none")
        codec = self.codec if self.through_codec else None
        with speaking_of(f"a reference for {prompt.id}: {reference}"):
            return self.listener.hear_file(reference, clip.seconds, codec)  # type: ignore[arg-type]


class SetJudge(Judge):
    """A judge with one number for all clips of a method, by default their Frechet audio distance.

    It hears embeddings [windows, D], which the run keeps; `statistic` (src/stats/sets.py) makes the
    number from them. embeddings: the name they are kept under, one for all judges of a network;
    empty for the judge's own. None is the published FAD of MusicGen, which takes VGGish embeddings
    and the references of a whole data set.
    """

    higher_is_better = False
    needs_reference = True
    statistic: ClassVar[str] = "frechet"
    embeddings: ClassVar[str] = ""
    note = (
        "biased upwards for few clips: of 64 short ones most of it may be bias, and less diverse "
        "ones look better. Compare equal numbers only, and not with the published VGGish FAD"
    )


class KernelJudge(SetJudge):
    """Kernel audio distance (KAD) to the references: unbiased, however few the clips are."""

    statistic = "kernel"
    note = (
        "unbiased, about 0 where clips and references do not differ. On other embeddings than "
        "published KADs: compare it within a run only"
    )


class SpreadJudge(SetJudge):
    """Mean distance between clips of different prompts. References are heard where there are any,
    to compare with."""

    higher_is_better = True
    needs_reference = False
    statistic = "spread"
    note = "higher is more diverse, which is not better by itself"
