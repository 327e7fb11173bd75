"""A transformer's layer at one position of many rows: products, attention, feed-forward."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from src.decoding import kernels

if TYPE_CHECKING:
    from src.decoding.past import Past

CORE_CACHE = 2_000_000  # bytes that a core keeps near


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
        if self.packed is not None and x.shape[0] == self.packed_rows:
            return torch.ops.mkl._mkl_linear(x, self.packed, self.weight, self.bias, x.shape[0])
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
    """Layer norm over the last dimension, in float32; the result is rounded to `dtype`."""

    weight: Tensor
    bias: Tensor
    eps: float
    dtype: torch.dtype = torch.float32

    def __call__(self, x: Tensor) -> Tensor:
        x = torch.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        return x.to(self.dtype)

    def of_sum(self, x: Tensor, y: Tensor, rows: int | None = None) -> Tensor:
        """x += y, in place, in as many rows as y has; the norm of x's first `rows`, or of all.

        x: the residual stream, float32 [all rows, dim]; y: what a part of a layer adds to it.
        """
        if kernels.available(y):
            return kernels.add_norm(x, y, self.weight, self.bias, self.eps, self.dtype, rows)
        x[: len(y)].add_(y)
        return self(x[:rows])


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


class AbsorbedText(NamedTuple):
    """Prompts' texts absorbed into one layer's projections around them, prompt by prompt.

    Scores are x Wqᵀ Kᵀ = x (K Wq)ᵀ and the output is weights (Wo Vᵀ)ᵀ, so that K Wq and Wo Vᵀ can
    be made once for a prompt (weight absorption, as DeepSeek-V2 has it for its latent attention).
    They are smaller than Wq and Wo while a text has fewer tokens than a head has dimensions.
    """

    heads: int
    scores: list[Linear]  # [rows, dim] -> [rows, heads * length], scaled
    outputs: list[Linear]  # [rows, heads * length] -> [rows, dim]

    def __call__(self, x: Tensor) -> Tensor:
        """x [prompts * rows, dim], normalised -> what cross-attention adds to it."""
        results = []
        for rows, scores, output in zip(
            x.chunk(len(self.scores)), self.scores, self.outputs, strict=True
        ):
            weights = torch.softmax(scores(rows).view(rows.shape[0], self.heads, -1), dim=-1)
            results.append(output(weights.flatten(1)))
        return torch.cat(results) if len(results) > 1 else results[0]


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
    """Self-attention, cross-attention on the text, feed-forward; norms come first.

    Each takes the normalised residual stream, [rows, dim], and gives what is to be added to the
    stream: so the addition and the norm that follows, the next one's, are one (`Norm.of_sum`). The
    stream is float32, what is added to it is computed in the weights' dtype.
    """

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

    def pack(self, past_rows: int, conditional_rows: int, rows: int) -> Layer:
        """For so many rows in self-attention, in cross-attention and in the feed-forward."""
        return dataclasses.replace(
            self,
            qkv=self.qkv.pack(past_rows),
            self_out=self.self_out.pack(past_rows),
            text_query=self.text_query.pack(conditional_rows),
            text_out=self.text_out.pack(conditional_rows),
            ff_up=self.ff_up.pack(rows),
            ff_down=self.ff_down.pack(rows),
        )

    def attend_to_past(self, x: Tensor, past: Past, layer: int, times: int) -> Tensor:
        """x [rows * times, dim]: the next `times` positions, which the layer's past takes."""
        qkv = self.qkv(x)
        qkv = qkv.view(-1, past.prompts, past.slots, times, 3, self.heads, past.head_dim)
        qkv = qkv.permute(4, 0, 1, 5, 2, 3, 6)  # 3, halves, prompts, heads, slots, times, head dim
        past.write(layer, qkv[1:])
        if times == 1:
            y = past.attend(layer, qkv[0].squeeze(4)).unsqueeze(4)
        else:
            assert past.own.end == 0, "several positions at once are for the first ones only"
            queries, keys, values = qkv.flatten(1, 3)
            y = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
            y = y.view(qkv.shape[1:])
        return self.self_out(y.permute(0, 1, 3, 4, 2, 5).reshape(x.shape))

    def attend_to_text(self, x: Tensor, text: Text | AbsorbedText) -> Tensor:
        """x [rows, dim]: each prompt's rows attend to its keys and values as one batch."""
        if isinstance(text, AbsorbedText):
            return text(x)
        prompts = text.keys.shape[0] // self.heads
        queries = self.text_query(x).view(prompts, len(x) // prompts, self.heads, -1)
        queries = queries.transpose(1, 2)
        if kernels.can_attend(queries):
            y = kernels.attend(queries, [(1, *text)])
        else:
            y = attention(queries.flatten(0, 1), *text).view(queries.shape)
        return self.text_out(y.transpose(1, 2).reshape(x.shape))

    def absorb(self, texts: Sequence[Text]) -> AbsorbedText:
        """One prompt a text."""
        queries, out = self.text_query, self.text_out
        scores, outputs = [], []
        for keys, values, _ in texts:
            heads, _, head_dim = keys.shape
            keys = keys * head_dim**-0.5
            absorbed = (keys @ queries.weight.view(heads, head_dim, -1)).flatten(0, 1)
            bias = None
            if queries.bias is not None:
                bias = (keys @ queries.bias.view(heads, head_dim, 1)).flatten()
            scores.append(Linear(absorbed, bias))
            by_head = out.weight.view(-1, heads, head_dim).permute(1, 2, 0)
            outputs.append(Linear((values @ by_head).flatten(0, 1).t().contiguous(), out.bias))
        return AbsorbedText(self.heads, scores, outputs)

    def feed_forward(self, x: Tensor) -> Tensor:
        """x [rows, dim]."""
        return self.ff_down(self.ff_activation(self.ff_up(x)))

    def project_text(self, source: Tensor) -> Text:
        """One prompt's cross-attention source [length, dim] -> its keys and values."""
        keys, values = (
            project(source).unflatten(1, (self.heads, -1)).transpose(0, 1).contiguous()
            for project in (self.text_keys, self.text_values)
        )
        return Text(keys, values)
