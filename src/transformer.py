"""An audiocraft `LMModel`'s transformer, arranged for decoding: many rows, one position at a time.

The arithmetic is audiocraft's; what is left out is what it does again at every position. Keys and
values are written into caches allocated once, a prompt's text is projected once and not repeated
for its rows, and the rows without a text (classifier-free guidance) skip cross-attention: their
keys and values would be zero, so all that it adds to them is its biases.

Weights are the LMModel's own tensors where dtype and device allow, not copies; on a CPU a packed
copy stands beside them (`Transformer.pack`).
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from audiocraft.models import LMModel


CORE_CACHE = 2_000_000  # bytes that a core keeps near
PACKED_AT_MOST = 2_000_000_000  # bytes of weights: larger models are not kept a second time


class UnsupportedModel(ValueError):
    """A model that this decoder would get wrong; the message says why."""


class Linear(NamedTuple):
    """x [rows, in] -> [rows, out].

    packed: the weight once more, in the order in which MKL reads it for x of `packed_rows` rows. A
    product with few rows takes little longer than reading the weight does, so the order tells. The
    operators are those that torch.compile emits on a CPU.
    """

    weight: Tensor
    bias: Tensor | None = None
    packed: Tensor | None = None
    packed_rows: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) == self.packed_rows:
            return torch.ops.mkl._mkl_linear(x, self.packed, self.weight, self.bias, len(x))
        if x.is_cuda:
            return F.linear(x, self.weight, self.bias)
        # MKL takes W xᵀ of few rows up to 1.5 times as fast as x Wᵀ, which F.linear asks for.
        if self.bias is None:
            return torch.mm(self.weight, x.t()).t()
        return torch.addmm(self.bias[:, None], self.weight, x.t()).t()

    def pack(self, rows: int) -> Linear:
        """For x of that many rows; itself where W xᵀ is as fast: large weights with few outputs."""
        outputs, inputs = self.weight.shape
        if outputs <= inputs and self.weight.nbytes > CORE_CACHE:
            return self
        packed = torch.ops.mkl._mkl_reorder_linear_weight(self.weight, rows)
        return self._replace(packed=packed, packed_rows=rows)


class Norm(NamedTuple):
    """Layer norm over the last dimension."""

    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class Text(NamedTuple):
    """What one layer attends to: keys and values of prompts, [prompts * heads, length, head dim].

    bias: [prompts * heads, 1, length], -inf past the end of the shorter prompts; None where all
    are equally long.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor | None = None

    @staticmethod
    def stack(texts: Sequence[Text]) -> Text:
        """Prompts side by side. What pads the shorter ones has weight zero, exactly."""
        lengths = [text.keys.shape[1] for text in texts]
        missing = [max(lengths) - length for length in lengths]
        keys = torch.cat([F.pad(t.keys, (0, 0, 0, m)) for t, m in zip(texts, missing, strict=True)])
        values = torch.cat(
            [F.pad(t.values, (0, 0, 0, m)) for t, m in zip(texts, missing, strict=True)]
        )
        if not any(missing):
            return Text(keys, values)
        bias = keys.new_zeros(keys.shape[0], 1, max(lengths))
        heads = texts[0].keys.shape[0]
        for prompt, length in enumerate(lengths):
            bias[prompt * heads : (prompt + 1) * heads, :, length:] = -torch.inf
        return Text(keys, values, bias)


def attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention: queries [B, n, d], keys and values [B, length, d] -> [B, n, d].

    For one query a row, two plain batched products are faster on a CPU than
    `scaled_dot_product_attention`.
    """
    # beta 0: what stands in for an absent bias is not read
    scores = torch.baddbmm(
        queries.new_empty(1, 1, 1) if bias is None else bias,
        queries,
        keys.transpose(1, 2),
        beta=0 if bias is None else 1,
        alpha=queries.shape[-1] ** -0.5,
    )
    return torch.bmm(torch.softmax(scores, dim=-1), values)


@dataclass(frozen=True)
class Layer:
    """Self-attention, cross-attention on the text, feed-forward; norms come first."""

    heads: int
    self_norm: Norm
    qkv: Linear
    self_out: Linear
    text_norm: Norm
    text_query: Linear
    text_keys: Linear
    text_values: Linear
    text_out: Linear
    ff_norm: Norm
    ff_up: Linear
    ff_activation: Callable[[Tensor], Tensor]
    ff_down: Linear

    @cached_property
    def without_text(self) -> Tensor | None:
        """[1, dim]: what cross-attention adds to rows without a text; None is nothing."""
        bias = self.text_values.bias
        return None if bias is None else self.text_out(bias[None])

    def pack(self, past_rows: int, told_rows: int, rows: int) -> Layer:
        """For so many rows in self-attention, in cross-attention and in the feed-forward."""
        return dataclasses.replace(
            self,
            qkv=self.qkv.pack(past_rows),
            self_out=self.self_out.pack(past_rows),
            text_query=self.text_query.pack(told_rows),
            text_out=self.text_out.pack(told_rows),
            ff_up=self.ff_up.pack(rows),
            ff_down=self.ff_down.pack(rows),
        )

    def attend_to_past(self, x: Tensor, cache: Tensor, position: int, times: int) -> Tensor:
        """x [rows * times, dim]: `times` positions from `position` on, which the cache takes.

        cache: [2 (keys, values), rows, heads, positions, head dim], filled before `position`.
        """
        x = self.self_norm(x)
        rows, head_dim = cache.shape[1], cache.shape[-1]
        qkv = self.qkv(x).view(rows, times, 3, self.heads, head_dim).permute(2, 0, 3, 1, 4)
        cache[:, :, :, position : position + times] = qkv[1:]
        if times == 1:
            keys, values = cache[:, :, :, : position + 1].flatten(1, 2)
            y = attention(qkv[0].reshape(-1, 1, head_dim), keys, values)
        else:
            assert position == 0, "several positions at once are for the first ones only"
            keys, values = cache[:, :, :, :times]
            y = F.scaled_dot_product_attention(qkv[0].contiguous(), keys, values, is_causal=True)
            y = y.transpose(1, 2)
        return self.self_out(y.reshape(x.shape))

    def attend_to_text(self, x: Tensor, text: Text) -> Tensor:
        """x [rows, dim]: each prompt's rows attend to its keys and values as one batch."""
        x = self.text_norm(x)
        prompts = text.keys.shape[0] // self.heads
        queries = self.text_query(x).view(prompts, len(x) // prompts, self.heads, -1)
        queries = queries.transpose(1, 2).flatten(0, 1)
        y = attention(queries, text.keys, text.values, text.bias)
        return self.text_out(y.unflatten(0, (prompts, self.heads)).transpose(1, 2).reshape(x.shape))

    def feed_forward(self, x: Tensor) -> Tensor:
        """x [rows, dim]."""
        return self.ff_down(self.ff_activation(self.ff_up(self.ff_norm(x))))

    def project_text(self, source: Tensor) -> Text:
        """One prompt's cross-attention source [length, dim] -> its keys and values."""
        keys, values = (
            project(source).unflatten(1, (self.heads, -1)).transpose(0, 1).contiguous()
            for project in (self.text_keys, self.text_values)
        )
        return Text(keys, values)


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
        self.out_norm = _norm(lm.out_norm, dtype)
        self.embeddings = torch.cat([table.weight.detach() for table in lm.emb]).to(dtype)
        self.device = self.embeddings.device
        # Codebook k's rows of the table start at k * (cardinality + 1): its last is the special.
        rows = self.cardinality + 1
        self.first_rows = torch.arange(0, self.codebooks * rows, rows, device=self.device)
        self.output = _concatenated(list(lm.linears), dtype)
        self.max_period: float = lm.transformer.max_period
        self.positional_scale: float = lm.transformer.positional_scale
        size = sum(weight.numel() * dtype.itemsize for weight in lm.transformer.parameters())
        self.packable = (
            self.device.type == "cpu"
            and dtype == torch.float32
            and torch.backends.mkl.is_available()
            and size <= PACKED_AT_MOST
        )

    def pack(self, rows: int, guided: bool) -> Transformer:
        """The same, faster at one position of that many rows, for the weights' memory once more.

        Itself where nothing is to be gained: on a GPU, in half precision, without MKL, and where
        nobody would want the weights twice.
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
        return (self.positional_scale * embeddings).to(self.dtype)

    def caches(self, rows: int, positions: int, guided: bool) -> list[Tensor]:
        """Each layer's keys and values, [2, rows, heads, positions, head dim].

        Guided, rows are there twice: with their text, then without. Not in the first layer's
        self-attention, which comes before the text and is the same for both.
        """
        head_dim = self.dim // self.heads
        later = 2 * rows if guided else rows
        return [
            empty((2, count, self.heads, positions, head_dim), self.dtype, self.device)
            for count in [rows, *[later] * (len(self.layers) - 1)]
        ]

    def texts(self, source: Tensor) -> list[Text]:
        """Each layer's keys and values of one prompt's cross-attention source, [length, dim]."""
        source = source.to(self.device, self.dtype)
        return [layer.project_text(source) for layer in self.layers]

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor,
        first: int,
        caches: Sequence[Tensor],
        texts: Sequence[Text],
        guided: bool,
    ) -> Tensor:
        """Run the positions from `first` on; the caches take their keys and values.

        tokens: int64 [rows, times, codebooks]; positions: their embeddings, [times, dim].
        Returns [halves, rows, times, dim]: with the text, and, if guided, without it.
        """
        rows, times, _ = tokens.shape
        x = F.embedding(tokens + self.first_rows, self.embeddings).sum(2) + positions
        x = x.flatten(0, 1)
        for number, (layer, cache, text) in enumerate(zip(self.layers, caches, texts, strict=True)):
            x += layer.attend_to_past(x, cache, first, times)
            if guided and number == 0:
                x = x.repeat(2, 1)
            told, untold = x[: rows * times], x[rows * times :]
            told += layer.attend_to_text(told, text)
            if layer.without_text is not None:
                untold += layer.without_text
            x += layer.feed_forward(x)
        return self.out_norm(x).view(-1, rows, times, self.dim)

    def logits(self, hidden: Tensor) -> Tensor:
        """[rows, dim] -> float32 [rows, codebooks, cardinality]."""
        return self.output(hidden).float().view(-1, self.codebooks, self.cardinality)


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uninitialised memory; on a CPU numpy's, which asks Linux for huge pages, as torch does not.

    The caches are read in pieces that small pages scatter: attention takes a tenth less time.
    """
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    data = np.empty(math.prod(shape) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(data).view(dtype).view(shape)


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


def _layer(layer: Any, dtype: torch.dtype) -> Layer:
    """A `StreamingTransformerLayer`'s weights."""
    past, text = layer.self_attn, layer.cross_attention
    query, keys, values = (
        Linear(weight, bias)
        for weight, bias in zip(
            text.in_proj_weight.detach().to(dtype).chunk(3),
            (None,) * 3
            if text.in_proj_bias is None
            else text.in_proj_bias.detach().to(dtype).chunk(3),
            strict=True,
        )
    )
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


def _concatenated(linears: Sequence[nn.Linear], dtype: torch.dtype) -> Linear:
    weight = torch.cat([linear.weight.detach() for linear in linears])
    biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
    return _linear(weight, torch.cat(biases) if biases else None, dtype)


def _norm(norm: Any, dtype: torch.dtype) -> Norm:
    return Norm(norm.weight.detach().to(dtype), norm.bias.detach().to(dtype), norm.eps)
