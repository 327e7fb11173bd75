"""What half precision does to the built-in model's log-probabilities."""

from __future__ import annotations

import torch

from perf.gpu_check.models import (
    SEED,
    Outcome,
    half_dtypes,
    make_decoder,
    short,
    sources,
)
from perf.gpu_check.report import Check
from perf.stub_lm import Shape, StubLM

# Of a token, in nats: the mean, and for one pass against step by step in float32 the largest. On a
# CPU bfloat16 is 0.014 off; float16 has three bits more.
MEAN_ALLOWED = {torch.float16: 0.005, torch.bfloat16: 0.04}
ORDER_ALLOWED = 5e-4


def builtin_lm() -> StubLM:
    """The built-in model's weights, float32, without its text encoder."""
    from src.decoding.builtin import LM_WEIGHTS, load_config, load_weights

    config = load_config()["lm"]
    shape = Shape(
        layers=config["num_layers"],
        dim=config["dim"],
        heads=config["num_heads"],
        card=config["card"],
        codebooks=config["codebooks"],
        hidden_scale=config["hidden_scale"],
    )
    lm = StubLM(shape)
    weights = load_weights(LM_WEIGHTS)
    lm.load_state_dict({k: w for k, w in weights.items() if not k.startswith("condition_provider")})
    return lm.eval().requires_grad_(False)


def precision(check: Check) -> None:
    """Of the tokens that float32 samples: each dtype's log-probabilities beside float32's."""
    try:
        lm = builtin_lm().to(check.device)
    except ImportError as error:
        check.skip("the built-in model", f"needs {error.name}")
        return
    candidates, frames = check.scale.builtin
    if check.late("the built-in model"):
        return
    texts, keys = sources(lm.dim, 20, 27), ["a", "b"]
    decoding = make_decoder(lm).begin(texts, candidates, frames, keys, SEED)
    decoding.advance(frames)
    sampled = Outcome.of(decoding)

    def given(dtype: torch.dtype) -> torch.Tensor:
        """Log-probabilities of the sampled tokens, in one pass over all."""
        decoder = make_decoder(lm, dtype=dtype)
        # one frame more: a decoding has frames to come
        begun = decoder.begin(texts, candidates, frames + 1, keys, SEED, sampled.tokens)
        return Outcome.of(begun).log_probs

    reference = given(torch.float32)
    # in one pass the last tokens of a delayed codebook are not predicted
    known = slice(0, frames - lm.n_q + 1)
    apart = (reference - sampled.log_probs)[..., known].abs()
    check.say(
        "float32, one pass against step by step",
        passed=apart.max().item() <= ORDER_ALLOWED,
        mean_error=apart.mean().item(),
        max_error=apart.max().item(),
        mean_log_prob=reference[..., known].mean().item(),
    )
    for dtype in half_dtypes(check.device):
        apart = (given(dtype) - reference)[..., known].abs()
        check.say(
            f"{short(dtype)} against float32",
            passed=apart.mean().item() <= MEAN_ALLOWED[dtype],
            mean_error=apart.mean().item(),
            max_error=apart.max().item(),
            mean_log_prob=reference[..., known].mean().item(),
        )
