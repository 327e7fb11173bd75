"""Clips for the tests of verifiers: float32 [T], mono."""

import numpy as np

from src.models.adapter import Adapter


def tones(seconds: float, seed: int, rate: int) -> np.ndarray:
    """A few decaying tones."""
    time = np.arange(round(seconds * rate)) / rate
    tones = sum(
        np.sin(2 * np.pi * f * time) for f in np.random.default_rng(seed).uniform(99, 4e3, 4)
    )
    return (0.1 * tones * np.exp(-(time % 0.5) * 6)).astype(np.float32)


def noisy_tones(seconds: float, seed: int, rate: int) -> np.ndarray:
    """A tone that changes every half second, over noise."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    pitch = random.uniform(100, 2000, len(time) // (rate // 2) + 1)[(time * 2).astype(int)]
    noise = random.standard_normal(len(time))
    return (0.3 * np.sin(2 * np.pi * pitch * time) + 0.03 * noise).astype(np.float32)


def sweep(seconds: float, rate: int, pitch: float = 440) -> np.ndarray:
    """A tone that rises, the same at every rate."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * pitch * time * (1 + 0.2 * time))).astype(np.float32)


def score(verifier: Adapter, clip: np.ndarray, prompt: str = "a slow piano piece") -> float:
    """One clip's score."""
    return verifier.score([clip], [prompt])[0].value
