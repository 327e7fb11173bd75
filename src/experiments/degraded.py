"""Copies of a clip that are worse in one known way: does a measure prefer the clip itself?

Whatever is random is drawn from one seed, alike for all clips.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import soxr
from scipy.signal import butter, sosfiltfilt

from src.data.audio import Clip
from src.decoding.renderer import Renderer

SEED = 0
SEMITONE = 2 ** (1 / 12)
ORDER = 8  # of the lowpass, a Butterworth filter that runs forwards and backwards


def noisy(clip: Clip, snr: float) -> Clip:
    """White Gaussian noise added, `snr` dB below the clip's own level."""
    noise = np.random.default_rng(SEED).standard_normal(clip.samples.shape)
    level = np.sqrt(np.mean(clip.samples.astype(np.float64) ** 2) / np.mean(noise**2))
    return Clip((clip.samples + noise * level * 10 ** (-snr / 20)).astype(np.float32), clip.rate)


def lowpassed(clip: Clip, hertz: float) -> Clip:
    """Without what is above `hertz`."""
    sections = butter(ORDER, hertz, fs=clip.rate, output="sos")
    return Clip(sosfiltfilt(sections, clip.samples).astype(np.float32), clip.rate)


def shuffled(clip: Clip, seconds: float) -> Clip:
    """Its segments of so many seconds in another order; a shorter rest stays at the end."""
    size = round(seconds * clip.rate)
    count = clip.samples.shape[1] // size
    segments = np.split(clip.samples, [size * (i + 1) for i in range(count)], axis=1)
    order = np.random.default_rng(SEED).permutation(count)
    return Clip(np.hstack([*(segments[i] for i in order), segments[-1]]), clip.rate)


def reversed_clip(clip: Clip) -> Clip:
    return Clip(np.ascontiguousarray(clip.samples[:, ::-1]), clip.rate)


def faster(clip: Clip, factor: float) -> Clip:
    """Played that much faster: higher by the same factor, and shorter."""
    samples = soxr.resample(clip.samples.T, factor, 1.0).T
    return Clip(np.ascontiguousarray(samples, dtype=np.float32), clip.rate)


def through_codec(clip: Clip, renderer: Renderer, books: int | None = None) -> Clip:
    """Encoded and rendered again, from the first `books` codebooks (None: all)."""
    (found,) = renderer.render(renderer.encode(clip)[None, :books])
    return Clip(np.ascontiguousarray(found.samples[:, : clip.samples.shape[1]]), found.rate)


DEGRADATIONS: dict[str, Callable[[Clip], Clip]] = {
    **{f"noise {snr} dB": partial(noisy, snr=snr) for snr in (20, 10, 0)},
    **{f"lowpass {khz} kHz": partial(lowpassed, hertz=1000 * khz) for khz in (2, 1)},
    **{f"shuffled {part} s": partial(shuffled, seconds=part) for part in (0.5, 0.1)},
    "reversed": reversed_clip,
    "semitone up": partial(faster, factor=SEMITONE),
}


def degraded(clip: Clip, renderer: Renderer) -> dict[str, Clip]:
    """A clip of the codec's rate and channels, degraded in every way, by name.

    audiocraft's codec of two channels renders from all its codebooks only.
    """
    copies = {name: degrade(clip) for name, degrade in DEGRADATIONS.items()}
    copies["codec"] = through_codec(clip, renderer)
    if renderer.channels == 1:
        copies["codec, 1 book"] = through_codec(clip, renderer, 1)
    return copies
