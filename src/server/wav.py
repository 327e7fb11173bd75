"""Uploaded WAVs: what they are refused for, and their samples.

A header is read and held against the limits and against the real number of bytes before a single
sample is decoded.
"""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
import soundfile

from src.data.audio import AudioError, Clip
from src.protocol import Limits

SUBTYPES = ("PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")
# Float samples far beyond full scale are integers that nobody scaled; verifiers would overflow.
MAX_PEAK = 100.0


def decode_wav(data: bytes, limits: Limits | None = None) -> Clip:
    """Decode uploaded WAV bytes (PCM of 16, 24 or 32 bits, float of 32 or 64).

    Container, length, rate, channels and subtype are checked before samples are decoded.
    Raises AudioError.
    """
    with _open_wav(io.BytesIO(data), limits or Limits()) as file:
        samples = file.read(dtype="float32", always_2d=True).T
        rate = file.samplerate
    if not np.isfinite(samples).all():
        raise AudioError("contains NaN or infinite samples")
    peak = float(np.abs(samples).max())
    if peak > MAX_PEAK:
        raise AudioError(f"peak {peak:g}; scale the samples to full scale = 1")
    return Clip(np.ascontiguousarray(samples), rate)


def wav_seconds(stream: BinaryIO, limits: Limits) -> float:
    """How long a WAV lasts, from its header; decodes nothing. Raises AudioError."""
    with _open_wav(stream, limits) as file:
        return float(file.frames / file.samplerate)


@contextmanager
def _open_wav(stream: BinaryIO, limits: Limits) -> Iterator[soundfile.SoundFile]:
    """A WAV whose header is within the limits and true to its length. Raises AudioError."""
    _check_chunks(stream)
    stream.seek(0)
    try:
        with soundfile.SoundFile(stream) as file:
            rate, channels = file.samplerate, file.channels
            if file.format not in ("WAV", "WAVEX") or file.subtype not in SUBTYPES:
                raise AudioError(
                    f"{file.format} {file.subtype} is not accepted; "
                    f"send a WAV of one of {', '.join(SUBTYPES)}"
                )
            if not limits.min_rate <= rate <= limits.max_rate:
                raise AudioError(
                    f"rate {rate} Hz is outside {limits.min_rate} to {limits.max_rate} Hz"
                )
            if channels > limits.max_channels:
                raise AudioError(f"{channels} channels; at most {limits.max_channels}")
            if file.frames <= 0:
                raise AudioError("has no samples")
            if file.frames > limits.max_seconds * rate:
                raise AudioError(
                    f"lasts {file.frames / rate:.1f} s; at most {limits.max_seconds:g} s"
                )
            yield file
    except soundfile.SoundFileError as error:
        raise AudioError(f"not a readable WAV ({error})") from error


def _check_chunks(stream: BinaryIO) -> None:
    """Raise AudioError for untrue sizes; libsndfile would shorten the data in silence."""
    length = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    header = stream.read(12)
    if len(header) < 12 or header[:4] != b"RIFF" or header[8:] != b"WAVE":
        raise AudioError("not a WAV file (no RIFF/WAVE header)")
    at = 12
    while at + 8 <= length:
        stream.seek(at)
        kind, size = struct.unpack("<4sI", stream.read(8))
        if at + 8 + size > length:
            raise AudioError(
                f"its {kind.decode('latin-1')!r} chunk claims {size} bytes, "
                f"{length - at - 8} are there (cut off, or a wrong header)"
            )
        if kind == b"data":
            return
        at += 8 + size + size % 2
    raise AudioError("has no 'data' chunk (cut off?)")
