"""The `clap` verifier's scores against laion_clap's, with the full audio model and random weights.

The library was called in another process, as its documentation says; see clap_weights.py.
"""

# ruff: noqa: F811 (fixtures are imported, then they are arguments)

from typing import Any

import numpy as np
import pytest
import torch

from src.data.audio import Clip, resample, to_mono
from src.models import clap
from src.models.adapter import ScoreError
from src.models.clap import ClapVerifier
from tests.verifier import clap_weights
from tests.verifier.clap_fixtures import environment, loaded, naive  # noqa: F401
from tests.verifier.clap_weights import LONG_PROMPTS, PROMPTS, RATE, WINDOW, Loaded

pytestmark = pytest.mark.slow  # the libraries' imports and the weights take half a minute

PROMPT = PROMPTS[0]
LENGTHS = (2, 10, 17, 30)


@pytest.fixture(scope="module")
def verifier(loaded: Loaded) -> ClapVerifier:
    return loaded.verifier


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return [clap_weights.clip(seconds) for seconds in LENGTHS]


@pytest.fixture(scope="module")
def values(verifier: ClapVerifier, clips: list[np.ndarray]) -> list[float]:
    """The scores of `clips`, in one call."""
    return score(verifier, *clips)


def score(verifier: ClapVerifier, *clips: np.ndarray, prompt: str = PROMPT) -> list[float]:
    return [score.value for score in verifier.score(clips, [prompt] * len(clips))]


# The score


def test_scores_are_those_of_the_librarys_documented_calls(
    verifier: ClapVerifier, values: list[float], naive: dict[str, Any]
) -> None:
    other = clap_weights.clip(10, seed=1)
    assert values[1] == pytest.approx(naive["ten"][0], abs=1e-5)
    assert values[0] == pytest.approx(naive["short"][0], abs=1e-5)
    both = [score.value for score in verifier.score([other, other], PROMPTS)]
    assert both == pytest.approx(naive["other"], abs=1e-5)
    assert abs(naive["other"][0] - naive["ten"][0]) > 1e-3  # the weights tell clips apart


def test_a_clip_beyond_full_scale_is_clipped_as_the_library_does(
    verifier: ClapVerifier, clips: list[np.ndarray], naive: dict[str, Any]
) -> None:
    loud = 6 * clips[0]
    assert np.abs(loud).max() > 2
    assert score(verifier, loud) == pytest.approx(naive["too loud"][:1], abs=1e-5)


def test_a_long_clip_is_the_normalised_mean_of_windows_that_cover_it(
    values: list[float], naive: dict[str, Any]
) -> None:
    assert values[2] == pytest.approx(naive["windows of long"][0], abs=1e-5)


def test_the_library_hears_a_random_crop_and_the_verifier_does_not(
    verifier: ClapVerifier, clips: list[np.ndarray], values: list[float], naive: dict[str, Any]
) -> None:
    first, second = naive["crops of long"]
    assert abs(first - second) > 1e-4
    np.random.seed(1)
    assert score(verifier, clips[2]) == pytest.approx([values[2]], abs=1e-6)


def test_neither_the_batch_nor_its_order_nor_its_chunks_change_a_score(
    verifier: ClapVerifier,
    clips: list[np.ndarray],
    values: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert score(verifier, clips[0]) == pytest.approx([values[0]], abs=1e-6)
    calls = []
    embed = verifier._library.get_audio_embedding_from_data

    def spy(waves: list[torch.Tensor], use_tensor: bool) -> torch.Tensor:
        calls.append(len(waves))
        return embed(waves, use_tensor=use_tensor)

    monkeypatch.setattr(clap, "WINDOWS_AT_ONCE", 3)
    monkeypatch.setattr(verifier._library, "get_audio_embedding_from_data", spy)
    assert score(verifier, *clips[2::-1]) == pytest.approx(values[2::-1], abs=1e-6)
    assert calls == [3, 1]


@pytest.mark.parametrize(("index", "second"), [(1, 9), (2, 16), (2, 8), (3, 29)])
def test_every_part_of_a_clip_is_heard(
    verifier: ClapVerifier,
    clips: list[np.ndarray],
    values: list[float],
    index: int,
    second: int,
) -> None:
    changed = clips[index].copy()
    changed[second * RATE : (second + 1) * RATE] = clap_weights.clip(1, seed=5)
    assert abs(score(verifier, changed)[0] - values[index]) > 1e-5


def test_stereo_and_other_rates_come_through_the_servers_own_path(
    verifier: ClapVerifier, clips: list[np.ndarray], values: list[float]
) -> None:
    through = []
    for rate in (16_000, 44_100, 48_000):
        upload = resample(Clip(np.stack([clips[0], clips[0]]), RATE), rate)
        through.append(resample(to_mono(upload), verifier.sample_rate).samples[0])
    low, middle, same = score(verifier, *through)
    assert same == pytest.approx(values[0], abs=1e-6)
    assert middle == pytest.approx(values[0], abs=0.02)
    assert abs(low - middle) > 1e-5  # nothing is left above 8 kHz


def test_the_library_cuts_prompts_at_77_tokens_and_the_verifier_keeps_that(
    verifier: ClapVerifier, clips: list[np.ndarray], naive: dict[str, Any]
) -> None:
    assert naive["long prompts are one"]
    first, second = verifier.score([clips[0], clips[0]], LONG_PROMPTS)
    assert first == second
    # of a token a byte, 75 are read, between the marks of start and end
    assert [verifier.unread_tokens("a" * n) for n in (0, 75, 76, 80)] == [0, 0, 1, 5]


def test_bfloat16_is_near_float32_with_a_spectrogram_that_is_exact(
    verifier: ClapVerifier,
    clips: list[np.ndarray],
    values: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verifier, "dtype", "bfloat16")
    kinds = []
    hook = verifier._library.model.audio_branch.bn0.register_forward_pre_hook(
        lambda _, inputs: kinds.append(inputs[0].dtype)
    )
    (value,) = score(verifier, clips[0])
    hook.remove()
    assert kinds == [torch.float32]
    assert value != values[0]
    assert value == pytest.approx(values[0], abs=0.02)


# What is refused


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_clip_that_is_not_finite_is_refused_where_the_library_hears_silence(
    verifier: ClapVerifier, naive: dict[str, Any], bad: float
) -> None:
    assert naive["nan is silence"]
    clip = np.zeros(WINDOW, np.float32)
    clip[7] = bad
    with pytest.raises(ScoreError, match="NaN or infinite"):
        verifier.score([clip], [PROMPT])


def test_an_empty_clip_is_refused(verifier: ClapVerifier) -> None:
    with pytest.raises(ScoreError, match="no samples"):
        verifier.score([np.zeros(0, np.float32)], [PROMPT])


def test_an_embedding_that_is_not_finite_is_refused(
    verifier: ClapVerifier, clips: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    # An embedding of no length has no direction either: no score of 0 is made of it.
    monkeypatch.setattr(
        verifier._library,
        "get_audio_embedding_from_data",
        lambda waves, use_tensor: torch.zeros(len(waves), 512),
    )
    with pytest.raises(ScoreError, match="no finite number"):
        verifier.score([clips[0]], [PROMPT])
