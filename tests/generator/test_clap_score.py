"""The judge `clap_score` against audiocraft's own metric: a small audio model, random weights.

What audiocraft says was asked in another process; see published.py.
"""

# ruff: noqa: F811 (fixtures are imported, then they are arguments)

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.data.audio import Clip, write_wav
from src.data.prompts import Prompt
from src.judges.base import JudgeError, at_published_loudness
from src.judges.clap_score import ClapListener, ClapScore
from src.judges.registry import JUDGES
from src.weights.files import WEIGHTS_VARIABLE, WeightsError, sha256
from tests.generator.published import (  # noqa: F401
    CLAP_CASES,
    PROMPT,
    nothing_left_behind,
    said,
    sound,
    weights,
)
from tests.verifier.clap_weights import CHECKPOINT

pytestmark = pytest.mark.slow  # the libraries' imports and the weights take half a minute

ASKED = Prompt(id="p", text=PROMPT, key="k")


@pytest.fixture(scope="module")
def judge(weights: Path) -> ClapScore:
    judge = ClapScore()
    with nothing_left_behind():
        assert judge.checkpoint.name == CHECKPOINT
    return judge


def score(judge: ClapScore, *clips: Clip) -> list[float]:
    return [judge.judge(clip, ASKED) for clip in clips]


@pytest.mark.parametrize("case", CLAP_CASES)
def test_scores_are_those_of_audiocrafts_own_metric(
    judge: ClapScore, said: dict[str, Any], case: str
) -> None:
    clip = sound(*CLAP_CASES[case])
    assert score(judge, clip) == pytest.approx([said["clap"][case]], abs=1e-5)
    others = [value for name, value in said["clap"].items() if name != case]
    assert min(abs(value - said["clap"][case]) for value in others) > 1e-3


def test_judging_leaves_the_process_as_it_was_and_computes_in_float32(
    judge: ClapScore, said: dict[str, Any]
) -> None:
    judge.listener.embed_text.cache_clear()  # type: ignore[attr-defined]
    with nothing_left_behind():
        (value,) = score(judge, sound(*CLAP_CASES["mono"]))
    assert value == pytest.approx(said["clap"]["mono"], abs=1e-5)


def test_a_long_clip_is_heard_in_fixed_windows_that_cover_it(judge: ClapScore) -> None:
    clip = sound(12, 48_000, 1)
    windows = judge.listener.listen(clip)
    assert windows.shape == (2, 512)
    assert windows.dtype == np.float32
    last = judge.listener.listen(Clip(clip.samples[:, -480_000:], 48_000))
    assert windows[1] == pytest.approx(last[0], abs=1e-6)
    assert np.linalg.norm(windows, axis=1) == pytest.approx([1, 1], abs=1e-5)
    heard = judge.listener.hear(clip).mean(0)
    text = judge.listener.embed_text(PROMPT).numpy()  # type: ignore[attr-defined]
    expected = heard @ text / np.linalg.norm(heard) / np.linalg.norm(text)
    np.random.seed(1)
    assert score(judge, Clip(clip.samples.copy(), 48_000)) == pytest.approx([expected], abs=1e-6)


def test_a_clip_is_judged_at_one_loudness_and_stays_as_it_was(judge: ClapScore) -> None:
    clip = sound(1, 32_000, 1)
    quiet, loud = (Clip(clip.samples * np.float32(x), 32_000) for x in (0.25, 3))
    assert score(judge, quiet, loud) == pytest.approx(score(judge, clip) * 2, abs=1e-4)
    assert np.array_equal(loud.samples, clip.samples * np.float32(3))
    heard = judge.listener.hear(quiet)
    assert np.array_equal(heard, judge.listener.listen(at_published_loudness(quiet)))
    assert np.abs(heard - judge.listener.listen(quiet)).max() > 1e-3


def test_a_click_in_silence_is_cut_off_in_a_copy() -> None:
    samples = np.zeros((1, 2_000_000), np.float32)
    samples[0, 9] = 1.5
    clip = Clip(samples, 32_000)
    assert at_published_loudness(clip).samples.max() == 1
    assert clip.samples.max() == 1.5


def test_a_reference_is_heard_as_loud_as_it_is(judge: ClapScore, tmp_path: Path) -> None:
    clip = sound(1, 32_000, 1)
    write_wav(tmp_path / "r.wav", clip)
    heard = judge.hear_reference(Prompt(id="p", text="", key="k", reference=tmp_path / "r.wav"))
    assert np.array_equal(heard, judge.listener.listen(clip))


def test_silence_has_a_score(judge: ClapScore) -> None:
    first, second = score(judge, *(Clip(np.zeros((1, n), np.float32), 32_000) for n in (1, 32_000)))
    assert np.isfinite(first)
    assert first == pytest.approx(second, abs=1e-6)


@pytest.mark.parametrize(
    ("samples", "rate", "reason"),
    [
        (np.full((1, 32_000), np.nan), 32_000, "NaN"),
        (np.full((2, 32_000), np.inf), 32_000, "infinite"),
        (np.zeros((1, 0)), 32_000, "0 samples"),
        (np.zeros((0, 5)), 32_000, "0 samples"),
        (np.zeros((1, 1)), 96_000, "1 samples are nothing"),
        (np.sin(np.arange(3_200))[None], 32_000, "loudness .*0.10 s"),
        (0.1 * np.sin(np.arange(32_000) / 5_000)[None], 32_000, "loudness"),  # 1 Hz
        (np.ones((6, 32_000)), 32_000, "6 channels"),
        (np.sin(np.arange(32_000))[None], 31_999, "31999 Hz .*resample"),
    ],
)
def test_a_clip_that_cannot_be_heard_is_an_error_that_names_it(
    judge: ClapScore, samples: np.ndarray, rate: int, reason: str
) -> None:
    with pytest.raises(JudgeError, match=f"the clip of p: .*{reason}"):
        score(judge, Clip(samples.astype(np.float32), rate))


def test_the_checkpoint_is_named_with_its_hash_and_what_it_shares(
    judge: ClapScore, weights: Path
) -> None:
    assert judge.checkpoint.sha256 == sha256(weights / CHECKPOINT)
    assert JUDGES["clap_score"] is ClapScore
    assert judge.is_verifier == ("clap",)
    assert "AudioSet" in judge.note


def test_tokens_beyond_77_are_counted_without_the_checkpoint(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(weights / "roberta-base", tmp_path / "roberta-base")
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    judge = ClapScore()
    judge.listener = ClapListener()
    with pytest.raises(WeightsError, match=f"{CHECKPOINT} is missing.*lukewys/laion_clap"):
        _ = judge.checkpoint
    # A token is a byte here, and two of the 77 mark start and end.
    unread = [judge.unread(Prompt(id="p", text="a" * n, key="k")) for n in (1, 75, 76, 100)]
    assert unread == [0, 0, 1, 25]
