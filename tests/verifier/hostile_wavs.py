"""WAV files gone wrong in every way that hypothesis finds, and what counts as a clean answer.

Files are made from small drawn numbers, not from drawn bytes, so that thousands of them take
seconds and a failing one shrinks to a readable recipe.
"""

import io
import json
import math
import re
import struct
from collections import Counter
from collections.abc import Callable
from functools import cache

import numpy as np
import requests
import soundfile
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.verifier.server_process import ServerProcess

SUBTYPES = ["PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"] * 3
SUBTYPES += ["PCM_U8", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610", "G721_32"]
FORMATS = ["WAV", "WAVEX", "RF64", "W64", "AIFF", "FLAC", "OGG", "CAF", "AU"]
CHUNKS = [b"fmt ", b"data", b"fact", b"LIST", b"PEAK", b"bext", b"ds64", b"cart", b"RIFF", b"JUNK"]
NUMBERS = [0, 1, 2, 3, 7, 8, 16, 0x7F, 0xFF, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0x10000]
NUMBERS += [0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF]
UNKNOWN = [0, 36, 0x7FFFF000, 0x7FFFF024, 0x80000000, 0x80000024, 0xFFFFFFFF]
# Where a plain WAV's header keeps what: sizes, format, channels, rate, bytes a second, bits.
FIELDS = [4, 16, 20, 22, 24, 28, 32, 34, 36, 40, 44, 46, 54]
RATES = [16_000, 44_100, 48_000, 8_000, 32_000, 192_000, 1, 4_000, 400_000]


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


def _overwrite(data: bytes, at: int, value: int, width: int) -> bytes:
    place = at % max(1, len(data))
    new = struct.pack("<Q", value)[:width]
    return (data[:place] + new + data[place + width :])[: max(len(data), place + width)]


def _resize_chunk(data: bytes, index: int, size: int) -> bytes:
    """Give the chunk at this position a size that is not true."""
    places = [m.start() for kind in CHUNKS for m in re.finditer(re.escape(kind), data)]
    return _overwrite(data, places[index % len(places)] + 4, size, 4) if places else data


def _insert_chunk(data: bytes, at: int, kind: bytes, size: int, real: int) -> bytes:
    place = [12, 36, len(data)][at % 3]
    return data[:place] + kind + struct.pack("<I", size) + b"\x01" * real + data[place:]


def _piped(data: bytes, riff: int, size: int) -> bytes:
    """Sizes as programs write them that cannot know them."""
    place = data.find(b"data")
    return _overwrite(_overwrite(data, 4, riff, 4), place + 4, size, 4) if place > 0 else data


def _empty_chunks(data: bytes, at: int, number: int) -> bytes:
    place = [12, 36, len(data)][at % 3]
    return data[:place] + b"junk\0\0\0\0" * number + data[place:]


def _cut(data: bytes, start: int, length: int) -> bytes:
    start %= len(data) + 1
    return data[:start] + data[start + length :]


def _noise(data: bytes, seed: int, share: float) -> bytes:
    """Replace a share of all bytes by random ones."""
    rng = np.random.default_rng(seed)
    array = np.frombuffer(data, np.uint8).copy()
    hit = rng.random(len(array)) < share
    array[hit] = rng.integers(0, 256, int(hit.sum()))
    return array.tobytes()


def _samples(data: bytes, value: int) -> bytes:
    """Fill what follows the header with one 32-bit pattern: NaN, infinities, huge numbers."""
    return data[:64] + struct.pack("<I", value) * (max(0, len(data) - 64) // 4)


def _change(function: Callable[..., bytes], *arguments: st.SearchStrategy) -> st.SearchStrategy:
    return st.tuples(st.just(function), *arguments)


_pick = st.sampled_from
_places = st.one_of(_pick(FIELDS), st.integers(12, 4_000))
_numbers = st.one_of(_pick(NUMBERS), st.integers(0, 2**32 - 1))
_changes = st.one_of(
    _change(_overwrite, _places, _numbers, _pick([1, 2, 4, 8])),
    _change(_overwrite, _pick([20, 22, 32, 34]), _numbers, st.just(2)),
    _change(_overwrite, _pick([24, 28]), _pick(RATES), st.just(4)),
    _change(_resize_chunk, st.integers(0, 9), _numbers),
    _change(_insert_chunk, st.integers(0, 2), _pick(CHUNKS), _numbers, st.just(8)),
    _change(_insert_chunk, st.integers(0, 2), _pick(CHUNKS), st.just(40), st.just(40)),
    _change(_piped, _pick(UNKNOWN), _pick(UNKNOWN)),
    _change(_empty_chunks, st.integers(0, 2), _pick([1, 200, 300, 100_000])),
    _change(_cut, st.integers(12, 4_000), _pick([1, 2, 7, 44, 1_000, 10**6])),
    _change(_noise, st.integers(0, 2**32 - 1), _pick([0.0005, 0.005, 0.05])),
    _change(_samples, _pick([0x7FC00000, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 1, 0])),
)
_files = st.builds(
    encoded,
    _pick([*["WAV"] * 40, *["WAVEX"] * 8, *FORMATS]),
    _pick(SUBTYPES),
    _pick(RATES),
    _pick([1, 1, 1, 2, 2, 3, 8]),
    _pick([1_000, 100, 1_000, 100, 2, 1, 0]),
)
_rubbish = st.one_of(st.binary(max_size=40), _pick([b"RIFF", b"RIFF\0\0\0\0WAVE", b"\0" * 500]))


@st.composite
def hostile_wavs(draw: st.DrawFn) -> bytes:
    """A file with up to three changes; one of twenty was no WAV before."""
    data = draw(_rubbish if draw(st.integers(0, 19)) == 19 else _files)
    for function, *arguments in draw(st.lists(_changes, max_size=3)):
        data = function(data, *arguments)
    return data


def attack(server: ServerProcess, number: int, after: Callable[[], object]) -> Counter[str]:
    """Send so many mutated WAVs, `after` being called after each; how many of each clean answer.

    Raises AssertionError, by hypothesis with the smallest file, for an answer that is not clean.
    """
    answers: Counter[str] = Counter()

    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(hostile_wavs())
    def send(data: bytes) -> None:
        files = {"files": ("hostile.wav", data, "audio/wav")}
        asked = {"request": json.dumps({"verifiers": ["fake"], "prompts": ["any"]})}
        response = session.post(server.url + "/score", data=asked, files=files, timeout=20)
        answers[clean_answer(response)] += 1
        after()

    with requests.Session() as session:
        send()
    return answers


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
    message = re.sub(r"its '.*' chunk claims", "its chunk claims", message)
    return re.sub(r"[+-]?\d[\d.e+-]*", "#", message)
