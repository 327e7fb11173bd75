"""An audiocraft `LMModel`'s transformer, arranged for decoding: many rows, one position at a time.

The arithmetic is audiocraft's; what is left out is what it does again at every position. Keys and
values are kept (`past`), a prompt's text is projected once and not repeated for its rows (a short
one is absorbed into the weights around it), and the rows without a text (classifier-free guidance)
skip cross-attention: their keys and values would be zero, so all that it adds to them is its
biases.

Weights are the LMModel's own tensors where dtype and device allow, not copies; on a CPU a packed
copy stands beside them (`Transformer.pack`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.decoding.layers import AbsorbedText, Layer, Linear, Norm, Text
from src.decoding.past import Past

if TYPE_CHECKING:
    from audiocraft.models import LMModel


PACKED_AT_MOST = 2_000_000_000  # bytes of weights: larger models are not kept a second time


class UnsupportedModel(ValueError):
    """A model that this decoder would get wrong; the message says why."""


class Transformer:
    """From tokens to hidden states, and from hidden states to logits."""

    def __init__(self, lm: LMModel, dtype: torch.dtype) -> None:
        refuse_unsupported(lm)
        self.dtype = dtype
        self.dim: int = lm.dim
        self.codebooks: int = lm.n_q
        self.cardinality: int = lm.card
        self.heads: int = lm.transformer.layers[0].self_attn.num_heads
        self.layers = [_layer(layer, dtype) for layer in lm.transformer.layers]
        self.out_norm = _norm(lm.out_norm, torch.float32)
        self.embeddings = torch.cat([table.weight.detach() for table in lm.emb]).float()
        self.device = self.embeddings.device
        # Codebook k's rows of the table start at k * (cardinality + 1): its last is the special.
        rows = self.cardinality + 1
        self.first_rows = torch.arange(0, self.codebooks * rows, rows, device=self.device)
        self.output = _concatenated(list(lm.linears), torch.float32)
        self.max_period: float = lm.transformer.max_period
        self.positional_scale: float = lm.transformer.positional_scale
        size = sum(weight.numel() * dtype.itemsize for weight in lm.transformer.parameters())
        self.packable = (
            self.device.type == "cpu"
            and dtype == torch.float32
            and torch.backends.mkl.is_available()
            and torch.backends.cpu.get_cpu_capability() == "AVX512"
            and size <= PACKED_AT_MOST
        )

    def pack(self, rows: int, guided: bool) -> Transformer:
        """The same, faster at one position of that many rows, for the weights' memory once more.

        Itself where nothing is to be gained: on a GPU, in half precision, without MKL, where nobody
        would want the weights twice, and on CPUs without AVX-512, where MKL's W xᵀ is faster than
        with packed weights for 2 to 128 rows: a step takes up to 1.25 times as long packed.
        """
        if not self.packable:
            return self
        both = 2 * rows if guided else rows
        first, *later = self.layers
        packed = copy.copy(self)
        packed.layers = [first.pack(rows, rows, both)]
        packed.layers += [layer.pack(both, rows, both) for layer in later]
        packed.output = self.output.pack(both)
        return packed

    def positions(self, count: int) -> Tensor:
        """The sine embeddings of the first positions, [count, dim]."""
        from audiocraft.modules.transformer import create_sin_embedding

        at = torch.arange(count, device=self.device)[None, :, None]
        embeddings = create_sin_embedding(at, self.dim, max_period=self.max_period)[0]
        return (self.positional_scale * embeddings).float()

    def past(self, prompts: int, slots: int, guided: bool) -> Past:
        """An empty past of that many rows of each prompt.

        Guided, rows are there twice: with their text, then without. Not in the first layer's
        self-attention, which comes before the text and is the same for both.
        """
        head_dim = self.dim // self.heads
        halves = _halves(len(self.layers), guided)
        return Past(prompts, slots, halves, self.heads, head_dim, self.dtype, self.device)

    def position_bytes(self, guided: bool) -> int:
        """Bytes of the keys and values of one position of one row."""
        return position_bytes(len(self.layers), self.dim, self.dtype.itemsize, guided)

    def texts(self, source: Tensor) -> list[Text]:
        """Each layer's keys and values of one prompt's cross-attention source, [length, dim]."""
        source = source.to(self.device, self.dtype)
        return [layer.project_text(source) for layer in self.layers]

    def side_by_side(self, texts: Sequence[Sequence[Text]]) -> list[Text | AbsorbedText]:
        """Several prompts' texts, by layer each, as each layer attends to them."""
        by_layer = list(zip(*texts, strict=True))
        length = sum(text.keys.shape[1] for text in by_layer[0])
        if length <= self.dim // self.heads and self.dtype == torch.float32:
            return [layer.absorb(of) for layer, of in zip(self.layers, by_layer, strict=True)]
        return [Text.stack(of_layer) for of_layer in by_layer]

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor,
        past: Past,
        texts: Sequence[Text | AbsorbedText],
        guided: bool,
    ) -> Tensor:
        """Run the next positions, whose keys and values are written into the past.

        tokens: int64 [rows, times, codebooks]; positions: their embeddings, [times, dim].
        Returns [halves, rows, times, dim]: with the text, and, if guided, without it.
        """
        rows, times, _ = tokens.shape
        tokens = tokens.index_select(0, past.order) + self.first_rows
        x = (F.embedding(tokens, self.embeddings).sum(2) + positions).flatten(0, 1)
        next_norms = [*(layer.self_norm for layer in self.layers[1:]), self.out_norm]
        normed = self.layers[0].self_norm(x)
        for number, layer in enumerate(self.layers):
            y = layer.attend_to_past(normed, past, number, times)
            normed = layer.text_norm.of_sum(x, y, rows * times)
            if guided and number == 0:
                x = x.repeat(2, 1)
            y = layer.attend_to_text(normed, texts[number])
            if layer.without_text is not None:
                unconditional = x[rows * times :]
                unconditional += layer.without_text
            normed = layer.ff_norm.of_sum(x, y)
            normed = next_norms[number].of_sum(x, layer.feed_forward(normed))
        hidden = normed.view(-1, rows, times, self.dim)
        return hidden.index_select(1, past.places)

    def logits(self, hidden: Tensor) -> Tensor:
        """[rows, dim] -> float32 [rows, codebooks, cardinality]."""
        return self.output(hidden).view(-1, self.codebooks, self.cardinality)


def position_bytes(layers: int, dim: int, itemsize: int, guided: bool = True) -> int:
    """Bytes of the keys and values of one position of one row."""
    return 2 * dim * itemsize * sum(_halves(layers, guided))


def _halves(layers: int, guided: bool) -> list[int]:
    """Pasts of each layer: under guidance one with the text and one without, but for the first."""
    return [1, *[2 if guided else 1] * (layers - 1)]


def refuse_unsupported(lm: LMModel) -> None:
    """Raise UnsupportedModel, with every reason, unless lm is built like a text MusicGen."""
    fuser, transformer = lm.fuser, lm.transformer
    other_fusions = {
        name: conditions
        for name, conditions in fuser.fuse2cond.items()
        if name != "cross" and conditions
    }
    layers = list(transformer.layers)
    attentions = [a for layer in layers for a in (layer.self_attn, layer.cross_attention) if a]
    faults = {
        f"its conditions are fused by {other_fusions}, not by cross-attention alone (melody "
        "checkpoints prepend theirs; take a text-to-music checkpoint)": bool(other_fusions),
        "it has no cross-attention on a text": any(x.cross_attention is None for x in layers),
        "its text has positional embeddings": fuser.cross_attention_pos_emb,
        "its norms do not come first": lm.out_norm is None,
        "its positions are not embedded as sines": transformer.positional_embedding != "sin",
        "it is not causal": not all(layer.self_attn.causal for layer in layers),
        "its attention has a limited past": any(x.self_attn.past_context for x in layers),
        "its attention is torch's own module": not all(a.custom for a in attentions),
        "its attention normalises queries and keys": any(a.qk_layer_norm for a in attentions),
        "its attention shares keys among heads": any(a.kv_repeat != 1 for a in attentions),
        "its layers are scaled": any(not isinstance(x.layer_scale_1, nn.Identity) for x in layers),
    }
    reasons = [reason for reason, present in faults.items() if present]
    if reasons:
        raise UnsupportedModel("this model cannot be decoded here: " + "; ".join(reasons))


def delays_of(lm: LMModel) -> tuple[int, ...]:
    """By how many steps each codebook lags. Raises UnsupportedModel for any other pattern."""
    provider = lm.pattern_provider
    delays = tuple(getattr(provider, "delays", ()))
    if len(delays) == lm.n_q:
        frames = max(delays) + 2
        steps = range(1 + frames + max(delays))
        expected = [
            [(s - 1 - d, k) for k, d in enumerate(delays) if 0 <= s - 1 - d < frames] for s in steps
        ]
        layout = provider.get_pattern(frames).layout
        if [[tuple(at) for at in step if at.t < frames] for step in layout] == expected:
            return delays
    raise UnsupportedModel(
        f"codebooks interleaved by {type(provider).__name__} are not supported, only delayed ones"
    )


def _layer(layer: Any, dtype: torch.dtype) -> Layer:
    """A `StreamingTransformerLayer`'s weights."""
    past, text = layer.self_attn, layer.cross_attention
    query, keys, values = _thirds(_linear(text.in_proj_weight, text.in_proj_bias, dtype))
    return Layer(
        heads=past.num_heads,
        self_norm=_norm(layer.norm1, dtype),
        qkv=_linear(past.in_proj_weight, past.in_proj_bias, dtype),
        self_out=_linear(past.out_proj.weight, past.out_proj.bias, dtype),
        text_norm=_norm(layer.norm_cross, dtype),
        text_query=query,
        text_keys=keys,
        text_values=values,
        text_out=_linear(text.out_proj.weight, text.out_proj.bias, dtype),
        ff_norm=_norm(layer.norm2, dtype),
        ff_up=_linear(layer.linear1.weight, layer.linear1.bias, dtype),
        ff_activation=layer.activation,
        ff_down=_linear(layer.linear2.weight, layer.linear2.bias, dtype),
    )


def _linear(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Linear:
    return Linear(weight.detach().to(dtype), None if bias is None else bias.detach().to(dtype))


def _thirds(linear: Linear) -> list[Linear]:
    """Three layers from one with their outputs side by side."""
    biases = [None] * 3 if linear.bias is None else linear.bias.chunk(3)
    return [Linear(weight, b) for weight, b in zip(linear.weight.chunk(3), biases, strict=True)]


def _concatenated(linears: Sequence[nn.Linear], dtype: torch.dtype) -> Linear:
    weight = torch.cat([linear.weight.detach() for linear in linears])
    biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
    return _linear(weight, torch.cat(biases) if biases else None, dtype)


def _norm(norm: Any, dtype: torch.dtype) -> Norm:
    return Norm(norm.weight.detach().float(), norm.bias.detach().float(), norm.eps, dtype)
