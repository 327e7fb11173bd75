"""The judges of MusicGen's published figures against audiocraft's own metrics.

clap_score with a small CLAP, kld_* with a small PaSST, both of random weights. What audiocraft says
was asked in another process; see published.py.
"""

# ruff: noqa: F811 (fixtures are imported, then they are arguments)

import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.data.audio import Clip, resample, write_wav
from src.data.prompts import Prompt
from src.judges.base import ClipJudge, JudgeError, reference_path
from src.judges.clap_score import ClapListener, ClapScore
from src.judges.passt import CHECKPOINT, PasstListener
from src.judges.published import at_published_loudness
from src.judges.registry import JUDGES
from src.weights.files import WEIGHTS_VARIABLE, WeightsError, locate, sha256
from tests.generator.published import (  # noqa: F401
    CLAP_CASES,
    KLD_CASES,
    PROMPT,
    nothing_left_behind,
    reference,
    said,
    sound,
    weights,
)
from tests.verifier import clap_weights

pytestmark = pytest.mark.slow  # the libraries' imports and the weights take half a minute

NAMES = ("kld_pq", "kld_qp", "kld_both")
SHORT = (1, 32_000, 1)


@pytest.fixture(scope="module")
def judge(weights: Path) -> ClapScore:
    judge = ClapScore()
    with nothing_left_behind():
        assert judge.checkpoint.name == clap_weights.CHECKPOINT
    return judge


def score(judge: ClapScore, *clips: Clip) -> list[float]:
    prompt = Prompt(id="p", text=PROMPT, key="k")
    return [judge.judge(clip, prompt) for clip in clips]


@pytest.fixture(scope="module")
def listener(weights: Path) -> PasstListener:
    """What the judges kld_* of this module hear through."""
    listener = PasstListener.shared("cpu")
    with nothing_left_behind():
        assert listener.checkpoint.name == CHECKPOINT.name
    return listener


@pytest.fixture
def heard(listener: PasstListener, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Samples of each piece of audio that goes through the network from here on."""
    lengths: list[int] = []
    hear = listener._posteriors

    def spy(samples: torch.Tensor) -> np.ndarray:
        lengths.append(len(samples))
        return hear(samples)

    monkeypatch.setattr(listener, "_posteriors", spy)
    return lengths


def asked(folder: Path, clip: Clip | None, name: str = "r.wav") -> Prompt:
    """A prompt with that reference."""
    if clip is not None:
        write_wav(folder / name, clip)
    return Prompt(id="p", text="x", key="k", reference=folder / name)


def values(clip: Clip, prompt: Prompt) -> list[float]:
    """kld_pq, kld_qp, kld_both."""
    return [one(name).judge(clip, prompt) for name in NAMES]


def one(name: str = "kld_pq") -> ClipJudge:
    judge = JUDGES[name]()
    assert isinstance(judge, ClipJudge)
    return judge


def first(clip: Clip, seconds: float) -> Clip:
    return Clip(clip.samples[:, : round(seconds * clip.rate)].copy(), clip.rate)


@pytest.mark.parametrize("case", CLAP_CASES)
def test_clap_scores_are_those_of_audiocrafts_own_metric(
    judge: ClapScore, said: dict[str, Any], case: str
) -> None:
    clip = sound(*CLAP_CASES[case])
    assert score(judge, clip) == pytest.approx([said["clap"][case]], abs=1e-5)
    others = [value for name, value in said["clap"].items() if name != case]
    assert min(abs(value - said["clap"][case]) for value in others) > 1e-3


@pytest.mark.parametrize("case", KLD_CASES)
def test_divergences_are_those_of_audiocrafts_own_metric(
    listener: PasstListener, said: dict[str, Any], tmp_path: Path, case: str
) -> None:
    clip, prompt = sound(*KLD_CASES[case]), asked(tmp_path, reference(*KLD_CASES[case]))
    expected = [said["kld"][case][name] for name in NAMES]
    assert values(clip, prompt) == pytest.approx(expected, abs=1e-5)
    assert abs(expected[0] - expected[1]) > 0.01
    assert expected[2] == pytest.approx(expected[0] + expected[1])
    posteriors, _ = listener.hear_pair(clip, prompt, reference_path(prompt))
    assert posteriors.shape == (2 if case == "two pieces" else 1, 527)
    assert posteriors.sum(1) == pytest.approx(1, abs=1e-5)


def test_judging_leaves_the_process_as_it_was_and_computes_in_float32(
    judge: ClapScore, listener: PasstListener, said: dict[str, Any], tmp_path: Path
) -> None:
    prompt = asked(tmp_path, reference(*KLD_CASES["low"]))
    judge.listener.embed_text.cache_clear()  # type: ignore[attr-defined]
    with nothing_left_behind():
        scores = score(judge, sound(*CLAP_CASES["mono"]))
        divergences = values(sound(*KLD_CASES["low"]), prompt)
    assert scores == pytest.approx([said["clap"]["mono"]], abs=1e-5)
    assert divergences == pytest.approx([said["kld"]["low"][name] for name in NAMES], abs=1e-5)


# What is heard, and how loud


def test_a_long_clip_is_heard_in_fixed_windows_of_one_length_each(judge: ClapScore) -> None:
    clip = sound(12, 48_000, 1)
    windows = judge.listener.listen(clip)
    assert (windows.shape, windows.dtype) == ((2, 512), np.float32)
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


def test_a_clip_like_its_reference_is_near_zero_at_any_loudness_of_the_clip_alone(
    listener: PasstListener, tmp_path: Path
) -> None:
    clip = sound(*SHORT)
    quiet = Clip(clip.samples * np.float32(0.25), clip.rate)
    loud = asked(tmp_path, at_published_loudness(clip), "loud.wav")
    assert max(values(clip, loud) + values(quiet, loud)) < 1e-3
    assert np.array_equal(clip.samples, sound(*SHORT).samples)
    # the reference is not normalised
    assert values(quiet, asked(tmp_path, quiet, "quiet.wav"))[0] > 0.01


def test_a_short_clip_is_compared_with_its_references_first_seconds(
    listener: PasstListener, tmp_path: Path
) -> None:
    clip, long = sound(*SHORT), reference(2, 32_000, 1)
    expected = values(clip, asked(tmp_path, first(long, 1), "first.wav"))
    assert values(clip, asked(tmp_path, long, "long.wav")) == expected
    whole = first(sound(2, 32_000, 1), 2)
    assert values(whole, asked(tmp_path, long, "long.wav"))[0] != pytest.approx(expected[0])


def test_of_a_clip_that_outlasts_its_reference_the_rest_is_not_heard(
    listener: PasstListener, tmp_path: Path
) -> None:
    clip, prompt = sound(2, 32_000, 1), asked(tmp_path, reference(*SHORT))
    loud = Clip(clip.samples.copy(), clip.rate)
    loud.samples[:, 32_000:] = 1  # nor does it count for the loudness
    assert values(loud, prompt) == values(first(clip, 1), prompt)


@pytest.mark.parametrize(
    ("samples", "rate", "other"), [(44_101, 44_100, 32_000), (32_001, 32_000, 44_100)]
)
def test_clips_of_another_rate_are_compared_over_the_same_time(
    listener: PasstListener, heard: list[int], tmp_path: Path, samples: int, rate: int, other: int
) -> None:
    clip = resample(sound(1.2, 32_000, 2), rate)
    clip = Clip(clip.samples[:, :samples].copy(), rate)
    prompt = asked(tmp_path, resample(reference(1.5, 32_000, 1), other))
    assert all(np.isfinite(values(clip, prompt)))
    assert heard == [32_000, 32_000]  # one of them came out a sample longer


def test_three_judges_hear_a_clip_once_and_all_clips_of_a_prompt_its_reference_once(
    listener: PasstListener, heard: list[int], tmp_path: Path
) -> None:
    prompt = asked(tmp_path, reference(*SHORT))
    clips = [sound(*SHORT), sound(*SHORT, seed=5)]
    found = [values(clip, prompt) for clip in clips]
    assert len(heard) == 3
    assert found[0][0] != found[1][0]
    other = asked(tmp_path, reference(2, 32_000, 1), "other.wav")
    assert values(clips[0], other)[0] == pytest.approx(found[0][0], abs=1)  # another pair
    assert len(heard) == 4


def test_silence_is_judged(judge: ClapScore, listener: PasstListener, tmp_path: Path) -> None:
    shortest, silence = (Clip(np.zeros((1, n), np.float32), 32_000) for n in (1, 32_000))
    first, second = score(judge, shortest, silence)
    assert np.isfinite(first)
    assert first == pytest.approx(second, abs=1e-6)
    assert max(values(silence, asked(tmp_path, silence, "silence.wav"))) < 1e-4
    for clip, other in ((silence, reference(*SHORT)), (sound(*SHORT), silence)):
        found = values(clip, asked(tmp_path, other))
        assert all(np.isfinite(found))
        assert min(found) > 0.01


NAN = np.full((1, 32_000), np.nan)


@pytest.mark.parametrize(
    ("name", "samples", "rate", "reason"),
    [
        ("clap_score", NAN, 32_000, "NaN"),
        ("clap_score", np.full((2, 32_000), np.inf), 32_000, "infinite"),
        ("clap_score", np.zeros((1, 0)), 32_000, "0 samples"),
        ("clap_score", np.zeros((0, 5)), 32_000, "0 samples"),
        ("clap_score", np.zeros((1, 1)), 96_000, "1 samples are nothing"),
        ("clap_score", np.sin(np.arange(3_200))[None], 32_000, "loudness .*0.10 s"),
        ("clap_score", 0.1 * np.sin(np.arange(32_000) / 5_000)[None], 32_000, "loudness"),  # 1 Hz
        ("clap_score", np.ones((6, 32_000)), 32_000, "6 channels"),
        ("clap_score", np.sin(np.arange(32_000))[None], 31_999, "31999 Hz .*resample"),
        ("kld_pq", NAN, 32_000, "NaN"),
        ("kld_pq", np.zeros((1, 0)), 32_000, "0 samples"),
        ("kld_pq", np.zeros((1, 4_800)), 32_000, "0.15 s is too short"),
        ("kld_pq", 0.5 * np.sin(np.arange(9_000))[None], 32_000, "loudness .*0.28 s"),
    ],
)
def test_a_clip_that_cannot_be_heard_is_an_error_that_names_it(
    weights: Path, tmp_path: Path, name: str, samples: np.ndarray, rate: int, reason: str
) -> None:
    prompt = asked(tmp_path, reference(*SHORT))
    with pytest.raises(JudgeError, match=f"the clip of p: .*{reason}"):
        one(name).judge(Clip(samples.astype(np.float32), rate), prompt)


def test_a_reference_that_is_missing_or_broken_is_an_error_that_names_it(
    listener: PasstListener, tmp_path: Path
) -> None:
    nan = Clip(NAN.astype(np.float32), 32_000)
    (tmp_path / "text.wav").write_text("not audio")
    for prompt, reason in (
        (Prompt(id="p", text="x", key="k"), "prompt p has no reference audio"),
        (asked(tmp_path, None, "gone.wav"), "reference of p: .*gone.wav"),
        (asked(tmp_path, None, "text.wav"), "reference of p: .*text.wav"),
        (asked(tmp_path, nan, "nan.wav"), "reference of p: .*nan.wav: .*holds NaN"),
    ):
        with pytest.raises(JudgeError, match=reason):
            one().judge(sound(*SHORT), prompt)


# Weights


def test_judges_say_their_weights_and_what_they_depend_on(
    judge: ClapScore, listener: PasstListener, weights: Path
) -> None:
    assert judge.checkpoint.sha256 == sha256(weights / clap_weights.CHECKPOINT)
    assert JUDGES["clap_score"] is ClapScore
    assert judge.is_verifier == ("clap",)
    for name in NAMES:
        assert one(name).listener is listener
        assert one(name).checkpoint.sha256 == sha256(weights / CHECKPOINT.name)
        assert one(name).licence == "Apache-2.0"
    assert all("AudioSet" in one(name).note for name in ("clap_score", *NAMES))


def test_the_file_is_found_where_torch_hub_keeps_it_and_not_downloaded(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: tries.append(address))
    monkeypatch.delenv(WEIGHTS_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=r"is missing.*github\.com/kkoutini"):
        _ = PasstListener().checkpoint
    assert tries == []
    for home in (tmp_path / "torch", tmp_path / "own"):
        file = home / "hub" / "checkpoints" / CHECKPOINT.name
        file.parent.mkdir(parents=True)
        file.symlink_to(weights / CHECKPOINT.name)
        assert locate(CHECKPOINT) == file
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "own"))


def test_another_models_file_is_refused_with_the_command_that_gets_the_right_one(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    state = torch.load(str(weights / CHECKPOINT.name), weights_only=True, mmap=True)
    # the network for 10 s
    state["time_new_pos_embed"] = state["time_new_pos_embed"][..., :99].clone()
    torch.save(state, tmp_path / CHECKPOINT.name)
    with pytest.raises(WeightsError, match=r"time_new_pos_embed.*--fetch kld_pq"):
        _ = PasstListener().checkpoint


def test_tokens_beyond_77_are_counted_without_the_checkpoint(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(weights / "roberta-base", tmp_path / "roberta-base")
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    judge = ClapScore()
    judge.listener = ClapListener()
    with pytest.raises(
        WeightsError, match=f"{clap_weights.CHECKPOINT} is missing.*lukewys/laion_clap"
    ):
        _ = judge.checkpoint
    # A token is a byte here, and two of the 77 mark start and end.
    unread = [judge.unread(Prompt(id="p", text="a" * n, key="k")) for n in (1, 75, 76, 100)]
    assert unread == [0, 0, 1, 25]
