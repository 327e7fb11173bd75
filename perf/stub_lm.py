"""A language model that `src.decoding` takes for audiocraft's `LMModel`, where audiocraft is not.

    stand_in_for_audiocraft()
    lm = StubLM(Shape(layers=24, dim=1024, heads=16)).eval()
    Decoder(lm).begin(...)

It has the parameters of a MusicGen under audiocraft's names, so that state dicts of the one load
into the other, and nothing that computes: the decoder reads weights and brings its own arithmetic.
Texts are the caller's: what the decoder takes is a prompt's cross-attention source.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def create_sin_embedding(
    positions: Tensor, dim: int, max_period: float = 10000, dtype: torch.dtype = torch.float32
) -> Tensor:
    """audiocraft's function of that name: positions [1, times, 1] -> [1, times, dim].

    Cosines, then sines, at dim / 2 frequencies that fall from 1 to 1 / max_period geometrically.
    """
    half = dim // 2
    period = torch.full([], max_period, device=positions.device, dtype=dtype)
    exponents = torch.arange(half, device=positions.device, dtype=dtype) / (half - 1)
    phase = positions.to(dtype) / period**exponents
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


def stand_in_for_audiocraft() -> bool:
    """Whether audiocraft cannot be imported; what the decoder imports of it is then this module's.

    Where it can be, it has been afterwards.
    """
    try:
        from src.generator import audiocraft_without_clap

        with audiocraft_without_clap():
            import audiocraft.modules.transformer  # noqa: F401
    except Exception:  # it is missing, or a library under it was built for another torch
        for name in ("audiocraft", "audiocraft.modules", "audiocraft.modules.transformer"):
            sys.modules[name] = ModuleType(name)
        sys.modules[name].create_sin_embedding = create_sin_embedding  # type: ignore[attr-defined]
        return True
    return False


@dataclass(frozen=True)
class Shape:
    """Sizes of a MusicGen. `card`: tokens of a codebook, without the special one."""

    layers: int
    dim: int
    heads: int
    card: int = 2048
    codebooks: int = 4
    hidden_scale: int = 4


class StubAttention(nn.Module):
    """Parameters of a `StreamingMultiheadAttention` without biases."""

    def __init__(self, dim: int, heads: int, **factory: Any) -> None:
        super().__init__()
        self.num_heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim, **factory))
        nn.init.normal_(self.in_proj_weight, std=dim**-0.5)
        self.in_proj_bias = None
        self.out_proj = nn.Linear(dim, dim, bias=False, **factory)
        # what the decoder asks for, to refuse other kinds of attention
        self.causal = self.custom = True
        self.past_context = None
        self.qk_layer_norm = False
        self.kv_repeat = 1


class StubLayer(nn.Module):
    """Parameters of a `StreamingTransformerLayer` with cross-attention."""

    def __init__(self, shape: Shape, **factory: Any) -> None:
        super().__init__()
        dim, hidden = shape.dim, shape.hidden_scale * shape.dim
        self.self_attn = StubAttention(dim, shape.heads, **factory)
        self.cross_attention = StubAttention(dim, shape.heads, **factory)
        self.norm1 = nn.LayerNorm(dim, **factory)
        self.norm_cross = nn.LayerNorm(dim, **factory)
        self.norm2 = nn.LayerNorm(dim, **factory)
        self.linear1 = nn.Linear(dim, hidden, bias=False, **factory)
        self.linear2 = nn.Linear(hidden, dim, bias=False, **factory)
        self.layer_scale_1 = nn.Identity()
        self.activation = F.gelu


class StubTransformer(nn.Module):
    """The layers, and how positions are embedded."""

    def __init__(self, shape: Shape, **factory: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(StubLayer(shape, **factory) for _ in range(shape.layers))
        self.max_period = 10000
        self.positional_scale = 1.0
        self.positional_embedding = "sin"


class Place(NamedTuple):
    """A token's frame and codebook, as audiocraft's `LayoutCoord`."""

    t: int
    q: int


class StubPattern:
    """The delay pattern of `DelayedPatternProvider`: codebook k lags k steps."""

    def __init__(self, codebooks: int) -> None:
        self.delays = list(range(codebooks))

    def get_pattern(self, frames: int) -> SimpleNamespace:
        """layout: the tokens of each step of the sequence."""
        steps = range(1 + frames + max(self.delays))
        lagging = [[(step - 1 - delay, k) for k, delay in enumerate(self.delays)] for step in steps]
        return SimpleNamespace(
            layout=[[Place(t, k) for t, k in step if 0 <= t < frames] for step in lagging]
        )


class StubLM(nn.Module):
    """Parameters of an `LMModel`, random, created on `device` in `dtype`."""

    def __init__(
        self,
        shape: Shape,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.dim, self.card, self.n_q = shape.dim, shape.card, shape.codebooks
        self.emb = nn.ModuleList(
            nn.Embedding(shape.card + 1, shape.dim, **factory) for _ in range(shape.codebooks)
        )
        self.transformer = StubTransformer(shape, **factory)
        self.out_norm = nn.LayerNorm(shape.dim, **factory)
        self.linears = nn.ModuleList(
            nn.Linear(shape.dim, shape.card, bias=False, **factory) for _ in range(shape.codebooks)
        )
        self.fuser = SimpleNamespace(
            fuse2cond={"cross": ["description"]}, cross_attention_pos_emb=False
        )
        self.pattern_provider = StubPattern(shape.codebooks)
