"""Random audiocraft language models, for tests and benchmarks of the decoder.

They are audiocraft's own classes of any size; only the text encoder is made up, so that no weights
are needed: each word of a prompt is an embedding.
"""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor, nn

from src.generator import audiocraft_without_clap

with audiocraft_without_clap():
    from audiocraft.models.lm import LMModel
    from audiocraft.modules.codebooks_patterns import DelayedPatternProvider
    from audiocraft.modules.conditioners import (
        ConditionFuser,
        ConditioningAttributes,
        ConditioningProvider,
        TextConditioner,
    )


class WordConditioner(TextConditioner):
    """A text is its words' embeddings; no text is zeros, as T5Conditioner has it."""

    def __init__(self, output_dim: int) -> None:
        super().__init__(32, output_dim)
        self.words = nn.Embedding(997, 32)

    def tokenize(self, x: list[str | None]) -> tuple[Tensor, Tensor]:
        ids = [[zlib.crc32(w.encode()) % 997 for w in (text or "").split()] for text in x]
        length = max(1, *map(len, ids))
        padded = torch.tensor([line + [0] * (length - len(line)) for line in ids])
        return padded, torch.tensor([[i < len(line) for i in range(length)] for line in ids])

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        ids, mask = inputs
        return self.output_proj(self.words(ids)) * mask[..., None], mask


def random_lm(
    dim: int = 32,
    layers: int = 2,
    heads: int = 2,
    card: int = 64,
    codebooks: int = 4,
    delays: list[int] | None = None,
    **options: Any,
) -> LMModel:
    """An LMModel like MusicGen's, seeded, in evaluation mode."""
    torch.manual_seed(0)
    lm = LMModel(
        DelayedPatternProvider(codebooks, delays=delays or list(range(codebooks))),
        ConditioningProvider({"description": WordConditioner(dim)}),
        ConditionFuser(
            {"cross": ["description"], "sum": [], "prepend": [], "input_interpolate": []}
        ),
        n_q=codebooks,
        card=card,
        dim=dim,
        num_heads=heads,
        num_layers=layers,
        hidden_scale=4,
        norm="layer_norm",
        norm_first=True,
        activation="gelu",
        dropout=0.0,
        bias_proj=False,
        **{"bias_ff": False, "bias_attn": False, **options},
        causal=True,
        memory_efficient=True,
        cross_attention=True,
        cfg_coef=3.0,
    )
    for parameter in lm.parameters():  # away from the symmetric start, so that mistakes show
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return lm.eval()


def attributes(*prompts: str | None) -> list[ConditioningAttributes]:
    """Prompts as audiocraft takes them."""
    return [ConditioningAttributes(text={"description": prompt}) for prompt in prompts]


@torch.inference_mode()
def condition(lm: LMModel, prompt: str) -> Tensor:
    """One prompt's cross-attention source, [length, dim]."""
    return lm.condition_provider(lm.condition_provider.tokenize(attributes(prompt)))["description"][
        0
    ][0]
