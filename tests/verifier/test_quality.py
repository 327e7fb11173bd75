"""Audiobox Aesthetics' scores, against the library's own AesPredictor."""

# ruff: noqa: F811 (fixtures are imported, then they are arguments)

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from audiobox_aesthetics.infer import AesPredictor
from audiobox_aesthetics.model import aes

from src.data.audio import Clip, encode_wav, resample, to_mono
from src.models.adapter import ScoreError
from src.models.quality import WINDOWS_PER_FORWARD, QualityVerifier
from src.protocol import Score
from src.server.wav import decode_wav
from tests.verifier.quality_fixtures import library, quality, weights  # noqa: F401
from tests.verifier.quality_weights import (
    PUBLISHED_WAVLM,
    RATE,
    axes,
    make_checkpoint,
    tones,
)


def score(verifier: QualityVerifier, audio: np.ndarray) -> Score:
    return verifier.score([audio], ["whatever"])[0]


def values(scores: list[Score]) -> list[float]:
    return [score.value for score in scores]


@pytest.mark.parametrize("seconds", [0.001, 2, 10, 17, 30])
def test_score_and_axes_are_the_librarys(
    quality: QualityVerifier, library: AesPredictor, seconds: float
) -> None:
    [expected] = axes(library, tones(seconds, 1))
    found = score(quality, tones(seconds, 1))
    assert found.components == pytest.approx(expected, abs=1e-5)
    assert list(found.components) == ["CE", "CU", "PC", "PQ"]
    assert found.value == pytest.approx((expected["PQ"] + expected["CE"]) / 20, abs=1e-6)


def test_the_model_of_the_published_size_scores_as_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CURATOR_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(aes, "DEFAULT_AUDIO_CFG", PUBLISHED_WAVLM)
    path = tmp_path / "checkpoint.pt"
    torch.save(make_checkpoint(PUBLISHED_WAVLM.encoder_layers), path)
    verifier = QualityVerifier("quality")
    verifier.load("cpu")
    [expected] = axes(AesPredictor(checkpoint_pth=str(path)), tones(10, 2))
    assert score(verifier, tones(10, 2)).components == pytest.approx(expected, abs=1e-5)


def test_an_axis_is_the_mean_over_windows_weighted_by_their_length(
    quality: QualityVerifier,
) -> None:
    audio = tones(17, 3)
    first, rest = score(quality, audio[: 10 * RATE]), score(quality, audio[10 * RATE :])
    for axis, value in score(quality, audio).components.items():
        expected = (10 * first.components[axis] + 7 * rest.components[axis]) / 17
        assert value == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seconds", [2, 10, 17, 30])
def test_every_second_of_a_clip_is_heard(quality: QualityVerifier, seconds: int) -> None:
    audio = tones(seconds, 4)
    for second in {0, seconds // 2, seconds - 1}:
        changed = audio.copy()
        changed[second * RATE : (second + 1) * RATE] = 3 * tones(1, 5)
        assert abs(score(quality, changed).value - score(quality, audio).value) > 1e-5


def test_scores_depend_neither_on_the_batch_nor_on_the_order_nor_on_the_time(
    quality: QualityVerifier,
) -> None:
    clips = [tones(seconds, i) for i, seconds in enumerate([10, 2, 17, 10, 30, 2.5, 60])]
    alone = [score(quality, c).value for c in clips]
    assert len({round(value, 5) for value in alone}) == len(clips)
    for order in (range(7), range(7), reversed(range(7))):
        indices = list(order)
        together = quality.score([clips[i] for i in indices], ["x"] * 7)
        np.testing.assert_allclose(values(together), [alone[i] for i in indices], atol=1e-6)


def test_the_prompt_has_no_influence(quality: QualityVerifier) -> None:
    scores = quality.score([tones(2, 6)] * 3, ["piano", "", "no piano"])
    assert len(set(values(scores))) == 1
    assert not quality.needs_text


def test_of_a_prompt_that_has_no_influence_nothing_is_unread(quality: QualityVerifier) -> None:
    assert quality.unread_tokens("piano " * 300) == 0


def test_stereo_and_other_rates_come_through_the_servers_own_path(
    quality: QualityVerifier,
) -> None:
    expected = score(quality, tones(10, 7)).value
    for rate in (16_000, 44_100, 48_000):
        left = tones(10, 7, rate)
        stereo = Clip(np.stack([1.5 * left, 0.5 * left]), rate)
        uploaded = resample(to_mono(decode_wav(encode_wav(stereo))), RATE).samples[0]
        sent_mono = resample(Clip(left[None], rate), RATE).samples[0]
        assert score(quality, uploaded).value == pytest.approx(score(quality, sent_mono).value)
        assert score(quality, uploaded).value == pytest.approx(expected, abs=0.01)


def test_half_precision_takes_effect_here_and_not_in_the_library(
    weights: Path, quality: QualityVerifier, library: AesPredictor
) -> None:
    audio = tones(10, 8)
    half = AesPredictor(checkpoint_pth=str(weights / "checkpoint.pt"), precision="bf16")
    assert axes(half, audio) == axes(library, audio)
    for dtype in ("bfloat16", "float16"):
        verifier = QualityVerifier("quality")
        verifier.load("cpu", dtype)
        assert score(verifier, audio).value != score(quality, audio).value
        assert score(verifier, audio).value == pytest.approx(score(quality, audio).value, abs=0.02)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_clip_that_is_not_finite_has_no_score(
    quality: QualityVerifier, library: AesPredictor, bad: float
) -> None:
    audio = tones(2, 9)
    audio[-1] = bad
    assert np.isnan(axes(library, audio)[0]["PQ"])
    with pytest.raises(ScoreError, match="NaN or infinite"):
        score(quality, audio)


def test_a_clip_without_samples_has_no_score(quality: QualityVerifier) -> None:
    with pytest.raises(ScoreError, match="no samples"):
        score(quality, np.zeros(0, np.float32))
    assert np.isfinite(score(quality, np.zeros(1, np.float32)).value)


def test_samples_that_overflow_the_model_have_no_score(quality: QualityVerifier) -> None:
    with pytest.raises(ScoreError, match="no finite number"):
        score(quality, np.tile(np.float32([3e38, -3e38]), RATE))


def test_a_forward_holds_a_bounded_number_of_windows_here_and_all_of_them_in_the_library(
    quality: QualityVerifier, library: AesPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    forward = aes.AesMultiOutput.forward

    def spy(model: Any, batch: dict[str, torch.Tensor]) -> Any:
        sizes.append(len(batch["wav"]))
        return forward(model, batch)

    monkeypatch.setattr(aes.AesMultiOutput, "forward", spy)
    clips = [tones(30, i) for i in range(5)]
    expected = [row["PQ"] for row in axes(library, *clips)]
    assert sizes == [15]
    sizes.clear()
    found = quality.score(clips, [""] * 5)
    assert max(sizes) <= WINDOWS_PER_FORWARD
    assert sum(sizes) == 15
    np.testing.assert_allclose([s.components["PQ"] for s in found], expected, atol=1e-5)
