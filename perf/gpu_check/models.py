"""Models with random weights, decoders on them, and what comes out, to be compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from perf.stub_lm import Shape, StubLM
from src.decoding.decoder import Decoder, Decoding, Sampling

SEED = 42


def no_graphs(on_gpu: bool) -> str | None:
    """Why there are no CUDA graphs to look at; None where there are."""
    return None if on_gpu else "needs a GPU"


def half_dtypes(device: torch.device) -> list[torch.dtype]:
    """Those that the decoder takes there and the device computes in."""
    if device.type == "cpu":
        return [torch.bfloat16]
    return [torch.float16, *([torch.bfloat16] if torch.cuda.is_bf16_supported() else [])]


def fastest_dtype(device: torch.device) -> torch.dtype:
    """Half precision on a GPU: bfloat16 where it has it."""
    return half_dtypes(device)[-1] if device.type == "cuda" else torch.float32


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@torch.no_grad()
def random_lm(
    shape: Shape, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> StubLM:
    """Seeded weights, drawn on the device: the same ones there every time."""
    torch.manual_seed(0)
    lm = StubLM(shape, device, dtype)
    for parameter in lm.parameters():  # away from the symmetric start, so that mistakes show
        parameter.add_(0.05 * torch.randn_like(parameter))
    return lm.eval().requires_grad_(False)


def sources(dim: int, *lengths: int) -> list[Tensor]:
    """Cross-attention sources of prompts of so many text tokens: float32 [length, dim], seeded."""
    noise = torch.Generator().manual_seed(7)
    return [torch.randn(length, dim, generator=noise) for length in lengths]


def make_decoder(
    lm: Any,
    sampling: Sampling | None = None,
    dtype: torch.dtype = torch.float32,
    max_rows: int = 64,
    graphs: bool = False,
) -> Decoder:
    """A Decoder that is eager unless graphs are asked for."""
    return Decoder(lm, sampling, dtype, max_rows, graphs)


@dataclass(frozen=True)
class Outcome:
    """What was decoded, in the CPU's memory: both [rows, codebooks, frames].

    tokens: int64. log_probs: float32, the tokens' own, with the text, before guidance.
    """

    tokens: Tensor
    log_probs: Tensor

    @classmethod
    def of(cls, decoding: Decoding) -> Outcome:
        """Of the finished frames. Each token's log-probability is the decoder's own affair: users
        see their mean."""
        log_probs = [decoding._by_frame(part.log_probs[0]) for part in decoding._parts]
        return cls(decoding.tokens().cpu(), torch.cat(log_probs).cpu())

    def rows(self, rows: list[int]) -> Outcome:
        return Outcome(self.tokens[rows], self.log_probs[rows])

    def first(self, frames: int) -> Outcome:
        return Outcome(self.tokens[..., :frames], self.log_probs[..., :frames])


@dataclass(frozen=True)
class Agreement:
    """Of two outcomes that should be the same.

    A token whose number lies at the border of two in the cumulative distribution can flip by
    rounding, and what follows it is another clip. Up to a row's first flip its history is the same
    in both, and so must the log-probabilities be, but for rounding.

    equal: the share of equal tokens. rows_flipped: how many rows have a flip. first_frame: the
    first frame with one. flip_rate: flips a token that had the same history. log_prob_error: the
    largest among those, in nats.
    """

    equal: float
    rows: int
    rows_flipped: int
    first_frame: int | None
    flip_rate: float
    log_prob_error: float

    @classmethod
    def of(cls, one: Outcome, other: Outcome) -> Agreement:
        same = one.tokens == other.tokens
        rows, codebooks, frames = same.shape
        # codebook k of frame t is sampled at step t + k (and 1)
        step = torch.arange(frames) + torch.arange(codebooks)[:, None]
        never = frames + codebooks
        flip = torch.where(same, never, step).amin((1, 2))
        comparable = same & (step <= flip[:, None, None])
        flips = int((flip < never).sum())
        differing = (~same).any(1).any(0).nonzero()
        error = (one.log_probs - other.log_probs).abs()[comparable]
        return cls(
            equal=same.double().mean().item(),
            rows=rows,
            rows_flipped=flips,
            first_frame=int(differing[0]) if len(differing) else None,
            flip_rate=flips / max(1, int(comparable.sum())),
            log_prob_error=error.max().item() if len(error) else float("inf"),
        )
