"""musicnn's taggers as verifiers, on the weights that come with the repository."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from src.models.adapter import (
    Adapter,
    PromptUnusable,
    ScoreError,
    computing,
    finite_score,
)
from src.protocol import Checkpoint, Score
from src.weights.musicgen import TAGGERS, TAGGERS_DIR

if TYPE_CHECKING:
    from src.models.tagger import Tagger
    from src.models.vocabulary import Named


class TaggerVerifier(Adapter):
    """musicnn's taggers: mean log-odds of the tags a prompt names, less those it negates."""

    summary = "log-odds of the tags that the prompt names (musicnn)"
    licence = "ISC"
    sample_rate = 16_000
    needs_text = True
    tagger: "Tagger"

    def missing(self) -> str | None:
        path = TAGGERS_DIR / f"{TAGGERS[self.name]}.safetensors"
        return None if path.is_file() else f"{path} is missing; it is part of the repository"

    def load(self, device: str, dtype: str = "float32") -> Checkpoint:
        from src.models.tagger import load_tagger

        self.tagger = load_tagger(self.name).to(device)
        self.device, self.dtype = device, dtype
        return Checkpoint(name=self.tagger.name, sha256=self.tagger.sha256)

    def vocabulary(self) -> tuple[str, ...]:
        from src.models.vocabulary import TAGS

        return TAGS[self.name]

    def check(self, prompt: str) -> None:
        from src.models.vocabulary import NoTagNamed

        try:
            _named_tags(prompt, self.name)
        except NoTagNamed as error:
            raise PromptUnusable(str(error), self.vocabulary()) from error

    def score(self, clips: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Score]:
        import torch

        from src.models.tagger import TaggerError

        try:
            with computing(self.device, self.dtype):
                waves = [torch.from_numpy(clip).to(self.device) for clip in clips]
                logits = self.tagger.logits(waves).float()
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
    from src.models.vocabulary import named_tags

    return named_tags(prompt, tagger)


def _mean(numbers: Iterable[float]) -> float:
    values = list(numbers)
    return sum(values) / len(values) if values else 0.0
