"""What a verifier is, before any is there: what it sees, what it answers, how it is named.

    0.7*tags+perplexity      a sum (`components`), each part in units of its spread within a prompt
    tags, clap, ...          over HTTP, from the verifier server
    perplexity               exp(mean log p(x|c)), the inverse perplexity, in (0, 1]
    pmi                      mean of log p(x|c) - log p(x), in nats a token: what the text adds

Higher is better, always. The last two come with the tokens and cost nothing beyond decoding: p(x|c)
is the model's probability of a token given its past and the text, p(x) that without the text; means
are over codebooks and finished frames. Classifier-free guidance computes both anyway, so `pmi` is
free under guidance and unknown without it. (A pointwise mutual information per token; as an
objective of decoding: Li et al., arXiv 1510.03055.)

Nothing heavy is imported: every command line begins here.
"""

import math
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from src.budget import Ledger
    from src.data.audio import Clip
    from src.protocol import Checkpoint, NoScore, Score

Array = NDArray[np.float64]

_TERM = re.compile(r"\s*(?:(?P<weight>[^\s*+]+)\s*\*\s*)?(?P<name>[A-Za-z_]\w*)\s*")

PERPLEXITY = "perplexity"
PMI = "pmi"  # known under guidance only
LIKELIHOODS = (PERPLEXITY, PMI)


def known(guidance: float) -> tuple[str, ...]:
    """Those of LIKELIHOODS that decoding with this guidance gives."""
    return LIKELIHOODS if guidance != 1 else (PERPLEXITY,)


def likelihood(name: str, log_prob: ArrayLike, unconditional: ArrayLike | None) -> Array:
    """One of LIKELIHOODS, from mean log-probabilities in nats, of the same shape, with the text and
    without it; pmi needs both."""
    conditional = np.asarray(log_prob, dtype=np.float64)
    if name == PERPLEXITY:
        return np.exp(conditional)
    return conditional - np.asarray(unconditional, dtype=np.float64)


class VerifierError(RuntimeError):
    """Scores could not be had."""


class ExpressionError(ValueError):
    """A --verifier that cannot be understood; the message shows how to write one."""


@dataclass(frozen=True)
class ScoreInput:
    """A candidate, as verifiers see it.

    clip: None where no verifier of the run hears audio. log_prob: mean conditional log-probability
    over codebooks and finished frames, in nats; unconditional: the same without the text, None
    where decoding is not guided.
    """

    prompt: str
    clip: "Clip | None"
    log_prob: float
    unconditional: float | None = None


class Verifier(Protocol):
    """name: as the user wrote it. checkpoints: by component verifier."""

    name: str
    needs_audio: bool
    checkpoints: "dict[str, Checkpoint]"

    def score(self, inputs: Sequence[ScoreInput]) -> "list[Score | NoScore]":
        """One per input, in order. Raises VerifierError when the verifier itself fails."""

    def take_usage(self) -> "Ledger":
        """What `score` used since this was last called: bytes, and seconds by stage."""


def components(expression: str) -> dict[str, float]:
    """The parts of a --verifier with their weights.

    >>> components("0.7*tags + perplexity")
    {'tags': 0.7, 'perplexity': 1.0}
    Raises ExpressionError.
    """
    weights: dict[str, float] = {}
    for text in expression.split("+"):
        term = _TERM.fullmatch(text)
        if term is None:
            raise ExpressionError(
                f"{expression!r} is not a verifier or a sum of them; "
                "write tags, tags+perplexity or 0.7*tags+0.3*perplexity"
            )
        name = term["name"]
        if name in weights:
            raise ExpressionError(f"{expression!r} names {name} twice")
        with suppress(ValueError):
            weights[name] = float(term["weight"] or 1)
        if not 0 < weights.get(name, 0) < math.inf:
            raise ExpressionError(
                f"{expression!r}: the weight {term['weight']!r} is not a positive number"
            )
    return weights


def remote_parts(names: Iterable[str]) -> list[str]:
    """Those verifiers that the server has, each once."""
    return [name for name in dict.fromkeys(names) if name not in LIKELIHOODS]
