"""What the generator itself says of a clip: verifiers that cost nothing beyond decoding.

    perplexity   exp(mean log p(x|c)), the inverse perplexity, in (0, 1]: how likely the clip is
    pmi          mean of log p(x|c) - log p(x), in nats: how much likelier its text makes it

p(x|c) is the model's probability of a token given its past and the text, p(x) that without the
text; means are over codebooks and finished frames. Both come with the tokens: classifier-free
guidance computes the logits with and without the text anyway, so `pmi` is free under guidance and
unknown without it. (A pointwise mutual information per token; as an objective of decoding: Li et
al., arXiv 1510.03055.) No torch here.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

PERPLEXITY = "perplexity"
PMI = "pmi"


def known(guidance: float) -> tuple[str, ...]:
    """Those of LIKELIHOODS that decoding with this guidance gives."""
    return tuple(name for name in LIKELIHOODS if guidance != 1 or name not in NEEDS_GUIDANCE)


def inverse_perplexity(log_prob: ArrayLike, unconditional: ArrayLike | None) -> Array:  # noqa: ARG001
    """exp of the mean conditional log-probability."""
    return np.exp(np.asarray(log_prob, dtype=np.float64))


def mutual_information(log_prob: ArrayLike, unconditional: ArrayLike | None) -> Array:
    """The mean conditional log-probability less the unconditional one, which has to be known."""
    assert unconditional is not None
    return np.asarray(log_prob, dtype=np.float64) - np.asarray(unconditional, dtype=np.float64)


# name -> its value, from mean log-probabilities in nats (of the same shape) with and without text
LIKELIHOODS: dict[str, Callable[[ArrayLike, ArrayLike | None], Array]] = {
    PERPLEXITY: inverse_perplexity,
    PMI: mutual_information,
}
NEEDS_GUIDANCE = (PMI,)
# pmi is made of what perplexity is made of: neither says anything independent of the other
IN_COMMON = {name: tuple(LIKELIHOODS) for name in LIKELIHOODS}
