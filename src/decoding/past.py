"""The past that rows attend to: keys and values, kept once for all rows that share them.

After a prune the children of a candidate share its past, and attend to it together: its keys and
values are read once for all of them. A prompt's rows form a tree, kept in stretches of positions:

    trunk      what all of a prompt's rows share, once a prompt
    families   what siblings share, once a family
    own        what came since the last prune, once a row

Scores of all stretches go through one softmax: nothing but rounding tells the result from that of a
row with a past of its own. (Shared prefixes are attended to in this way by Hydragen, Juravsky et
al., arXiv 2402.05099.)

Siblings lie side by side here, whatever their slots: `order` says which row lies where.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from src.decoding import kernels


class Ancestors(NamedTuple):
    """Rows of one ancestor share every position before `end`. rows: each row's ancestor."""

    end: int
    rows: Sequence[int]


@dataclass
class Stretch:
    """Keys and values of positions from `first` on, for `groups` groups of each prompt's rows.

    caches: by layer, [2 (keys, values), halves, prompts, heads, groups, positions, head dim].
    """

    first: int
    length: int
    groups: int
    caches: list[Tensor]

    @property
    def end(self) -> int:
        return self.first + self.length


class Attended(NamedTuple):
    """What rows attend to in one layer of a stretch: keys and values, [batch * groups, positions,
    head dim], where halves, prompts and heads are the batch; bias: of the scores."""

    groups: int
    keys: Tensor
    values: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, groups: int, cache: Tensor, bias: Tensor | None = None) -> Attended:
        keys, values = cache.flatten(1, 4).unbind()
        return cls(groups, keys, values, bias)


class Past:
    """Of the rows that go through the transformer together: `slots` rows of each of its prompts.

    halves: of each layer, how often a row is there (Transformer.past). order: int64 [rows], which
    row lies at each place; places: int64 [rows], where each row lies.
    """

    def __init__(
        self,
        prompts: int,
        slots: int,
        halves: Sequence[int],
        heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.prompts, self.slots, self.heads, self.head_dim = prompts, slots, heads, head_dim
        self.dtype, self.device = dtype, device
        # Batched products of so few bfloat16 queries are slow where the large ones are fast.
        self.flash = (
            device.type == "cpu"
            and dtype == torch.bfloat16
            and torch.backends.cpu.get_cpu_capability() == "AVX512"
        )
        self.order = self.places = torch.arange(self.rows, device=self.device)
        self.shared: list[Stretch] = []
        self.own = Stretch(0, 0, slots, [self._empty(n, slots, 0) for n in halves])

    @property
    def rows(self) -> int:
        return self.prompts * self.slots

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values, those still to be filled included."""
        return sum(cache.nbytes for s in (*self.shared, self.own) for cache in s.caches)

    def reserve(self, end: int) -> None:
        """Make room for the positions before `end`."""
        own, wanted = self.own, end - self.own.first
        for layer, old in enumerate(own.caches):
            if old.shape[-2] < wanted:
                own.caches[layer] = self._empty(old.shape[1], self.slots, wanted)
                own.caches[layer][..., : own.length, :] = old[..., : own.length, :]

    def grow(self, positions: int) -> None:
        """So many positions have been written in every layer."""
        self.own.length += positions

    def rewind(self, position: int) -> None:
        """Forget that position and all later ones."""
        for stretch in (*self.shared, self.own):
            stretch.length = max(0, min(stretch.length, position - stretch.first))
        self.shared = [stretch for stretch in self.shared if stretch.length]
        self.own.first = min(self.own.first, position)

    def release(self, layer: int) -> None:
        """Let go of one layer's keys and values, which have moved."""
        for stretch in (*self.shared, self.own):
            stretch.caches[layer] = stretch.caches[layer].new_empty(0)

    def free(self) -> None:
        """Let go of all keys and values, where no position comes any more."""
        self.shared, self.own.length = [], 0
        self.own.caches = [cache.new_empty(0) for cache in self.own.caches]

    def write(self, layer: int, keys_values: Tensor) -> None:
        """[2, halves, prompts, heads, slots, positions, head dim], of the next positions."""
        first, positions = self.own.length, keys_values.shape[-2]
        self.own.caches[layer][..., first : first + positions, :] = keys_values

    def attended(self, layer: int) -> list[Attended]:
        """What one query a row attends to."""
        own = self.own.caches[layer][..., : self.own.length + 1, :]
        shared = [Attended.of(s.groups, s.caches[layer][..., : s.length, :]) for s in self.shared]
        return [*shared, Attended.of(self.slots, own)]

    def attend(self, layer: int, queries: Tensor) -> Tensor:
        """One query a row, [halves, prompts, heads, slots, head dim] -> the same shape.

        To all positions up to the one written last. Two plain batched products are faster on a CPU
        than `scaled_dot_product_attention` for so few queries, in float32.
        """
        if kernels.can_attend(queries):
            return kernels.attend(queries, self.attended(layer))
        batch, shape = queries.shape[:3].numel(), queries.shape
        queries = queries.contiguous().view(batch, self.slots, self.head_dim)
        stretches = self.attended(layer)
        if self.flash:
            return _joined([_flash(queries, stretch) for stretch in stretches]).view(shape)
        nothing = queries.new_empty(1, 1, 1)  # beta 0: it is not read
        scores = [
            torch.baddbmm(
                nothing,
                queries.view(batch * groups, -1, self.head_dim),
                keys.transpose(1, 2),
                beta=0,
                alpha=self.head_dim**-0.5,
            ).view(batch, self.slots, -1)
            for groups, keys, _, _ in stretches
        ]
        for of_stretch, (*_, bias) in zip(scores, stretches, strict=True):
            if bias is not None:
                of_stretch += bias
        weights = torch.softmax(torch.cat(scores, -1) if self.shared else scores[0], -1)
        result = None
        of_stretches = weights.split([s.shape[-1] for s in scores], -1)
        for (groups, _, values, _), of_stretch in zip(stretches, of_stretches, strict=True):
            of_groups = of_stretch.view(batch * groups, -1, of_stretch.shape[-1])
            if result is None:
                result = torch.bmm(of_groups, values)
            else:
                result = result.view(batch * groups, -1, self.head_dim)
                result = result.baddbmm_(of_groups, values)
        assert result is not None
        return result.view(shape)

    def keep(self, layer: int, made: Sequence[tuple[Stretch, Tensor]]) -> None:  # noqa: ARG002
        """Take over one layer's new caches of the stretches that are to be shared."""
        for stretch, cache in made:
            stretch.caches.append(cache)

    def arrange(self, order: Sequence[int], shared: Sequence[Stretch], end: int) -> None:
        """From here on rows lie in this order, and share these stretches up to `end`."""
        self.order = torch.tensor(order, device=self.device)
        self.places = self.order.argsort()
        self.shared = list(shared)
        self.own.first, self.own.length = end, 0

    def _empty(self, halves: int, groups: int, positions: int) -> Tensor:
        shape = (2, halves, self.prompts, self.heads, groups, positions, self.head_dim)
        return empty(shape, self.dtype, self.device)

    def _copy(self, layer: int, place: int, first: int, to: Tensor) -> None:
        """The past of the row at a place, from `first` on: [2, halves, heads, positions, dim]."""
        prompt, slot = divmod(place, self.slots)
        for stretch in (*self.shared, self.own):
            start, end = max(first, stretch.first), min(first + to.shape[-2], stretch.end)
            if start < end:
                group = slot * stretch.groups // self.slots
                cache = stretch.caches[layer][:, :, prompt, :, group]
                to[..., start - first : end - first, :] = cache[
                    ..., start - stretch.first : end - stretch.first, :
                ]


def _flash(queries: Tensor, to: Attended) -> tuple[Tensor, Tensor]:
    """Attention to one stretch by torch's flash kernel, and the logarithm of the weights' sum.

    queries [batch, slots, head dim] -> the same shape and dtype, and float32 [batch, slots].
    """
    batch, slots, head_dim = queries.shape
    result, log_sum, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
        queries.view(batch * to.groups, 1, -1, head_dim),
        to.keys[:, None],
        to.values[:, None],
        scale=head_dim**-0.5,
    )
    return result.view(queries.shape), log_sum.view(batch, slots)


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Attention to all stretches, [batch, slots, d], from that to each: their share is the sum of
    their weights."""
    if len(parts) == 1:
        return parts[0][0]
    shares = torch.stack([log_sum for _, log_sum in parts]).softmax(0)
    results = torch.stack([result for result, _ in parts])
    return (shares[..., None] * results).sum(0).to(results.dtype)


def branch(pasts: Sequence[Past], rows: Sequence[int], ancestors: Sequence[Ancestors]) -> None:
    """Row i takes over the past of row rows[i], of the same prompt; rows count through all pasts.

    ancestors: of the rows as they become; the last are those that they branch from.
    """
    where = [(past, place) for past in pasts for place in past.places.tolist()]
    firsts = itertools.accumulate((past.rows for past in pasts), initial=0)
    layouts = [_layout(past, at, rows, ancestors) for past, at in zip(pasts, firsts, strict=False)]
    for layer in range(len(pasts[0].own.caches)):
        made: list[list[tuple[Stretch, Tensor]]] = []
        for past, (_, stretches) in zip(pasts, layouts, strict=True):
            made.append([])
            for stretch, sources in stretches:
                halves = past.own.caches[layer].shape[1]
                cache = past._empty(halves, stretch.groups, stretch.length)
                for number, source in enumerate(sources):
                    prompt, group = divmod(number, stretch.groups)
                    owner, place = where[source]
                    owner._copy(layer, place, stretch.first, cache[:, :, prompt, :, group])
                made[-1].append((stretch, cache))
        for past in pasts:  # of one layer at a time both the old and the new are held
            for stretch in past.shared:
                stretch.caches[layer] = stretch.caches[layer].new_empty(0)
        for past, of_past in zip(pasts, made, strict=True):
            past.keep(layer, of_past)
    for past, (order, stretches) in zip(pasts, layouts, strict=True):
        past.arrange(order, [stretch for stretch, _ in stretches], ancestors[-1].end)


def move(old: Sequence[Past], new: Sequence[Past], rows: Sequence[int], end: int) -> None:
    """Row i of the new pasts, empty so far, takes over the past of the old ones' row rows[i], up to
    `end`, as its own. Rows count through all pasts. The old ones are of no use any more.
    """
    where = [(past, place) for past in old for place in past.places.tolist()]
    for past in new:
        past.reserve(end)
    for layer in range(len(new[0].own.caches)):
        sources = (where[row] for row in rows)
        for past in new:
            for prompt, slot in itertools.product(range(past.prompts), range(past.slots)):
                owner, place = next(sources)
                to = past.own.caches[layer][:, :, prompt, :, slot, :end]
                owner._copy(layer, place, 0, to)
        for past in old:  # of one layer at a time both the old and the new are held
            past.release(layer)
    for past in new:
        past.grow(end)


def _layout(
    past: Past, first: int, rows: Sequence[int], ancestors: Sequence[Ancestors]
) -> tuple[list[int], list[tuple[Stretch, list[int]]]]:
    """A past's rows in their new order, and its stretches, still empty, each with its old rows.

    first: the past's first row. A family that is larger than others is kept several times: groups
    are equally large, so that one product serves all.
    """
    prompts = [range(at, at + past.slots) for at in range(first, first + past.rows, past.slots)]
    in_order = [row for prompt in prompts for row in sorted(prompt, key=rows.__getitem__)]
    sources = [rows[row] for row in in_order]
    size = math.gcd(*(n for prompt in prompts for n in Counter(rows[r] for r in prompt).values()))
    end = ancestors[-1].end
    trunk = max(
        (a.end for a in ancestors if all(len({a.rows[r] for r in p}) == 1 for p in prompts)),
        default=0,
    )
    kept = [(Stretch(0, trunk, 1, []), sources[:: past.slots])] if trunk else []
    if trunk < end:
        families = Stretch(trunk, end - trunk, past.slots // size, [])
        kept.append((families, sources[::size]))
    return [row - first for row in in_order], kept


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uninitialised memory; on a CPU numpy's, which asks Linux for huge pages, as torch does not.

    The caches are read in pieces that small pages scatter: attention takes a tenth less time.
    """
    if device.type != "cpu" or 0 in shape:
        return torch.empty(shape, dtype=dtype, device=device)
    data = np.empty(math.prod(shape) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(data).view(dtype).view(shape)
