"""Uploaded WAVs: what they are refused for, and their samples.

A header is read here and held against the limits and against the real number of bytes before a
single sample is decoded; libsndfile is given nothing but samples. Sources: "Multimedia Programming
Interface and Data Specifications 1.0" (IBM, Microsoft 1991) for RIFF; EBU Tech 3306 for RF64.
"""

import io
import string
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import soundfile

from src.data.audio import AudioError, Clip
from src.protocol import Limits

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
# By format and bits of a sample, in libsndfile's words.
SUBTYPES = {
    (PCM, 16): "PCM_16",
    (PCM, 24): "PCM_24",
    (PCM, 32): "PCM_32",
    (FLOAT, 32): "FLOAT",
    (FLOAT, 64): "DOUBLE",
}
# Float samples far beyond full scale are integers that nobody scaled; verifiers would overflow.
MAX_PEAK = 100.0
MAX_CHUNKS = 256  # recorders write a few, an attack millions
# Whoever writes to a pipe cannot know the length: ffmpeg writes 0xFFFFFFFF (or 0), sox 0x7FFFF000,
# arecord 0x80000000.
UNKNOWN_SIZE = 0x7FFF0000  # and more
CONVERT = "convert it: ffmpeg -i FILE -c:a pcm_f32le NEW.wav"
CHUNK_LETTERS = frozenset((string.ascii_letters + string.digits + " _").encode())


@dataclass(frozen=True)
class Header:
    """What a WAV holds, and at which bytes: `size` of them from `start` on are its samples."""

    rate: int
    channels: int
    subtype: str
    frames: int
    start: int
    size: int


def decode_wav(data: bytes, limits: Limits | None = None) -> Clip:
    """Decode uploaded WAV bytes (PCM of 16, 24 or 32 bits, float of 32 or 64).

    Container, length, rate, channels and subtype are checked before samples are decoded.
    Raises AudioError.
    """
    header = read_header(io.BytesIO(data), limits or Limits())
    samples, rate = soundfile.read(
        io.BytesIO(data[header.start : header.start + header.size]),
        dtype="float32",
        always_2d=True,
        samplerate=header.rate,
        channels=header.channels,
        format="RAW",
        subtype=header.subtype,
        endian="LITTLE",
    )
    if not np.isfinite(samples).all():
        raise AudioError("contains NaN or infinite samples")
    peak = float(np.abs(samples).max())
    if peak > MAX_PEAK:
        raise AudioError(f"peak {peak:g}; scale the samples to full scale = 1")
    return Clip(np.ascontiguousarray(samples.T), rate)


def wav_seconds(stream: BinaryIO, limits: Limits) -> float:
    """How long a WAV lasts, from its header; decodes nothing. Raises AudioError."""
    header = read_header(stream, limits)
    return header.frames / header.rate


def read_header(stream: BinaryIO, limits: Limits) -> Header:
    """A header that is within the limits and true to the file's length. Raises AudioError.

    Where a size says that its writer did not know it, the samples go on to the file's end.
    """
    fmt, start, size = _find_samples(stream)
    if len(fmt) < 16:
        raise AudioError("has no 'fmt ' chunk of 16 bytes before its samples")
    kind, channels, rate, _, frame_bytes, bits = struct.unpack("<HHIIHH", fmt[:16])
    if kind == EXTENSIBLE and len(fmt) >= 26:
        kind = struct.unpack_from("<H", fmt, 24)[0]  # the sub-format's identifier begins with it
    subtype = SUBTYPES.get((kind, bits))
    if subtype is None:
        raise AudioError(
            f"a WAV of format {kind} with {bits} bits is not accepted, only "
            f"{', '.join(SUBTYPES.values())}; {CONVERT}"
        )
    if not limits.min_rate <= rate <= limits.max_rate:
        raise AudioError(f"rate {rate} Hz is outside {limits.min_rate} to {limits.max_rate} Hz")
    if not 1 <= channels <= limits.max_channels:
        raise AudioError(f"{channels} channels; 1 to {limits.max_channels}")
    if frame_bytes != channels * bits // 8:
        raise AudioError(f"{frame_bytes} bytes a frame are not {channels} samples of {bits} bits")
    frames = size // frame_bytes
    if frames == 0:
        raise AudioError("has no samples")
    if frames > limits.max_seconds * rate:
        raise AudioError(f"lasts {frames / rate:.1f} s; at most {limits.max_seconds:g} s")
    return Header(rate, channels, subtype, frames, start, frames * frame_bytes)


def _find_samples(stream: BinaryIO) -> tuple[bytes, int, int]:
    """The beginning of the 'fmt ' chunk, and at which byte the samples begin, and how many bytes
    they are. Raises AudioError."""
    length = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    head = stream.read(12)
    if head[:4] not in (b"RIFF", b"RF64", b"BW64") or head[8:] != b"WAVE":
        raise AudioError(f"not a WAV file (no RIFF/WAVE header); {CONVERT}")
    fmt, long_size = b"", 0
    for kind, start, size in _chunks(stream, 12, length):
        left = length - start
        if kind == b"data":
            if size == 0xFFFFFFFF and long_size:
                size = long_size
            if size >= UNKNOWN_SIZE or (size == 0 and not _is_chunks(stream, start, length)):
                size = left
        if size > left:
            raise AudioError(
                f"its {kind.decode('latin-1')!r} chunk claims {size} bytes, "
                f"{left} are there (cut off, or a wrong header)"
            )
        if kind == b"data":
            return fmt, start, size
        stream.seek(start)
        if kind == b"fmt ":
            fmt = fmt or stream.read(min(size, 40))
        elif kind == b"ds64" and size >= 16:
            long_size = struct.unpack("<8xQ", stream.read(16))[0]
    raise AudioError("has no 'data' chunk (cut off?)")


def _chunks(stream: BinaryIO, at: int, length: int) -> Iterator[tuple[bytes, int, int]]:
    """Each chunk's name, the byte at which its content begins, and the size that it claims.

    Raises AudioError when there are too many.
    """
    for _ in range(MAX_CHUNKS):
        if at + 8 > length:
            return
        stream.seek(at)
        kind, size = struct.unpack("<4sI", stream.read(8))
        yield kind, at + 8, size
        at += 8 + size + size % 2
    raise AudioError(f"has {MAX_CHUNKS} chunks or more; {CONVERT}")


def _is_chunks(stream: BinaryIO, at: int, length: int) -> bool:
    """Whether there is nothing from byte `at` on but chunks: then no samples are meant."""
    for kind, start, size in _chunks(stream, at, length):
        if not CHUNK_LETTERS.issuperset(kind):
            return False
        at = start + size
    return at in (length, length - 1)  # a chunk of odd size is filled up with a byte
