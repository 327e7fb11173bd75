"""MuQ-MuLan's scores, against the library called as its README does it."""

# ruff: noqa: F811 (fixtures are imported, then they are arguments)

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from muq import MuQMuLan

from src.data.audio import Clip, encode_wav, resample, to_mono
from src.models.adapter import ScoreError
from src.models.muq import MuqVerifier
from src.server.wav import decode_wav
from tests.verifier.muq_fixtures import cache, library, muq  # noqa: F401
from tests.verifier.muq_weights import RATE, TEXT_TOKENS, score, tones, upstream

LONG_PROMPT = "a piano and loud drums " * TEXT_TOKENS


def similarity(library: MuQMuLan, audio: np.ndarray, prompt: str) -> float:
    """Upstream's, but for the length of its mean over windows."""
    with torch.no_grad():
        latents = library(wavs=torch.tensor(audio)[None])
        texts = library(texts=[prompt])
        unit = latents / latents.norm()
        return float(library.calc_similarity(unit, texts))


@pytest.mark.parametrize("seconds", [2, 7.3, 10, 20, 30])
def test_score_is_the_librarys_on_short_clips_and_on_multiples_of_ten_seconds(
    muq: MuqVerifier, library: MuQMuLan, seconds: float
) -> None:
    audio = tones(seconds, 1)
    expected = similarity(library, audio, "loud drums, no piano")
    assert score(muq, audio, "loud drums, no piano") == pytest.approx(expected, abs=1e-5)


def test_seventeen_seconds_are_the_mean_of_the_first_and_the_last_ten(
    muq: MuqVerifier, library: MuQMuLan
) -> None:
    audio = tones(17, 2)
    with torch.no_grad():
        ends = np.stack([audio[: 10 * RATE], audio[-10 * RATE :]])
        mean = library(wavs=torch.tensor(ends)).mean(dim=0)
        expected = float(library.calc_similarity(mean / mean.norm(), library(texts=["drums"])[0]))
    assert score(muq, audio, "drums") == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seconds", [2, 10, 17, 30])
def test_every_second_of_a_clip_is_heard(muq: MuqVerifier, seconds: int) -> None:
    audio = tones(seconds, 3)
    for second in {0, seconds // 2, seconds - 1}:
        changed = audio.copy()
        changed[second * RATE : (second + 1) * RATE] = tones(1, 4)
        assert abs(score(muq, changed) - score(muq, audio)) > 1e-4


def test_scores_depend_neither_on_the_batch_nor_on_the_order_nor_on_the_time(
    muq: MuqVerifier,
) -> None:
    clips = [tones(seconds, i) for i, seconds in enumerate([10, 2, 17, 10, 30, 2.5, 2])]
    prompts = ["piano", "a long and winding prompt", "drums", "", "piano", "x", "slow drums"]
    alone = [score(muq, c, p) for c, p in zip(clips, prompts, strict=True)]
    assert len({round(value, 4) for value in alone}) == len(clips)
    for order in (range(7), range(7), reversed(range(7))):
        indices = list(order)
        together = muq.score([clips[i] for i in indices], [prompts[i] for i in indices])
        expected = [alone[i] for i in indices]
        np.testing.assert_allclose([s.value for s in together], expected, atol=1e-5)


def test_stereo_and_other_rates_come_through_the_servers_own_path(muq: MuqVerifier) -> None:
    expected = score(muq, tones(10, 5))
    for rate in (16_000, 44_100, 48_000):
        left = tones(10, 5, rate)
        stereo = Clip(np.stack([1.5 * left, 0.5 * left]), rate)
        uploaded = resample(to_mono(decode_wav(encode_wav(stereo))), RATE).samples[0]
        sent_mono = resample(Clip(left[None], rate), RATE).samples[0]
        assert score(muq, uploaded) == pytest.approx(score(muq, sent_mono), abs=1e-5)
        assert score(muq, uploaded) == pytest.approx(expected, abs=0.03)


def test_half_precision_scores_nearly_as_single_does(muq: MuqVerifier) -> None:
    audio = tones(10, 6) * 10
    for dtype in ("bfloat16", "float16"):
        verifier = MuqVerifier("muq")
        verifier.load("cpu", dtype)
        assert score(verifier, audio) == pytest.approx(score(muq, audio), abs=0.02)
        assert score(verifier, audio) != score(muq, audio)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_clip_that_is_not_finite_has_no_score(muq: MuqVerifier, bad: float) -> None:
    audio = tones(2, 7)
    audio[-1] = bad
    with pytest.raises(ScoreError, match="NaN or infinite"):
        score(muq, audio)


@pytest.mark.parametrize("samples", [0, 1, 2_399])
def test_a_clip_without_a_single_frame_has_no_score(muq: MuqVerifier, samples: int) -> None:
    with pytest.raises(ScoreError, match=r"no samples|is too short"):
        score(muq, np.zeros(samples, np.float32))
    assert np.isfinite(score(muq, np.zeros(2_400, np.float32)))


def test_samples_that_overflow_the_model_have_no_score(muq: MuqVerifier) -> None:
    with pytest.raises(ScoreError, match="no finite number"):
        score(muq, np.full(RATE, 1e30, np.float32))


def test_the_model_is_left_in_training_mode_by_the_library_and_not_by_the_adapter(
    cache: Path, muq: MuqVerifier
) -> None:
    naive = upstream(cache, strict=True)
    assert naive.training
    with torch.no_grad():
        wavs = torch.tensor(tones(2, 9))[None]
        assert not torch.equal(naive(wavs=wavs), naive(wavs=wavs))
    assert score(muq, tones(2, 9)) == score(muq, tones(2, 9))


def test_a_prompts_embedding_depends_on_its_neighbours_in_the_library_and_not_in_the_adapter(
    muq: MuqVerifier, library: MuQMuLan
) -> None:
    prompts = ["piano", "a very slow piano with loud drums"]
    with torch.no_grad():
        padded, alone = library(texts=prompts)[0], library(texts=prompts[:1])[0]
    assert float(padded @ alone) < 0.99
    together = muq.score([tones(2, 10)] * 2, prompts)
    assert together[0].value == pytest.approx(score(muq, tones(2, 10), "piano"), abs=1e-6)


def test_the_mean_over_windows_is_renormalised(muq: MuqVerifier, library: MuQMuLan) -> None:
    audio = np.concatenate([tones(10, 11), np.zeros(10 * RATE, np.float32)])
    with torch.no_grad():
        latents = library(wavs=torch.tensor(audio)[None])
        naive = float(library.calc_similarity(latents, library(texts=["piano"])))
    length = float(latents.norm())
    assert length < 0.999
    assert score(muq, audio, "piano") == pytest.approx(naive / length, abs=1e-5)


def test_a_prompt_over_the_text_models_length_is_cut_and_not_an_error(
    muq: MuqVerifier, library: MuQMuLan
) -> None:
    with pytest.raises(RuntimeError, match="size"):
        library(texts=[LONG_PROMPT])
    muq.check(LONG_PROMPT)
    value = score(muq, tones(2, 12), LONG_PROMPT)
    tokens = library.mulan.text.tokenizer(LONG_PROMPT)["input_ids"]
    kept = torch.tensor([[*tokens[: TEXT_TOKENS - 1], tokens[-1]]])
    with torch.no_grad():
        hidden = library.mulan.text.model(kept).last_hidden_state
        text = library.mulan.text_to_latents(library.mulan.text.transformer(hidden).mean(dim=-2))
        audio = library(wavs=torch.tensor(tones(2, 12))[None])[0]
        expected = float(torch.nn.functional.normalize(text[0], dim=0) @ audio)
    assert value == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("over", [-1, 0, 1, TEXT_TOKENS - 2, TEXT_TOKENS - 1, 500])
def test_tokens_over_the_text_models_length_are_counted_as_unread(
    muq: MuqVerifier, library: MuQMuLan, over: int
) -> None:
    prompt = " ".join(["piano"] * (TEXT_TOKENS - 2 + over))  # and the marks of start and end
    assert len(library.mulan.text.tokenizer(prompt)["input_ids"]) == TEXT_TOKENS + over
    assert muq.unread_tokens(prompt) == max(0, over)


def test_tokens_are_counted_in_any_thread_while_prompts_are_scored(muq: MuqVerifier) -> None:
    prompts = [" ".join(["drums"] * length) for length in range(TEXT_TOKENS, TEXT_TOKENS + 200)]

    def count(_: int) -> list[int]:
        return [muq.unread_tokens(prompt) for prompt in prompts]

    def embed(_: int) -> list[int]:
        with torch.no_grad():
            return [len(muq._model(texts=[f"{prompt} x"])[0]) for prompt in prompts[:60]]

    with ThreadPoolExecutor(4) as threads:
        counts = threads.map(count, range(3))
        assert threads.submit(embed, 0).result() == [16] * 60
        assert list(counts) == [list(range(2, 202))] * 3


def test_a_prompt_is_embedded_once(muq: MuqVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    tower = muq._model.mulan.text
    monkeypatch.setattr(
        tower, "forward", lambda *a, f=tower.forward, **k: calls.append(1) or f(*a, **k)
    )
    for _ in range(3):
        muq.score([tones(2, 13)] * 2, ["a prompt that is new"] * 2)
    assert len(calls) == 1
