"""The `imagebind` verifier's scores against the library itself, with small random weights.

The library's side is its documented way: WAV files, imagebind.data's loaders, the whole model's
forward pass.
"""

# ruff: noqa: F811 (fixtures are imported, then they are arguments)

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from src.data.audio import Clip, resample, to_mono, write_wav
from src.models import imagebind
from src.models.adapter import ScoreError
from src.models.imagebind import ImageBindVerifier
from tests.verifier.imagebind_fixtures import upstream, verifier, weights  # noqa: F401
from tests.verifier.imagebind_weights import (
    PROMPT,
    RATE,
    load_small,
    noisy_tones,
    score,
)

PROMPTS = ["solo piano", "fast drums and bass", "a violin, no guitar", "a quiet flute"]


@torch.inference_mode()
def upstream_audio(model: nn.Module, folder: Path, audio: np.ndarray) -> torch.Tensor:
    """float32 [D]: what upstream's documented call gives for a WAV file; audio: [T] or [C, T]."""
    from imagebind.data import load_and_transform_audio_data

    path = folder / "upstream.wav"
    write_wav(path, Clip(np.atleast_2d(audio), RATE))
    return model({"audio": load_and_transform_audio_data([str(path)], "cpu")})["audio"][0]


@torch.inference_mode()
def upstream_text(model: nn.Module, prompt: str) -> torch.Tensor:
    from imagebind.data import load_and_transform_text

    return model({"text": load_and_transform_text([prompt], "cpu")})["text"][0]


def cosine(audio: torch.Tensor, text: torch.Tensor) -> float:
    return float(normalize(audio, dim=0) @ normalize(text, dim=0))


# The score


@pytest.mark.parametrize(
    ("seconds", "starts"), [(10, [0, 2, 4, 6, 8]), (17, [0, 2, 4, 6, 8, 10, 12, 14, 15])]
)
def test_the_score_is_the_cosine_of_upstreams_embeddings_of_the_clips_two_second_pieces(
    verifier: ImageBindVerifier,
    upstream: nn.Module,
    tmp_path: Path,
    seconds: int,
    starts: list[int],
) -> None:
    clip = noisy_tones(seconds, 1)
    pieces = [clip[start * RATE : (start + 2) * RATE] for start in starts]
    embeddings = [upstream_audio(upstream, tmp_path, piece) for piece in pieces]
    audio = torch.stack([normalize(one, dim=0) for one in embeddings]).mean(dim=0)
    expected = cosine(audio, upstream_text(upstream, PROMPT))
    assert score(verifier, clip) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seconds", [0.5, 1.3, 2.0])
def test_a_clip_of_one_window_scores_as_upstreams_default_call(
    verifier: ImageBindVerifier, upstream: nn.Module, tmp_path: Path, seconds: float
) -> None:
    clip = noisy_tones(seconds, 2)
    audio = upstream_audio(upstream, tmp_path, clip)
    expected = cosine(audio, upstream_text(upstream, PROMPT))
    assert score(verifier, clip) == pytest.approx(expected, abs=1e-5)


def test_the_score_is_the_cosine_and_not_upstreams_logit(
    verifier: ImageBindVerifier, upstream: nn.Module, tmp_path: Path
) -> None:
    clip = noisy_tones(2, 3)
    logit = float(upstream_audio(upstream, tmp_path, clip) @ upstream_text(upstream, PROMPT))
    assert abs(logit) > 1
    assert -1 <= score(verifier, clip) <= 1
    assert score(verifier, clip) * 20 / 0.07 == pytest.approx(logit, rel=1e-4)


def test_scores_do_not_depend_on_the_batch_its_order_or_its_repetition(
    verifier: ImageBindVerifier,
) -> None:
    clips = [noisy_tones(seconds, i) for i, seconds in enumerate([0.7, 2.0, 5.3, 10.0])]
    alone = [score(verifier, c, p) for c, p in zip(clips, PROMPTS, strict=True)]
    together = [one.value for one in verifier.score(clips, PROMPTS)]
    backwards = [one.value for one in verifier.score(clips[::-1], PROMPTS[::-1])][::-1]
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(backwards, alone, atol=1e-6)
    assert together == [one.value for one in verifier.score(clips, PROMPTS)]
    assert np.ptp(together) > 1e-2  # else equal numbers would show nothing


def test_more_windows_than_one_pass_holds_score_the_same(
    verifier: ImageBindVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = [noisy_tones(seconds, i) for i, seconds in enumerate([5.0, 1.0, 8.0])]
    together = [one.value for one in verifier.score(clips, PROMPTS[:3])]
    monkeypatch.setattr(ImageBindVerifier, "windows_at_once", 2)
    in_passes = [one.value for one in verifier.score(clips, PROMPTS[:3])]
    np.testing.assert_allclose(in_passes, together, atol=1e-6)


def test_half_precision_scores_close_to_single(verifier: ImageBindVerifier) -> None:
    half = load_small("bfloat16")
    clip = noisy_tones(4, 4)
    assert score(half, clip) != score(verifier, clip)
    assert score(half, clip) == pytest.approx(score(verifier, clip), abs=0.05)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100, 48_000])
def test_stereo_and_other_rates_score_as_the_mono_clip_at_16_khz(
    verifier: ImageBindVerifier, channels: int, rate: int
) -> None:
    tone = sweep(3, rate)
    sides = np.stack([1.5 * tone, 0.5 * tone]) if channels == 2 else tone[None]
    heard = resample(to_mono(Clip(sides, rate)), verifier.sample_rate).samples[0]
    expected = score(verifier, sweep(3, RATE))
    assert score(verifier, heard) == pytest.approx(expected, abs=1e-4)
    assert abs(score(verifier, sweep(3, RATE, pitch=445)) - expected) > 1e-3


def sweep(seconds: float, rate: int, pitch: float = 440) -> np.ndarray:
    """float32 [T]: a tone that rises, the same at every rate."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * pitch * time * (1 + 0.2 * time))).astype(np.float32)


# The library's traps


@pytest.mark.parametrize("seconds", [2, 10, 17, 30])
def test_every_second_of_a_clip_is_heard(verifier: ImageBindVerifier, seconds: int) -> None:
    clip = noisy_tones(seconds, 5)
    before = score(verifier, clip)
    for second in range(seconds):
        changed = clip.copy()
        changed[second * RATE : (second + 1) * RATE] = 0
        assert abs(score(verifier, changed) - before) > 1e-5, f"second {second}"


def test_the_models_patches_leave_out_the_last_25_ms_of_a_window(
    verifier: ImageBindVerifier,
) -> None:
    clip = noisy_tones(2, 5)
    before = score(verifier, clip)
    for start, is_heard in ((31_600, False), (31_500, True)):
        changed = clip.copy()
        changed[start:] = 0
        assert (abs(score(verifier, changed) - before) > 1e-5) == is_heard


def test_upstreams_default_call_does_not_hear_the_end_of_ten_seconds(
    verifier: ImageBindVerifier, upstream: nn.Module, tmp_path: Path
) -> None:
    clip = noisy_tones(10, 6)
    changed = clip.copy()
    changed[round(7.34 * RATE) :] = noisy_tones(10, 7)[round(7.34 * RATE) :]
    first, second = (upstream_audio(upstream, tmp_path, c) for c in (clip, changed))
    assert torch.equal(first, second)
    assert abs(score(verifier, clip) - score(verifier, changed)) > 1e-3


def test_upstreams_default_call_hears_one_channel_of_two(
    verifier: ImageBindVerifier, upstream: nn.Module, tmp_path: Path
) -> None:
    left, right, other = (noisy_tones(2, seed) for seed in (8, 9, 10))
    right, other = right - right.mean(), other - other.mean()
    first, second = (
        upstream_audio(upstream, tmp_path, np.stack([left, side])) for side in (right, other)
    )
    torch.testing.assert_close(first, second, atol=1e-3, rtol=0)  # of vectors of length 20
    scores = [
        score(verifier, to_mono(Clip(np.stack([left, side]), RATE)).samples[0])
        for side in (right, other)
    ]
    assert abs(scores[0] - scores[1]) > 1e-3


def test_the_librarys_spectrogram_changes_its_input_and_the_pieces_that_overlap(
    verifier: ImageBindVerifier, upstream: nn.Module
) -> None:
    from imagebind.data import waveform2melspec

    # A slow swing, so that the two pieces' means differ.
    clip = noisy_tones(3, 11) + np.linspace(-1, 1, 3 * RATE, dtype=np.float32)
    kept = clip.copy()

    @torch.inference_mode()
    def by_hand(piece: Callable[[torch.Tensor], torch.Tensor]) -> float:
        wave = torch.from_numpy(clip.copy())[None]
        pieces = [piece(wave[:, at : at + 2 * RATE]) for at in (0, RATE)]
        mels = torch.stack([waveform2melspec(p, RATE, 128, 204) for p in pieces])
        units = normalize(upstream({"audio": (mels + 4.268) / 9.138})["audio"], dim=1)
        return cosine(units.mean(dim=0), upstream_text(upstream, PROMPT))

    wave = torch.from_numpy(clip.copy())[None]
    waveform2melspec(wave, RATE, 128, 204)
    assert not np.array_equal(wave[0].numpy(), clip)
    naive, right = by_hand(lambda piece: piece), by_hand(torch.clone)
    assert abs(naive - right) > 1e-4
    assert score(verifier, clip) == pytest.approx(right, abs=1e-5)
    assert np.array_equal(clip, kept)


def test_a_model_left_in_training_mode_would_drop_paths_at_random(
    verifier: ImageBindVerifier, upstream: nn.Module, tmp_path: Path
) -> None:
    training = copy.deepcopy(upstream).train()
    clip = noisy_tones(2, 12)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, *others = (upstream_audio(training, tmp_path, clip) for _ in range(12))
    assert not all(torch.equal(first, other) for other in others)
    assert not verifier._model.training


def test_a_prompt_of_more_than_77_tokens_is_cut_and_keeps_its_end_mark(
    verifier: ImageBindVerifier, upstream: nn.Module, tmp_path: Path
) -> None:
    fits = " ".join(["piano"] * 75)
    clip = noisy_tones(2, 13)
    fitting = score(verifier, clip, fits)
    assert score(verifier, clip, fits + " and drums") == fitting
    assert score(verifier, clip, " ".join(["piano"] * 74)) != fitting
    audio = upstream_audio(upstream, tmp_path, clip)
    expected = cosine(audio, upstream_text(upstream, fits + " and drums"))
    assert fitting == pytest.approx(expected, abs=1e-5)
    from imagebind.data import load_and_transform_text

    assert load_and_transform_text([fits + " and drums"], "cpu")[0, -1] == 49_407


@pytest.mark.parametrize(("words", "unread"), [(0, 0), (1, 0), (75, 0), (76, 1), (400, 325)])
def test_tokens_beyond_the_75th_are_counted_as_unread(
    verifier: ImageBindVerifier, words: int, unread: int
) -> None:
    from imagebind.data import return_bpe_path
    from imagebind.models.multimodal_preprocessors import SimpleTokenizer

    prompt = " ".join(["piano"] * words)
    encoded = SimpleTokenizer(bpe_path=return_bpe_path()).encode(prompt)
    assert len(encoded) == words
    assert verifier.unread_tokens(prompt) == unread


def test_a_prompts_embedding_is_computed_once(
    verifier: ImageBindVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = noisy_tones(1, 14)
    first = score(verifier, clip, "a prompt of this test alone")
    monkeypatch.setattr(verifier, "_tokenizer", None)
    assert score(verifier, clip, "a prompt of this test alone") == first


# What is refused


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_audio_that_is_not_finite_is_refused(verifier: ImageBindVerifier, bad: float) -> None:
    clip = noisy_tones(3, 15)
    clip[100] = bad
    with pytest.raises(ScoreError, match="NaN or infinite"):
        score(verifier, clip)


@pytest.mark.parametrize(
    ("samples", "reason"), [(0, "no samples"), (399, "399 samples is too short: at least 400")]
)
def test_a_clip_without_one_frame_is_refused(
    verifier: ImageBindVerifier, samples: int, reason: str
) -> None:
    with pytest.raises(ScoreError, match=reason):
        score(verifier, np.zeros(samples, np.float32))


def test_a_result_that_is_not_finite_is_no_score(weights: Path) -> None:
    verifier = load_small()
    with torch.no_grad():
        verifier._model.modality_heads["audio"][-1].weight.fill_(torch.nan)
    with pytest.raises(ScoreError, match="no finite number"):
        score(verifier, noisy_tones(2, 16))
