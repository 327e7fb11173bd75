"""Audio clips: WAV bytes both ways, files, resampling and the checks that come before decoding.

A clip that reaches a verifier was uploaded by somebody: its header is read and held against the
limits and against the real number of bytes before a single sample is decoded. WAV bytes are
float32 and depend on nothing but the samples (libsndfile would write the time into a PEAK chunk).
"""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from src.data.files import write_whole

_FLOAT_FORMAT = 3
_SUBTYPES = ("PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")


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


@dataclass(frozen=True)
class AudioLimits:
    """What `decode_wav` accepts."""

    max_seconds: float = 60.0
    min_rate: int = 8_000
    max_rate: int = 192_000
    max_channels: int = 2
    # Float samples far beyond full scale are integers that nobody scaled; verifiers would overflow.
    max_peak: float = 100.0


def encode_wav(clip: Clip) -> bytes:
    """The clip as a float32 WAV file; the same samples give the same bytes, always."""
    channels, samples = clip.samples.shape
    data = np.ascontiguousarray(clip.samples.T, dtype="<f4").tobytes()
    frame = 4 * channels
    # "fact" (number of frames) is required by the specification for every format but PCM.
    chunks = struct.pack(
        "<4sIHHIIHHH4sII4sI",
        *(b"fmt ", 18, _FLOAT_FORMAT, channels, clip.rate, clip.rate * frame, frame, 32, 0),
        *(b"fact", 4, samples),
        *(b"data", len(data)),
    )
    return struct.pack("<4sI4s", b"RIFF", 4 + len(chunks) + len(data), b"WAVE") + chunks + data


def decode_wav(data: bytes, limits: AudioLimits | None = None, name: str = "the WAV") -> Clip:
    """Decode uploaded WAV bytes (PCM of 16, 24 or 32 bits, float of 32 or 64).

    Container, length, rate, channels and subtype are checked before samples are decoded.
    Raises AudioError, which calls the file `name`.
    """
    limits = limits or AudioLimits()
    with _open_wav(io.BytesIO(data), limits, name) as file:
        samples = file.read(dtype="float32", always_2d=True).T
        rate, frames = file.samplerate, file.frames
    if samples.shape[1] != frames:
        raise AudioError(f"{name}: {samples.shape[1]} of {frames} frames are there")
    if not np.isfinite(samples).all():
        raise AudioError(f"{name}: contains NaN or infinite samples")
    peak = float(np.abs(samples).max())
    if peak > limits.max_peak:
        raise AudioError(f"{name}: peak {peak:g}; scale the samples to full scale = 1")
    return Clip(np.ascontiguousarray(samples), rate)


def wav_seconds(stream: BinaryIO, limits: AudioLimits, name: str) -> float:
    """How long a WAV lasts, from its header; decodes nothing. Raises AudioError."""
    with _open_wav(stream, limits, name) as file:
        return float(file.frames / file.samplerate)


@contextmanager
def _open_wav(stream: BinaryIO, limits: AudioLimits, name: str) -> Iterator[soundfile.SoundFile]:
    """A WAV whose header is within the limits and true to its length. Raises AudioError."""
    data_bytes = _data_chunk_bytes(stream, name)
    stream.seek(0)
    try:
        with soundfile.SoundFile(stream) as file:
            rate, channels = file.samplerate, file.channels
            if file.format not in ("WAV", "WAVEX") or file.subtype not in _SUBTYPES:
                raise AudioError(
                    f"{name}: {file.format} {file.subtype} is not accepted; "
                    f"send a WAV of one of {', '.join(_SUBTYPES)}"
                )
            if not limits.min_rate <= rate <= limits.max_rate:
                raise AudioError(
                    f"{name}: rate {rate} Hz is outside {limits.min_rate} to {limits.max_rate} Hz"
                )
            if not 1 <= channels <= limits.max_channels:
                raise AudioError(f"{name}: {channels} channels; at most {limits.max_channels}")
            if file.frames <= 0 or data_bytes == 0:
                raise AudioError(f"{name}: has no samples")
            if file.frames > limits.max_seconds * rate:
                raise AudioError(
                    f"{name}: lasts {file.frames / rate:.1f} s; at most {limits.max_seconds:g} s"
                )
            yield file
    except soundfile.SoundFileError as error:
        raise AudioError(f"{name}: not a readable WAV ({error})") from error


def _data_chunk_bytes(stream: BinaryIO, name: str) -> int:
    """Length of the data chunk in bytes; libsndfile would shorten a lying one in silence."""
    length = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    header = stream.read(12)
    if len(header) < 12 or header[:4] != b"RIFF" or header[8:] != b"WAVE":
        raise AudioError(f"{name}: not a WAV file (no RIFF/WAVE header)")
    at, has_format = 12, False
    while at + 8 <= length:
        stream.seek(at)
        kind, size = struct.unpack("<4sI", stream.read(8))
        if at + 8 + size > length:
            raise AudioError(
                f"{name}: its {kind.decode('latin-1')!r} chunk claims {size} bytes, "
                f"{length - at - 8} are there (cut off, or a wrong header)"
            )
        if kind == b"data":
            if not has_format:
                raise AudioError(f"{name}: no 'fmt ' chunk before its data")
            return int(size)
        has_format |= kind == b"fmt "
        at += 8 + size + size % 2
    raise AudioError(f"{name}: has no 'data' chunk (cut off?)")


def read_audio(path: str | Path) -> Clip:
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
    if clip.channels == 1:
        return clip
    return Clip(clip.samples.mean(axis=0, keepdims=True, dtype=np.float32), clip.rate)
