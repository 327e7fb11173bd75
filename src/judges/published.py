"""Clips made ready as audiocraft does for MusicGen's published figures."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from src.data.audio import Clip
from src.judges.base import JudgeError
from src.models.adapter import must_be_finite, undisturbed

if TYPE_CHECKING:
    from torch import Tensor

HEADROOM = 14.0  # dB below full scale, LKFS by ITU-R BS.1770-4
# audiocraft's resampler holds a filter for each phase: gigabytes for rates with no common factor.
LARGEST_FILTERS = 2**26  # numbers


def audiocrafts(module: str) -> Any:
    """audiocraft's module of that name, which is imported without laion_clap."""
    from src.generator import audiocraft_without_clap

    with audiocraft_without_clap():
        return import_module(f"audiocraft.{module}")


def at_published_loudness(clip: Clip) -> Clip:
    """The clip at -14 LKFS, cut off at full scale, as audiocraft evaluates it.

    What is quieter than an RMS of 0.002 stays as it is, silence with it. Raises ScoreError for
    samples that are not finite and JudgeError for a clip whose loudness has no value: one under
    0.4 s, or one that moves only below what is heard.
    """
    import torch

    normalize_audio = audiocrafts("data.audio_utils").normalize_audio
    must_be_finite(clip.samples.ravel())
    samples = torch.from_numpy(clip.samples.copy())  # it cuts off in place
    try:
        with computing_as_published("cpu"):
            samples = normalize_audio(
                samples, strategy="loudness", sample_rate=clip.rate, loudness_headroom_db=HEADROOM
            )
    except (AssertionError, RuntimeError, ValueError) as error:
        raise JudgeError(
            f"its loudness cannot be measured ({clip.seconds:.2f} s, {clip.channels} channels): "
            "it takes 0.4 s of audible sound and at most 5 channels"
        ) from error
    return Clip(samples.numpy(), clip.rate)


def at_rate(clip: Clip, rate: int) -> "Tensor":
    """The clip as audiocraft converts it: float32 [T] at `rate` Hz, resampled, then mixed to mono.

    Raises ScoreError for samples that are not finite, JudgeError for rates that it cannot resample.
    """
    import torch

    convert_audio = audiocrafts("data.audio_utils").convert_audio
    must_be_finite(clip.samples.ravel())
    common = math.gcd(clip.rate, rate)
    if (clip.rate // common) * (rate // common) > LARGEST_FILTERS:
        raise JudgeError(f"its rate of {clip.rate} Hz does not fit: resample it to {rate} Hz")
    samples = torch.from_numpy(clip.samples)
    with computing_as_published("cpu"):
        converted = convert_audio(samples, from_rate=clip.rate, to_rate=rate, to_channels=1)[0]
    if not converted.numel():
        raise JudgeError(f"{clip.samples.shape[1]} samples are nothing at {rate} Hz")
    return converted


@contextmanager
def computing_as_published(device: str) -> Iterator[None]:
    """Without gradients, in float32, whatever the defaults are; leaving the random states alone.

    PaSST warns of every clip that is not 20 s long, and of its own use of torch: not here.
    """
    import torch

    kind = torch.device(device).type
    with torch.inference_mode(), torch.autocast(kind, enabled=False), undisturbed():
        yield
