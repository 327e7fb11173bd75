"""Keyed sampling: known answers, the right distribution, nothing shared between candidates."""

import numpy as np
import pytest
import torch
from scipy import stats

from src.decoding.sampling import NoiseKey, Sampling, philox, sample, uniforms


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # Random123's kat_vectors for philox4x32 with 10 rounds
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers(counter, key, expected):
    assert philox(counter, key) == expected
    as_tensors = philox(
        tuple(torch.tensor([word]) for word in counter), tuple(torch.tensor([word]) for word in key)
    )
    assert tuple(int(word) for word in as_tensors) == expected


def test_noise_is_uniform_and_its_own():
    keys = [NoiseKey(seed, prompt, slot) for seed in (1, 2) for prompt in "ab" for slot in range(8)]
    noise = uniforms(keys, 500, 4)
    assert noise.shape == (32, 500, 4)
    assert 0 <= noise.min() < noise.max() < 1
    assert stats.kstest(noise.flatten().numpy(), "uniform").pvalue > 1e-3
    correlation = np.corrcoef(noise.flatten(1).numpy())
    assert np.abs(correlation - np.eye(32)).max() < 0.12  # 5 standard deviations of 2,000 numbers


def test_noise_does_not_depend_on_the_rest():
    keys = [NoiseKey(1, "a", slot) for slot in range(5)]
    assert torch.equal(uniforms(keys, 100, 4)[2:3, :30], uniforms(keys[2:3], 30, 4))


@pytest.mark.parametrize(("top_k", "temperature"), [(0, 1.0), (5, 1.0), (3, 0.7)])
def test_tokens_follow_the_distribution(top_k, temperature):
    logits = torch.tensor([1.0, 0.2, -1.0, 2.0, 0.5, -3.0, 1.5, 0.0])
    draws = 40_000
    noise = uniforms([NoiseKey(0, "x", 0)], draws, 1).flatten()
    tokens = sample(logits.expand(draws, -1), noise, Sampling(temperature, top_k))
    weights = torch.softmax(logits.double() / temperature, -1)
    if top_k:
        weights[logits < logits.topk(top_k).values.min()] = 0
    expected = (weights / weights.sum() * draws).numpy()
    counts = np.bincount(tokens.numpy(), minlength=8)
    assert (counts[expected == 0] == 0).all()
    kept = expected > 0
    assert (
        stats.chisquare(counts[kept], expected[kept] * counts.sum() / expected[kept].sum()).pvalue
        > 1e-3
    )


def test_ties_with_the_last_kept_token_are_kept():
    logits = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0]])
    noise = uniforms([NoiseKey(0, "x", 0)], 2000, 1).flatten()
    tokens = sample(logits.expand(2000, -1), noise, Sampling(top_k=2))
    assert set(tokens.tolist()) == {0, 1, 2, 3}


def test_the_ends_of_the_noise_never_pick_a_token_of_weight_zero():
    logits = torch.tensor([[-1e9, 0.0, -1e9, 0.0, -1e9]])
    for uniform in (0.0, 0.5, 1 - 2.0**-53):
        token = sample(logits, torch.tensor([uniform], dtype=torch.float64), Sampling(top_k=0))
        assert token.item() in (1, 3)


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"top_k": -1}])
def test_impossible_sampling_is_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        Sampling(**wrong)
