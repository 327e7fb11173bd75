"""WAV bytes both ways, and what an upload is refused for."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from src.data.audio import AudioError, Clip, encode_wav, read_audio, resample, to_mono, write_wav
from src.protocol import Limits
from src.server.wav import decode_wav, wav_seconds


def noise(channels: int = 1, seconds: float = 0.5, rate: int = 16_000) -> Clip:
    samples = np.random.default_rng(0).standard_normal((channels, round(seconds * rate)))
    return Clip((0.1 * samples).astype(np.float32), rate)


def tone(rate: int, seconds: float = 1.0, hertz: float = 440.0) -> Clip:
    time = np.arange(round(seconds * rate)) / rate
    return Clip(np.sin(2 * np.pi * hertz * time, dtype=np.float32)[None], rate)


def with_field(wav: bytes, offset: int, kind: str, value: int) -> bytes:
    changed = bytearray(wav)
    struct.pack_into(kind, changed, offset, value)
    return bytes(changed)


def wav_bytes(samples: np.ndarray, rate: int, **how: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **how)
    return file.getvalue()


@pytest.mark.parametrize("channels", [1, 2])
def test_samples_survive_the_way_through_wav_bytes_exactly(channels: int) -> None:
    clip = noise(channels)
    wav = encode_wav(clip)
    samples, rate = soundfile.read(io.BytesIO(wav), dtype="float32", always_2d=True)
    for found, its_rate in ((samples.T, rate), (decode_wav(wav).samples, decode_wav(wav).rate)):
        assert its_rate == clip.rate
        np.testing.assert_array_equal(found, clip.samples)
    assert encode_wav(clip) == wav


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("kind", ["WAV", "WAVEX"])
def test_common_wavs_are_decoded(kind: str, subtype: str) -> None:
    clip = noise()
    back = decode_wav(wav_bytes(clip.samples.T, clip.rate, format=kind, subtype=subtype))
    np.testing.assert_allclose(back.samples, clip.samples, atol=2**-15)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64"])
def test_samples_are_those_that_libsndfile_reads_from_the_whole_file(
    kind: str, subtype: str
) -> None:
    wav = wav_bytes(noise(2).samples.T, 16_000, format=kind, subtype=subtype)
    expected, _ = soundfile.read(io.BytesIO(wav), dtype="float32")
    np.testing.assert_array_equal(decode_wav(wav + LIST).samples, expected.T)


GOOD = encode_wav(noise())
DATA = GOOD.index(b"data") + 4  # where the length of the data is
# As ffmpeg writes to a pipe.
PIPED = with_field(with_field(GOOD, 4, "<I", 2**32 - 1), DATA, "<I", 2**32 - 1)
LIST, EMPTY_CHUNK = b"LIST\x04\0\0\0INFO", b"junk\0\0\0\0"
REFUSED = {
    "nothing": (b"", "no RIFF/WAVE header"),
    "header only": (GOOD[:12], "no 'data' chunk"),
    "cut off in the header": (GOOD[:30], "cut off"),
    "cut off in the samples": (GOOD[:-1000], "cut off"),
    "data chunk claims 1 GB": (with_field(GOOD, DATA, "<I", 2**30), "claims 1073741824"),
    "no data": (encode_wav(Clip(np.zeros((1, 0), np.float32), 8000)), "has no samples"),
    "no data, a chunk after it": (with_field(GOOD, DATA, "<I", 0)[: DATA + 4] + LIST, "no samples"),
    "no data and an unknown length": (PIPED[: DATA + 4], "has no samples"),
    "0 Hz": (with_field(GOOD, 24, "<I", 0), "rate 0 Hz"),
    "1 MHz": (with_field(GOOD, 24, "<I", 1_000_000), "rate 1000000 Hz"),
    "64 channels": (wav_bytes(np.zeros((10, 64)), 16_000, format="WAV"), "64 channels"),
    "no channels": (with_field(GOOD, 22, "<H", 0), "0 channels"),
    "no format": (GOOD[:12] + GOOD[DATA - 4 :], "no 'fmt ' chunk"),
    "frames of no bytes": (with_field(GOOD, 32, "<H", 0), "0 bytes a frame"),
    "8 bits": (wav_bytes(np.zeros(10), 16_000, format="WAV", subtype="PCM_U8"), "ffmpeg -i"),
    "ADPCM": (wav_bytes(np.zeros(10), 16_000, format="WAV", subtype="IMA_ADPCM"), "ffmpeg -i"),
    "FLAC": (wav_bytes(np.zeros(100), 16_000, format="FLAC"), "no RIFF/WAVE header.*ffmpeg -i"),
    "MP3": (wav_bytes(np.zeros(5000), 16_000, format="MP3"), "no RIFF/WAVE header.*ffmpeg -i"),
    "many empty chunks": (GOOD[:12] + EMPTY_CHUNK * 10**6 + GOOD[12:], "256 chunks"),
    "many after no data": (
        with_field(GOOD, DATA, "<I", 0)[: DATA + 4] + EMPTY_CHUNK * 10**6,
        "256",
    ),
    "RF64 that is cut off": (wav_bytes(np.zeros(9999), 8000, format="RF64")[:-10], "cut off"),
    "piped and too long": (
        encode_wav(Clip(np.zeros((1, 61 * 8000), np.float32), 8000))[:DATA]
        + b"\xff" * 4
        + bytes(61 * 32000),
        "61.0 s",
    ),
    "a minute too long": (encode_wav(Clip(np.zeros((1, 61 * 8000), np.float32), 8000)), "61.0 s"),
    "NaN": (encode_wav(Clip(np.full((1, 800), np.nan, np.float32), 16_000)), "NaN"),
    "infinite": (encode_wav(Clip(np.full((1, 800), np.inf, np.float32), 16_000)), "NaN or inf"),
    "integers as float": (encode_wav(Clip(np.full((1, 800), 2e4, np.float32), 16_000)), "peak"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_wav_is_refused_with_the_reason(case: str) -> None:
    data, reason = REFUSED[case]
    with pytest.raises(AudioError, match=reason):
        decode_wav(data)


SIZES = {
    "ffmpeg": (2**32 - 1, 2**32 - 1),
    "older ffmpeg": (0, 0),
    "a recorder that was stopped": (36, 0),
    "only the data's is 0": (len(GOOD) - 8, 0),
    "sox": (0x7FFFF024, 0x7FFFF000),
    "arecord": (0x80000024, 0x80000000),
}


@pytest.mark.parametrize("writer", SIZES)
@pytest.mark.parametrize("clip", [noise(2), Clip(np.zeros((1, 800), np.float32), 16_000)])
def test_a_wav_of_unknown_length_is_read_to_its_end(writer: str, clip: Clip) -> None:
    wav = encode_wav(clip)
    for place, size in zip((4, wav.index(b"data") + 4), SIZES[writer], strict=True):
        wav = with_field(wav, place, "<I", size)
    np.testing.assert_array_equal(decode_wav(wav).samples, clip.samples)
    assert wav_seconds(io.BytesIO(wav), Limits()) == clip.seconds


def test_header_is_checked_before_samples_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundfile, "read", lambda *_, **__: pytest.fail("decoded"))
    for case in ("64 channels", "a minute too long", "1 MHz", "data chunk claims 1 GB"):
        with pytest.raises(AudioError):
            decode_wav(REFUSED[case][0])


def test_resampling_keeps_a_tone_and_its_length() -> None:
    low = resample(tone(32_000), 16_000)
    assert low.samples.shape == (1, 16_000)
    inner = slice(500, -500)
    np.testing.assert_allclose(low.samples[0, inner], tone(16_000).samples[0, inner], atol=1e-3)


def test_mono_is_the_mean_of_the_channels() -> None:
    clip = noise(2)
    np.testing.assert_allclose(to_mono(clip).samples[0], clip.samples.mean(0), atol=1e-7)


def test_a_clip_must_be_float32_channels_by_time() -> None:
    with pytest.raises(AudioError, match="float32"):
        Clip(np.zeros((1, 10)), 16_000)
    with pytest.raises(AudioError, match="channels, T"):
        Clip(np.zeros(10, np.float32), 16_000)


def test_write_wav_leaves_the_old_file_whole_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "clip.wav"
    write_wav(path, noise())
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_wav(path, noise(2))
    np.testing.assert_array_equal(read_audio(path).samples, noise().samples)
    assert list(path.parent.iterdir()) == [path]


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.ogg").write_bytes(b"OggS nonsense")
    for name in ("broken.ogg", "absent.wav"):
        with pytest.raises(AudioError, match=name):
            read_audio(tmp_path / name)
