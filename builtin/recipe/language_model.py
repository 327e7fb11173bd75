"""The language model as the recipe trains it: audiocraft's `LMModel` in plain, recent torch.

audiocraft 1.3.0 needs torch 2.1, whose bfloat16 training crashes or crawls on a CPU. This module
computes the same function with the same parameter names, so that its weights load strictly into
`audiocraft.models.lm.LMModel`; a test of the repository holds the two against each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class LMConfig:
    """Sizes of the language model and of its text encoder."""

    dim: int = 320
    num_heads: int = 5
    num_layers: int = 6
    hidden_scale: int = 4
    codebooks: int = 4
    card: int = 1024
    text_dim: int = 160
    text_layers: int = 3
    text_heads: int = 4
    text_ff: int = 480
    vocabulary: int = 800


class Attention(nn.Module):
    """Packed multi-head attention without biases (audiocraft's StreamingMultiheadAttention)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.out_proj = nn.Linear(dim, dim, bias=False)

    def forward(
        self, x: Tensor, source: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """[B, T, D] attends to itself causally, or to `source` [B, L, D] under a bool mask."""
        batch, steps, dim = x.shape
        if source is None:
            q, k, v = F.linear(x, self.in_proj_weight).chunk(3, dim=-1)
        else:
            q = F.linear(x, self.in_proj_weight[:dim])
            k, v = F.linear(source, self.in_proj_weight[dim:]).chunk(2, dim=-1)
        q, k, v = (
            y.reshape(batch, -1, self.heads, dim // self.heads).transpose(1, 2) for y in (q, k, v)
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=source is None)
        return self.out_proj(y.transpose(1, 2).reshape(batch, steps, dim))


class Layer(nn.Module):
    """Pre-norm transformer layer with cross-attention to the text."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        dim = config.dim
        self.self_attn = Attention(dim, config.num_heads)
        self.cross_attention = Attention(dim, config.num_heads)
        self.linear1 = nn.Linear(dim, config.hidden_scale * dim, bias=False)
        self.linear2 = nn.Linear(config.hidden_scale * dim, dim, bias=False)
        self.norm1, self.norm_cross, self.norm2 = (
            nn.LayerNorm(dim),
            nn.LayerNorm(dim),
            nn.LayerNorm(dim),
        )

    def forward(self, x: Tensor, text: Tensor, mask: Tensor, conditional: Tensor) -> Tensor:
        """`conditional` [B, 1, 1] is 0 where guidance dropout took the text away."""
        x = x + self.self_attn(self.norm1(x))
        x = x + self.cross_attention(self.norm_cross(x), text, mask) * conditional
        return x + self.linear2(F.gelu(self.linear1(self.norm2(x))))


class Transformer(nn.Module):
    """The layers, under audiocraft's name."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))


def sin_embedding(steps: int, dim: int) -> Tensor:
    """audiocraft's sinusoidal positions, float32 [steps, dim]: cosines, then sines."""
    half = dim // 2
    phase = torch.arange(steps)[:, None] / (10_000 ** (torch.arange(half) / (half - 1)))
    return torch.cat([torch.cos(phase), torch.sin(phase)], dim=-1)


def delayed(codes: Tensor, special: int) -> Tensor:
    """[B, K, T] -> [B, K, T + K]: step s holds codebook q at frame s - 1 - q, else `special`."""
    batch, books, frames = codes.shape
    sequence = codes.new_full((batch, books, frames + books), special)
    for book in range(books):
        sequence[:, book, 1 + book : 1 + book + frames] = codes[:, book]
    return sequence


class LanguageModel(nn.Module):
    """Decoder-only transformer over 4 delayed codebooks, text by cross-attention."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = config
        self.emb = nn.ModuleList(
            nn.Embedding(config.card + 1, config.dim) for _ in range(config.codebooks)
        )
        self.transformer = Transformer(config)
        self.out_norm = nn.LayerNorm(config.dim)
        self.linears = nn.ModuleList(
            nn.Linear(config.dim, config.card, bias=False) for _ in range(config.codebooks)
        )
        self.output_proj = nn.Linear(config.text_dim, config.dim)
        self.register_buffer("positions", sin_embedding(1024, config.dim), persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=1 / math.sqrt(module.in_features))
            elif isinstance(module, nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=1 / math.sqrt(config.dim))
            elif isinstance(module, Attention):
                nn.init.trunc_normal_(module.in_proj_weight, std=1 / math.sqrt(config.dim))
        for layer in self.transformer.layers:  # residual branches start small
            for weight in (
                layer.self_attn.out_proj.weight,
                layer.cross_attention.out_proj.weight,
                layer.linear2.weight,
            ):
                weight.data.div_(math.sqrt(2 * config.num_layers))

    def hidden(self, sequence: Tensor, text: Tensor, mask: Tensor, conditional: Tensor) -> Tensor:
        """Delayed tokens [B, K, S], text [B, L, text_dim], mask bool [B, L] -> [B, S, D]."""
        x = sum(embed(sequence[:, book]) for book, embed in enumerate(self.emb))
        x = x + self.positions[: x.shape[1]]
        text = self.output_proj(text) * mask[..., None]
        for layer in self.transformer.layers:
            x = layer(x, text, mask[:, None, None], conditional)
        return self.out_norm(x)

    def losses(self, codes: Tensor, text: Tensor, mask: Tensor, conditional: Tensor) -> Tensor:
        """Mean cross-entropy of each codebook, nats, float32 [K]."""
        frames = codes.shape[-1]
        sequence = delayed(codes, self.config.card)
        hidden = self.hidden(sequence[..., :-1], text, mask, conditional)
        losses = []
        for book, head in enumerate(self.linears):
            logits = head(hidden[:, book : book + frames])
            losses.append(
                F.cross_entropy(
                    logits.reshape(-1, logits.shape[-1]).float(), codes[:, book].reshape(-1)
                )
            )
        return torch.stack(losses)
