"""musicnn's taggers as verifiers, on the weights that come with the repository."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from src.models.adapter import Adapter, PromptUnusable, finite_score
from src.models.isolation import computing
from src.models.vocabulary import TAGS, NoTagNamed, named_tags
from src.protocol import Checkpoint, Score
from src.weights.files import TAGGERS, TAGGERS_DIR

if TYPE_CHECKING:
    from src.models.tagger import Tagger

_named_tags = lru_cache(maxsize=1024)(named_tags)  # a search asks for the same prompts again


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
        return TAGS[self.name]

    def shares_data_with(self) -> tuple[str, ...]:
        """The network of the other architecture."""
        other = self.name.removesuffix("_vgg")
        return (other if other != self.name else f"{self.name}_vgg",)

    def check(self, prompt: str) -> None:
        try:
            _named_tags(prompt, self.name)
        except NoTagNamed as error:
            raise PromptUnusable(str(error), self.vocabulary()) from error

    def score(self, clips: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Score]:
        import torch

        with computing(self.device, self.dtype):
            waves = [torch.from_numpy(clip).to(self.device) for clip in clips]
            logits = self.tagger.logits(waves).float()
        scores = []
        for row, prompt in zip(logits.tolist(), prompts, strict=True):
            log_odds = dict(zip(self.tagger.tags, row, strict=True))
            named = _named_tags(prompt, self.name)
            components = {tag: log_odds[tag] for tag in (*named.wanted, *named.unwanted)}
            scores.append(finite_score(named.log_odds(log_odds), components))
        return scores
