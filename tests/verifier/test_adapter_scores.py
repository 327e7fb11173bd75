"""What every adapter's scores have in common, whatever else is in the batch, and what has none."""

import numpy as np
import pytest

from src.data.audio import Clip, encode_wav, resample, to_mono
from src.models.adapter import Adapter, ScoreError
from src.server.wav import decode_wav
from tests.verifier.adapters import CASES, Case, each
from tests.verifier.sounds import score, sweep

PROMPTS = ["piano", "a long and winding piano prompt", "drums", "no piano", "piano", "slow drums"]
WITH_TEXT = each("tags", "quality")


@each()
def test_scores_depend_neither_on_the_batch_nor_on_the_order_nor_on_the_time(
    case: Case, adapter: Adapter
) -> None:
    clips = [case.sound(seconds, seed) for seed, seconds in enumerate(case.seconds)]
    kept = [clip.copy() for clip in clips]
    prompts = [PROMPTS[index % len(PROMPTS)] for index in range(len(clips))]
    alone = [score(adapter, c, p) for c, p in zip(clips, prompts, strict=True)]
    assert len({round(value, 4) for value in alone}) == len(clips)
    count = len(clips)
    for order in (range(count), range(count), range(count)[::-1]):
        together = adapter.score([clips[i] for i in order], [prompts[i] for i in order])
        expected = [alone[i] for i in order]
        np.testing.assert_allclose([s.value for s in together], expected, atol=1e-5)
    assert all(np.array_equal(clip, copy) for clip, copy in zip(clips, kept, strict=True))


@each("tags")
def test_windows_in_small_portions_score_the_same(
    case: Case, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = [case.sound(seconds, seed) for seed, seconds in enumerate(case.seconds[:3])]
    together = [one.value for one in adapter.score(clips, PROMPTS[:3])]
    monkeypatch.setattr(type(adapter), "windows_at_once", 2)
    in_portions = [one.value for one in adapter.score(clips, PROMPTS[:3])]
    np.testing.assert_allclose(in_portions, together, atol=1e-5)


@pytest.mark.parametrize(
    ("case", "seconds"),
    [
        pytest.param(name, seconds, marks=[pytest.mark.slow] * (name == "clap"))
        for name, case in CASES.items()
        for seconds in case.heard
    ],
    indirect=["case"],
)
def test_every_second_of_a_clip_is_heard(case: Case, adapter: Adapter, seconds: int) -> None:
    clip, other = case.sound(seconds, 4), case.sound(1, 5)
    before = score(adapter, clip)
    for second in {0, seconds // 2, seconds - 2, seconds - 1}:
        changed = clip.copy()
        changed[second * len(other) : (second + 1) * len(other)] = 3 * other
        assert abs(score(adapter, changed) - before) > 1e-5, f"second {second}"


@each()
def test_stereo_and_other_rates_come_through_the_servers_own_path(adapter: Adapter) -> None:
    expected = score(adapter, sweep(3, adapter.sample_rate))
    assert abs(score(adapter, sweep(3, adapter.sample_rate, pitch=460)) - expected) > 1e-4
    heard = []
    for rate in (16_000, 22_050, 44_100, 48_000):
        mono = sweep(3, rate)
        stereo = encode_wav(Clip(np.stack([1.5 * mono, 0.5 * mono]), rate))
        for clip in (Clip(mono[None], rate), decode_wav(stereo)):
            heard.append(resample(to_mono(clip), adapter.sample_rate).samples[0])
    values = [one.value for one in adapter.score(heard, ["a slow piano piece"] * len(heard))]
    assert values == pytest.approx([expected] * len(heard), abs=0.03)


@each("tags", "clap")
def test_half_precision_scores_nearly_as_single_does(case: Case, adapter: Adapter) -> None:
    clip = 3 * case.sound(4, 6)
    for dtype in case.half:
        half = case.build()
        half.load("cpu", dtype)
        assert score(half, clip) != score(adapter, clip)
        assert score(half, clip) == pytest.approx(score(adapter, clip), abs=0.03)


@each()
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_clip_that_is_not_finite_has_no_score(case: Case, adapter: Adapter, bad: float) -> None:
    clip = case.sound(2, 7)
    clip[-1] = bad
    with pytest.raises(ScoreError, match=r"NaN or infinite|not finite"):
        score(adapter, clip)


@each()
def test_a_clip_without_a_single_frame_has_no_score(case: Case, adapter: Adapter) -> None:
    for samples in {0, 1, case.shortest - 1} - {case.shortest}:
        reason = rf"no samples|T > 0|{samples} samples is too short: at least {case.shortest}"
        with pytest.raises(ScoreError, match=reason):
            score(adapter, np.zeros(samples, np.float32))
    assert np.isfinite(score(adapter, np.zeros(case.shortest, np.float32)))


@WITH_TEXT
@pytest.mark.parametrize("over", [-1, 0, 1, 26, 27, 500])
def test_tokens_that_are_too_many_are_counted_and_have_no_influence(
    case: Case, adapter: Adapter, over: int
) -> None:
    assert case.tokens is not None
    adapter.check(case.prompt(case.tokens + over))
    assert adapter.unread_tokens(case.prompt(case.tokens + over)) == max(0, over)
    fits, clip = case.prompt(case.tokens), case.sound(2, 13)
    same = score(adapter, clip, case.prompt(case.tokens + over)) == score(adapter, clip, fits)
    assert same == (over >= 0)


@each("muq", "imagebind", "clap")
def test_others_read_prompts_to_their_end_or_not_at_all(adapter: Adapter) -> None:
    assert adapter.unread_tokens("piano " * 600) == 0


@WITH_TEXT
def test_a_prompt_is_embedded_once(
    case: Case, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    embed = adapter.embed_text  # type: ignore[attr-defined]
    monkeypatch.setattr(adapter, "embed_text", lambda prompt: calls.append(prompt) or embed(prompt))
    for _ in range(2):
        adapter.score([case.sound(2, 13)] * 2, ["a prompt of this test alone"] * 2)
    assert calls == ["a prompt of this test alone"]
