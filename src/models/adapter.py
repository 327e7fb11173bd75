"""What a verifier's adapter is: the class that every module of this package fills in."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from src.protocol import Checkpoint, Score
from src.weights.files import WeightFile, missing_line


class ScoreError(RuntimeError):
    """A clip that came out of a model without a finite score."""


class PromptUnusable(ValueError):
    """A prompt that this verifier has no score for, whatever the clip."""

    def __init__(self, reason: str, vocabulary: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.vocabulary = tuple(vocabulary)


class Adapter(ABC):
    """One model as a verifier.

    All but `name`, `missing`, `check` and `unread_tokens` is used by one thread only.
    """

    summary: ClassVar[str]
    licence: ClassVar[str]
    sample_rate: ClassVar[int]  # Hz; clips arrive mono at this rate
    needs_text: ClassVar[bool]
    files: ClassVar[tuple[WeightFile, ...]] = ()  # what `load` needs
    max_batch: ClassVar[int] = 32  # clips in one call of `score`

    def __init__(self, name: str) -> None:
        self.name = name

    def missing(self) -> str | None:
        """What is not there that `load` needs, and how to get it, in one line; None: all there."""
        return missing_line(self.name, self.files)

    @abstractmethod
    def load(self, device: str, dtype: str = "float32") -> Checkpoint:
        """Load the weights onto `device` and say which they are; compute in `dtype`.

        dtype: "float32", "bfloat16" or "float16". Raises WeightsError for a file that is missing
        or is not what it should be.
        """

    def vocabulary(self) -> tuple[str, ...]:
        """The words of which a prompt must name one; empty when any prompt will do."""
        return ()

    def shares_data_with(self) -> tuple[str, ...]:
        """Verifiers whose networks learnt from the same data and labels: none is independent."""
        return ()

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
        `finite_score`) rather than make one up.
        """


def finite_score(value: float, components: Mapping[str, float]) -> Score:
    """A Score, or a ScoreError that names what is not finite."""
    bad = [name for name, x in {"score": value, **components}.items() if not math.isfinite(x)]
    if bad:
        raise ScoreError(f"the model gave no finite number for {', '.join(bad)}")
    return Score(value=value, components=dict(components))


def must_be_audible(clip: np.ndarray, shortest: int = 1) -> None:
    """Raise ScoreError for a clip with fewer samples than `shortest`, or with some not finite."""
    if not len(clip):
        raise ScoreError("the clip has no samples")
    if len(clip) < shortest:
        raise ScoreError(f"a clip of {len(clip)} samples is too short: at least {shortest}")
    if not np.isfinite(clip).all():
        raise ScoreError("the clip holds NaN or infinite samples")


def window_starts(samples: int, window: int) -> list[int]:
    """Where fixed windows start that cover every sample of a clip: the last one ends with it.

    A clip that is no longer than one window has the start 0.
    """
    return [*range(0, samples - window, window), max(0, samples - window)]
