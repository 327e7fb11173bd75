"""What every adapter does as it loads and as it scores.

What it needs, refuses and leaves behind; what its scores have in common, whatever else is in the
batch, and what has none.
"""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.data.audio import Clip, encode_wav, resample, to_mono
from src.models.adapter import Adapter, ScoreError
from src.protocol import Checkpoint, EmbeddedScore
from src.server.wav import decode_wav
from src.weights.files import WeightsError, sha256
from tests.verifier.adapters import CASES, Case, Loaded, each, score, sweep, vacate
from tests.verifier.clap_weights import Surprise, surroundings

WITH_FILES = each("tags")


def refusal(case: Case) -> str:
    with pytest.raises(WeightsError) as refused:
        case.build().load("cpu")
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith(
        f"--fetch {case.name} --weights_dir {os.environ['CURATOR_WEIGHTS']}"
    )
    return str(refused.value)


@each()
def test_loading_says_which_weights_it_loaded(case: Case, loaded: Loaded, weights: Path) -> None:
    assert loaded.checkpoint.name == case.identity
    assert loaded.adapter.missing() is None
    if case.file:
        file = weights / case.file
        assert loaded.checkpoint == Checkpoint(name=case.identity, sha256=sha256(file))


@each()
def test_neither_loading_nor_scoring_leaves_a_trace_in_the_process(
    case: Case, loaded: Loaded
) -> None:
    assert loaded.after == loaded.before
    assert loaded.after["patched"] == []
    assert (loaded.printed, loaded.connections) == ("", [])
    before = surroundings()
    loaded.adapter.score([case.sound(2, 10)], ["slow piano, no part of another test"])
    assert surroundings() == before


@each()
def test_an_embedding_is_the_clips_alone_and_of_unit_length_where_cosines_are_scores(
    case: Case, loaded: Loaded
) -> None:
    found = loaded.adapter.score([case.sound(2, 10)] * 2, ["slow piano", "fast drums"])
    assert [isinstance(one, EmbeddedScore) for one in found] == [loaded.adapter.embeds] * 2
    if loaded.adapter.embeds:
        first, second = (np.array(one.embedding) for one in found)  # type: ignore[attr-defined]
        np.testing.assert_allclose(first, second, atol=1e-5)
        assert case.name == "tags" or np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
    assert loaded.adapter.embeds == (case.name != "quality")


@each()
def test_the_network_evaluates_and_learns_nothing(case: Case, loaded: Loaded) -> None:
    network = case.network(loaded.adapter)
    assert not any(module.training for module in network.modules())
    assert case.name == "quality" or not any(w.requires_grad for w in network.parameters())


@WITH_FILES
def test_a_missing_file_is_named_with_its_source(case: Case, own: Path) -> None:
    for file in case.build().files:
        for path in own.rglob(file.name):
            if file.repository.split("/")[-1] in str(path.parent) or path.parent == own:
                path.rename(own.parent / "aside")
                break
        assert file.name in (case.build().missing() or "")
        with pytest.raises(WeightsError, match=f"{file.name} is missing.*{file.source}"):
            case.build().load("cpu")
        (own.parent / "aside").rename(path)


@WITH_FILES
def test_a_file_that_is_torn_or_no_checkpoint_is_refused(case: Case, own: Path) -> None:
    path = own / case.file
    with path.open("rb") as whole:
        torn = whole.read(min(path.stat().st_size // 2, 1_000_000))
    for content in (b"", b"<html>404</html>", torn[:100], torn):
        vacate(path).write_bytes(content)
        assert f"{path} cannot be read" in refusal(case)


@WITH_FILES
def test_code_in_a_file_is_not_run(case: Case, own: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    path = vacate(own / case.file).with_name(Path(case.pickled or case.file).name)
    for content in ({"state_dict": {"w": Surprise(sprung)}}, {"w": Surprise(sprung)}):
        torch.save(content, path)
        assert "the file asks for the global posix.mkdir)" in refusal(case)
    path.write_bytes(pickle.dumps(Surprise(sprung), protocol=2))
    assert "cannot be read" in refusal(case)
    assert not sprung.exists()


@WITH_FILES
@pytest.mark.parametrize("content", [{"epoch": 3}, {"state_dict": {}}, [1, 2], torch.zeros(3)])
def test_a_file_without_weights_is_refused(case: Case, own: Path, content: Any) -> None:
    path = vacate(own / case.file).with_name(Path(case.pickled or case.file).name)
    torch.save(content, path)
    said = refusal(case)
    assert str(path) in said
    assert "holds no weights by name" in said or "is no checkpoint of" in said


@WITH_FILES
def test_weights_that_do_not_fit_are_refused_by_name(case: Case, own: Path) -> None:
    state = case.read(own / case.file)
    name, tensor = next((name, tensor) for name, tensor in state.items() if tensor.ndim == 2)
    for change, reason in (
        ({}, f'Missing key(s) in state_dict: "{name}"'),
        (
            {name: tensor, "new.weight": torch.zeros(1)},
            'Unexpected key(s) in state_dict: "new.weight"',
        ),
        ({name: torch.zeros(2, 3)}, f"size mismatch for {name}"),
    ):
        others = {other: weights for other, weights in state.items() if other != name}
        case.write(others | change, vacate(own / case.file))
        assert reason in refusal(case)


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


@each("tags", "imagebind", "clap")
def test_samples_that_overflow_the_model_have_no_score(adapter: Adapter) -> None:
    with pytest.raises(ScoreError, match="no finite number"):
        score(adapter, np.tile(np.float32([3e38, -3e38]), adapter.sample_rate))


@each()
def test_a_clip_without_a_single_frame_has_no_score(case: Case, adapter: Adapter) -> None:
    for samples in {0, 1, case.shortest - 1} - {case.shortest}:
        reason = rf"no samples|T > 0|{samples} samples is too short: at least {case.shortest}"
        with pytest.raises(ScoreError, match=reason):
            score(adapter, np.zeros(samples, np.float32))
    shortest = np.linspace(-0.5, 0.5, max(2, case.shortest), dtype=np.float32)
    assert np.isfinite(score(adapter, shortest))


@each()
@pytest.mark.parametrize("level", [0.0, -0.25])
def test_digital_silence_has_no_score_and_the_softest_sound_has_one(
    case: Case, adapter: Adapter, level: float
) -> None:
    clip = np.full(2 * adapter.sample_rate, level, np.float32)
    clip[::2] += 2**-15  # the last of 16 bits
    with pytest.raises(ScoreError, match="digital silence"):
        score(adapter, clip)
    clip[::2] += 2**-15
    assert np.isfinite(score(adapter, clip))


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
