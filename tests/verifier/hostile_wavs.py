"""WAV files gone wrong in every way that hypothesis finds, and what counts as a clean answer.

Files are made from small drawn numbers, not from drawn bytes, so that thousands of them take
seconds and a failing one shrinks to a readable recipe.
"""

import io
import json
import math
import re
import struct
from collections.abc import Callable
from functools import cache

import numpy as np
import requests
import soundfile
from hypothesis import strategies as st

SUBTYPES = ["PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"] * 3
SUBTYPES += ["PCM_U8", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610", "G721_32"]
FORMATS = ["WAV", "WAVEX", "RF64", "W64", "AIFF", "FLAC", "OGG", "CAF", "AU"]
CHUNKS = [b"fmt ", b"data", b"fact", b"LIST", b"PEAK", b"bext", b"ds64", b"cart", b"RIFF", b"JUNK"]
NUMBERS = [0, 1, 2, 3, 7, 8, 16, 0x7F, 0xFF, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0x10000]
NUMBERS += [0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF]
# Where a plain WAV's header keeps what: sizes, format, channels, rate, bytes a second, bits.
FIELDS = [4, 16, 20, 22, 24, 28, 32, 34, 36, 40, 44, 46, 54]
RATES = [16_000, 44_100, 48_000, 8_000, 32_000, 192_000, 1, 4_000, 400_000]

Change = Callable[[bytes], bytes]


@cache
def encoded(kind: str, subtype: str, rate: int, channels: int, frames: int) -> bytes:
    """A file that libsndfile wrote, or plain float32 where it cannot write such a file."""
    samples = 0.5 * np.sin(np.arange(frames * channels).reshape(frames, channels) / 7)
    file = io.BytesIO()
    try:
        soundfile.write(file, samples, rate, subtype, format=kind)
    except (soundfile.SoundFileError, ValueError):
        file = io.BytesIO()
        soundfile.write(file, samples, rate, "FLOAT", format="WAV")
    return file.getvalue()


def _overwrite(at: int, value: int, width: int) -> Change:
    def change(data: bytes) -> bytes:
        place = at % max(1, len(data))
        new = struct.pack("<Q", value)[:width]
        return (data[:place] + new + data[place + width :])[: max(len(data), place + width)]

    return change


def _resize_chunk(index: int, size: int) -> Change:
    """Give the chunk at this position a size that is not true."""

    def change(data: bytes) -> bytes:
        places = [m.start() for kind in CHUNKS for m in re.finditer(re.escape(kind), data)]
        if not places:
            return data
        place = places[index % len(places)] + 4
        return data[:place] + struct.pack("<I", size) + data[place + 4 :]

    return change


def _insert_chunk(at: int, kind: bytes, size: int, real: int) -> Change:
    chunk = kind + struct.pack("<I", size) + b"\x01" * real

    def change(data: bytes) -> bytes:
        place = [12, 36, len(data)][at % 3]
        return data[:place] + chunk + data[place:]

    return change


def _cut(start: int, length: int) -> Change:
    return lambda data: data[: start % (len(data) + 1)] + data[start % (len(data) + 1) + length :]


def _noise(seed: int, share: float) -> Change:
    """Replace a share of all bytes by random ones."""

    def change(data: bytes) -> bytes:
        rng = np.random.default_rng(seed)
        array = np.frombuffer(data, np.uint8).copy()
        hit = rng.random(len(array)) < share
        array[hit] = rng.integers(0, 256, int(hit.sum()))
        return array.tobytes()

    return change


def _samples(value: int) -> Change:
    """Fill what follows the header with one 32-bit pattern: NaN, infinities, huge numbers."""
    return lambda data: data[:64] + struct.pack("<I", value) * (max(0, len(data) - 64) // 4)


_places = st.one_of(st.sampled_from(FIELDS), st.integers(12, 4_000))
_numbers = st.one_of(st.sampled_from(NUMBERS), st.integers(0, 2**32 - 1))
_changes = st.one_of(
    st.builds(_overwrite, _places, _numbers, st.sampled_from([1, 2, 4, 8])),
    st.builds(_overwrite, st.sampled_from([20, 22, 32, 34]), _numbers, st.just(2)),
    st.builds(_overwrite, st.sampled_from([24, 28]), st.sampled_from(RATES), st.just(4)),
    st.builds(_resize_chunk, st.integers(0, 9), _numbers),
    st.builds(_insert_chunk, st.integers(0, 2), st.sampled_from(CHUNKS), _numbers, st.just(8)),
    st.builds(_insert_chunk, st.integers(0, 2), st.sampled_from(CHUNKS), st.just(40), st.just(40)),
    st.builds(_cut, st.integers(12, 4_000), st.sampled_from([1, 2, 7, 44, 1_000, 10**6])),
    st.builds(_noise, st.integers(0, 2**32 - 1), st.sampled_from([0.0005, 0.005, 0.05])),
    st.builds(_samples, st.sampled_from([0x7FC00000, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 1, 0])),
)
_files = st.builds(
    encoded,
    st.sampled_from([*["WAV"] * 40, *["WAVEX"] * 8, *FORMATS]),
    st.sampled_from(SUBTYPES),
    st.sampled_from(RATES),
    st.sampled_from([1, 1, 1, 2, 2, 3, 8]),
    st.sampled_from([1_000, 100, 1_000, 100, 2, 1, 0]),
)


def _apply(data: bytes, changes: list[Change]) -> bytes:
    for change in changes:
        data = change(data)
    return data


_mutated = st.builds(_apply, _files, st.lists(_changes, max_size=3))
_beyond_recognition = st.builds(
    _apply,
    st.one_of(st.binary(max_size=40), st.sampled_from([b"RIFF", b"RIFF\0\0\0\0WAVE", b"\0" * 500])),
    st.lists(_changes, max_size=2),
)
hostile_wavs: st.SearchStrategy[bytes] = st.integers(0, 19).flatmap(
    lambda draw: _beyond_recognition if draw == 19 else _mutated
)


def send(session: requests.Session, url: str, data: bytes) -> requests.Response:
    asked = {"verifiers": ["fake"], "prompts": ["any"]}
    files = {"files": ("hostile.wav", data, "audio/wav")}
    return session.post(
        url + "/score", data={"request": json.dumps(asked)}, files=files, timeout=20
    )


def clean_answer(response: requests.Response) -> str:
    """What the server made of a file, in words. Raises AssertionError for an unclean answer."""
    body = response.json()
    assert body["request_id"] == response.headers["X-Request-ID"]
    if response.status_code == 200:
        (score,) = body["results"]["fake"]["scores"]
        assert math.isfinite(score["value"]), body
        return "200 scored"
    assert response.status_code == 422, f"{response.status_code} {response.text}"
    assert body["error"] == "bad_audio", body
    assert body["index"] == 0, body
    start = "file 0 (hostile.wav): "
    assert body["message"].startswith(start), body
    return f"422 {kind_of(body['message'].removeprefix(start))}"


def kind_of(message: str) -> str:
    """A refusal's message without what is particular to its file."""
    message = re.sub(r"not a readable WAV .*", "not a readable WAV (libsndfile's reason)", message)
    message = re.sub(r"its '.*' chunk claims", "its chunk claims", message)
    message = re.sub(r"^[A-Z0-9]+ [A-Z0-9_]+ is not accepted.*", "format is not accepted", message)
    return re.sub(r"[+-]?\d[\d.e+-]*", "#", message)
