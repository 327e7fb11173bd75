"""Rows that go through the transformer together: what is kept of them, and their next step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from src.decoding.layers import AbsorbedText, Text
from src.decoding.past import Past
from src.decoding.sampling import Sampling, draw, weights_of
from src.decoding.transformer import Transformer


@dataclass(eq=False)
class Part:
    """Equally many rows of each of some prompts.

    transformer: arranged for this many rows
    texts: by layer
    past: keys and values of the positions that were fed
    positions: float32 [steps, dim], the positions' embeddings
    open: bool [steps, codebooks], where tokens are to be predicted, not special or given
    sequence: int64 [rows, steps, codebooks]
    log_probs: float32 [halves + 1, rows, steps, codebooks], of the tokens of the sequence: with the
    text, if guided without it, and last by the distribution that they were drawn from, at its
    temperature, guided, of the k best (0 where a token was given)
    noise: float64 [rows, steps, codebooks]; a slot's own, whatever row is copied there
    """

    transformer: Transformer
    sampling: Sampling
    texts: Sequence[Text | AbsorbedText]
    past: Past
    positions: Tensor
    open: Tensor
    sequence: Tensor
    log_probs: Tensor
    noise: Tensor

    def __post_init__(self) -> None:
        # The sequence step that the transformer takes next: int64 [1], read on the device alone.
        self.at = torch.zeros(1, dtype=torch.int64, device=self.sequence.device)

    @property
    def rows(self) -> int:
        return len(self.sequence)

    def advance(self, start: int, end: int, greedy: bool) -> None:
        """Feed the sequence steps from `start` up to `end`."""
        self.past.reserve(end)
        self.at.fill_(start)
        for _ in range(start, end):
            self.step(greedy)
            self.past.grow(1)

    def step(self, greedy: bool) -> None:
        """Feed one sequence step and sample the next.

        A GPU need not be waited for, and the same operations do the next step: the position is read
        from `at` (and by the past).
        """
        at, guided = self.at, self.sampling.guided
        hidden = self.transformer.hidden(
            self.sequence.index_select(1, at),
            self.positions.index_select(0, at),
            self.past,
            self.texts,
            guided,
        )
        log_probs, logits = self.predict(hidden[:, :, 0])
        at += 1  # the step that is written
        weights = weights_of(logits, self.sampling)
        if greedy:
            tokens = logits.argmax(-1)
        else:
            tokens = draw(weights, self.noise.index_select(1, at)[:, 0])
        held, is_open = self.sequence.index_select(1, at)[:, 0], self.open.index_select(0, at)
        tokens = torch.where(is_open, tokens, held)
        self.sequence.index_copy_(1, at, tokens[:, None])
        drawn = (_taken(weights, tokens) / weights.sum(-1)).log().where(is_open, 0.0)
        taken = _taken(log_probs, tokens.expand_as(log_probs[..., 0]))
        self.log_probs.index_copy_(2, at, torch.cat([taken, drawn[None]])[:, :, None])

    def predict(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """hidden [halves, rows, dim] -> log-probabilities and logits to sample from.

        float32 [halves, rows, codebooks, cardinality] and [rows, codebooks, cardinality]. The
        log-probabilities are those before guidance, at temperature 1: with the text, and, if
        guided, without it.
        """
        logits = self.transformer.logits(hidden.flatten(0, 1))
        logits = logits.view(*hidden.shape[:2], *logits.shape[1:])
        if not self.sampling.guided:
            return logits.log_softmax(-1), logits[0]
        conditional, unconditional = logits
        guided = torch.lerp(unconditional, conditional, self.sampling.guidance)
        return logits.log_softmax(-1), guided

    def give(self, tokens: Tensor, delays: Sequence[int]) -> None:
        """Start from these frames, int64 [rows, codebooks, frames given]: one pass for all."""
        given = tokens.shape[-1]
        for codebook, delay in enumerate(delays):
            self.sequence[:, 1 + delay : 1 + delay + given, codebook] = tokens[:, codebook]
        self.past.reserve(given)
        hidden = self.transformer.hidden(
            self.sequence[:, :given],
            self.positions[:given],
            self.past,
            self.texts,
            self.sampling.guided,
        )
        self.past.grow(given)
        steps = slice(1, 1 + given)
        for half, row in itertools.product(*map(range, hidden.shape[:2])):
            log_probs = self.transformer.logits(hidden[half, row]).log_softmax(-1)
            self.log_probs[half, row, steps] = _taken(log_probs, self.sequence[row, steps])

    def take_over(self, sequence: Tensor, log_probs: Tensor) -> None:
        """Go on from what other parts have sampled; their past is moved here next."""
        self.sequence.copy_(sequence)
        self.log_probs.copy_(log_probs)

    def skip(self, end: int) -> None:
        """As if the sequence steps up to `end` had been fed: their keys and values are zeros."""
        self.past.reserve(end)
        own = self.past.own
        for cache in own.caches:
            cache[..., own.length :, :] = 0
        self.past.grow(end - own.end)

    def finish(self) -> None:
        """Let go of the past, where no position comes any more."""
        self.past.free()


def _taken(values: Tensor, tokens: Tensor) -> Tensor:
    """The tokens' own, [..., cardinality] and [...] -> [...]; arbitrary for special tokens."""
    index = tokens.clamp(max=values.shape[-1] - 1)[..., None]
    return values.gather(-1, index).squeeze(-1)
