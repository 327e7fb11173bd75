"""Sampling that depends on nothing but the candidate.

Each token is drawn by one number that belongs to it: Philox4x32-10 (Salmon et al., "Parallel
random numbers: as easy as 1, 2, 3", SC 2011) keyed by (seed, prompt key, slot), its counter the
sequence step and the codebook. What else is in the batch, how it is split, where the row lies and
how often it was rewound make no difference. The number picks a token by inverting the cumulative
distribution: one number a token is a thousandth of the noise that a race over the vocabulary
takes, so a whole decoding's is made at once, and nothing waits for the GPU.
"""

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL_CONSTANTS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_LOW_32_BITS = 0xFFFFFFFF

Word = int | Tensor
"""A 32-bit word, or int64 tensor of them."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. `top_k` 0 is the whole vocabulary; `guidance` 1 is none.

    Guidance is classifier-free: unconditional + guidance * (conditional - unconditional).
    """

    temperature: float = 1.0
    top_k: int = 250
    guidance: float = 3.0

    @property
    def guided(self) -> bool:
        return self.guidance != 1

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, not {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (the whole vocabulary) or more, not {self.top_k}")


@dataclass(frozen=True)
class NoiseKey:
    """Whose noise it is: a run's seed, a prompt's key, a candidate's slot."""

    seed: int
    prompt: str
    slot: int

    def words(self) -> tuple[int, ...]:
        """128 bits, as four 32-bit words."""
        text = json.dumps([self.seed, self.prompt, self.slot])
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        return struct.unpack("<4I", digest)


def philox(
    counter: tuple[Word, Word, Word, Word], key: tuple[Word, Word]
) -> tuple[Word, Word, Word, Word]:
    """Philox4x32-10: four random 32-bit words for each counter and key, elementwise.

    Products of two 32-bit words overflow int64, which wraps: the 64 bits are right all the same.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        high0, low0 = (product0 >> 32) & _LOW_32_BITS, product0 & _LOW_32_BITS
        high1, low1 = (product1 >> 32) & _LOW_32_BITS, product1 & _LOW_32_BITS
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL_CONSTANTS[0]) & _LOW_32_BITS, (k1 + _WEYL_CONSTANTS[1]) & _LOW_32_BITS
    return c0, c1, c2, c3


def uniforms(
    keys: Sequence[NoiseKey],
    steps: int,
    codebooks: int,
    device: torch.device | str = "cpu",
    first: int = 0,
) -> Tensor:
    """float64 [keys, steps, codebooks] in [0, 1), 53 random bits each, of the steps from `first`.

    Step s of a key is the same whatever `steps` and `first` are.
    """
    words = torch.tensor([key.words() for key in keys], dtype=torch.int64, device=device)
    k0, k1, c2, c3 = words[:, :, None, None].unbind(1)
    step = torch.arange(first, first + steps, device=device)[None, :, None]
    codebook = torch.arange(codebooks, device=device)[None, None, :]
    high, low, _, _ = philox((step, codebook, c2, c3), (k0, k1))
    assert isinstance(high, Tensor)
    return ((high << 21) | (low >> 11)).double() * 2.0**-53


def sample(logits: Tensor, uniform: Tensor, sampling: Sampling) -> Tensor:
    """Draw tokens: float32 logits [..., vocabulary], float64 uniform [...] -> int64 [...]."""
    return draw(weights_of(logits, sampling), uniform)


def weights_of(logits: Tensor, sampling: Sampling) -> Tensor:
    """What tokens are drawn by, float32 [..., vocabulary], not normalised: of their probabilities
    at the temperature those of the k best. Guidance is in the logits already.

    As in audiocraft's `sample_top_k`, tokens that tie with the k-th best are all kept.
    """
    scaled = logits if sampling.temperature == 1 else logits / sampling.temperature
    weights = torch.softmax(scaled, dim=-1)
    if 0 < sampling.top_k < logits.shape[-1]:
        best = torch.topk(logits, sampling.top_k, sorted=False).values
        weights *= logits >= best.amin(-1, keepdim=True)
    return weights


def draw(weights: Tensor, uniform: Tensor) -> Tensor:
    """Tokens by their weights, [..., vocabulary], and float64 uniform [...] -> int64 [...].

    Where weights are not finite it is some token of the vocabulary, which later steps can take.

    A running sum must not fall, or a token of weight 0 could be picked: a CPU keeps a float32 one
    in float64 and rounds it, a GPU adds float32 numbers in any order.
    """
    cumulative = weights.cumsum(-1, dtype=torch.float64 if weights.is_cuda else torch.float32)
    total = cumulative[..., -1:]
    target = (uniform[..., None] * total).to(total.dtype)
    target = torch.minimum(target, total.nextafter(torch.zeros_like(total)))  # rounding met it
    # behind the last one where nothing compares: NaN
    return (
        torch.searchsorted(cumulative, target, right=True)
        .squeeze(-1)
        .clamp_(max=weights.shape[-1] - 1)
    )
