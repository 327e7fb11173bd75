"""Audio clips: files, float32 WAV bytes, resampling. Uploads are decoded by src/server/wav.py."""

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from src.data.files import write_whole

# dB relative to full scale: below it a clip is called silent, as by ffmpeg's silencedetect.
SILENT = -60.0


class AudioError(ValueError):
    """Audio that cannot be used; the message says which file and why."""


@dataclass(frozen=True, eq=False)  # a clip equals itself alone, so that it can be a key
class Clip:
    """One piece of audio: `samples` float32 [channels, T] at `rate` Hz, full scale = 1."""

    samples: np.ndarray
    rate: int

    def __post_init__(self) -> None:
        if self.samples.ndim != 2 or self.samples.dtype != np.float32:
            raise AudioError(
                f"a clip is float32 [channels, T], not {self.samples.dtype} {self.samples.shape}"
            )

    @property
    def channels(self) -> int:
        return int(self.samples.shape[0])

    @property
    def seconds(self) -> float:
        return float(self.samples.shape[1] / self.rate)

    def first(self, seconds: float) -> "Clip":
        """Its first seconds; itself where it is no longer."""
        end = round(seconds * self.rate)
        return Clip(self.samples[:, :end], self.rate) if end < self.samples.shape[1] else self

    @property
    def level(self) -> float:
        """The samples' root mean square in dB relative to full scale; -inf where all are zero."""
        power = float(np.mean(np.square(self.samples, dtype=np.float64)))
        return 10 * math.log10(power) if power else -math.inf


def encode_wav(clip: Clip) -> bytes:
    """The clip as a float32 WAV file; the same samples give the same bytes, always.

    Not so by libsndfile, which writes the time into a PEAK chunk.
    """
    from scipy.io import wavfile  # the downloader's environment has none

    buffer = io.BytesIO()
    wavfile.write(buffer, clip.rate, clip.samples.T)
    return buffer.getvalue()


def read_audio(path: str | Path | BinaryIO) -> Clip:
    """Read any file that libsndfile knows (WAV, FLAC, Ogg Opus, ...). Raises AudioError."""
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(f"{path}: cannot be read ({error})") from error
    if not samples.size:
        raise AudioError(f"{path}: has no samples")
    return Clip(np.ascontiguousarray(samples.T), rate)


def write_wav(path: str | Path, clip: Clip) -> None:
    """Write a float32 WAV whole or not at all."""
    write_whole(Path(path), encode_wav(clip))


def resample(clip: Clip, rate: int) -> Clip:
    """The clip at `rate` Hz (soxr, high quality); itself when it has that rate already."""
    if clip.rate == rate:
        return clip
    samples = soxr.resample(clip.samples.T, clip.rate, rate)
    return Clip(np.ascontiguousarray(samples.T, dtype=np.float32), rate)


def to_mono(clip: Clip) -> Clip:
    """The mean of the channels."""
    return Clip(clip.samples.mean(axis=0, keepdims=True, dtype=np.float32), clip.rate)
