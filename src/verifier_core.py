"""The verifiers that a server can host: one adapter per model, and their registry.

An adapter says what it is, loads lazily and scores clips against prompts. To add a verifier, write
one class and add one line to VERIFIERS. Heavy libraries are imported in `load`, so that a server
that hosts one model needs only that model's library.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from src.wire import Checkpoint, Score

if TYPE_CHECKING:
    from src.tagger import Tagger
    from src.vocabulary import Named


class NotHosted(ValueError):
    """A verifier that this server cannot host; the message says why and what there is."""


class ScoreError(RuntimeError):
    """A clip that came out of a model without a finite score."""


class PromptUnusable(ValueError):
    """A prompt that this verifier has no score for, whatever the clip."""

    def __init__(self, reason: str, vocabulary: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.vocabulary = tuple(vocabulary)


class Adapter(ABC):
    """One model as a verifier. All but `name`, `missing` and `check` is used by one thread only."""

    summary: ClassVar[str]
    licence: ClassVar[str]
    sample_rate: ClassVar[int]  # Hz; clips arrive mono at this rate
    needs_text: ClassVar[bool]
    max_batch: ClassVar[int] = 32  # clips in one call of `score`

    def __init__(self, name: str) -> None:
        self.name = name

    def missing(self) -> str | None:
        """What is not there that `load` needs, and how to get it; None when all is there."""
        return None

    @abstractmethod
    def load(self, device: str) -> Checkpoint:
        """Load the weights onto `device` and say which they are."""

    def vocabulary(self) -> tuple[str, ...]:
        """The words of which a prompt must name one; empty when any prompt will do."""
        return ()

    def check(self, prompt: str) -> None:  # noqa: B027 (most verifiers take any prompt)
        """Raise PromptUnusable for a prompt that has no score. Quick, and needs no weights."""

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


class TaggerVerifier(Adapter):
    """musicnn's taggers: mean log-odds of the tags a prompt names, less those it negates."""

    summary = "log-odds of the tags that the prompt names (musicnn)"
    licence = "ISC"
    sample_rate = 16_000
    needs_text = True
    tagger: "Tagger"

    def missing(self) -> str | None:
        from src.tagger import TAGGERS, WEIGHTS_DIR

        path = WEIGHTS_DIR / f"{TAGGERS[self.name]}.safetensors"
        return None if path.is_file() else f"{path} is missing; it is part of the repository"

    def load(self, device: str) -> Checkpoint:
        from src.tagger import load_tagger

        self.tagger = load_tagger(self.name).to(device)
        self.device = device
        return Checkpoint(name=self.tagger.name, sha256=self.tagger.sha256)

    def vocabulary(self) -> tuple[str, ...]:
        from src.vocabulary import TAGS

        return TAGS[self.name]

    def check(self, prompt: str) -> None:
        from src.vocabulary import NoTagNamed

        try:
            _named_tags(prompt, self.name)
        except NoTagNamed as error:
            raise PromptUnusable(str(error), self.vocabulary()) from error

    def score(self, clips: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Score]:
        import torch

        from src.tagger import TaggerError

        try:
            logits = self.tagger.logits([torch.from_numpy(clip).to(self.device) for clip in clips])
        except TaggerError as error:
            raise ScoreError(str(error)) from error
        scores = []
        for row, prompt in zip(logits.tolist(), prompts, strict=True):
            log_odds = dict(zip(self.tagger.tags, row, strict=True))
            named = _named_tags(prompt, self.name)
            value = _mean(log_odds[tag] for tag in named.wanted)
            value -= _mean(log_odds[tag] for tag in named.unwanted)
            components = {tag: log_odds[tag] for tag in (*named.wanted, *named.unwanted)}
            scores.append(finite_score(value, components))
        return scores


@lru_cache(maxsize=1024)  # a search asks for the same prompts again and again
def _named_tags(prompt: str, tagger: str) -> "Named":
    from src.vocabulary import named_tags

    return named_tags(prompt, tagger)


def _mean(numbers: Iterable[float]) -> float:
    values = list(numbers)
    return sum(values) / len(values) if values else 0.0


VERIFIERS: dict[str, Callable[[str], Adapter]] = {
    "tags": TaggerVerifier,
    "tags_vgg": TaggerVerifier,
    "tags_msd": TaggerVerifier,
    "tags_msd_vgg": TaggerVerifier,
}

# Verifiers that the scripts name and that no adapter hosts so far.
PLANNED = ("clap", "quality", "muq", "imagebind")


def choose(names: Sequence[str]) -> tuple[list[Adapter], dict[str, str]]:
    """The adapters of `names`, or of everything whose weights are there when `names` is empty.

    Returns (adapters, what was left out and why). Raises NotHosted for a name that is unknown or
    whose weights were asked for by name and are missing.
    """
    for name in names:
        if name in PLANNED:
            raise NotHosted(f"{name}: no adapter hosts it yet; there are {', '.join(VERIFIERS)}")
        if name not in VERIFIERS:
            raise NotHosted(f"{name}: no such verifier; there are {', '.join(VERIFIERS)}")
    adapters, left_out = [], {}
    for name in dict.fromkeys(names or VERIFIERS):
        adapter = VERIFIERS[name](name)
        if problem := adapter.missing():
            left_out[name] = problem
        else:
            adapters.append(adapter)
    if left_out and names:
        raise NotHosted("; ".join(f"{name}: {problem}" for name, problem in left_out.items()))
    if not adapters:
        raise NotHosted(f"no verifier has its weights: {'; '.join(left_out.values())}")
    return adapters, left_out
