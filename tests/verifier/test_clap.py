"""The `clap` verifier's scores against laion_clap's, with the full audio model and random weights.

The library was called in another process, as its documentation says; see clap_weights.py.
"""

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.models.clap import ClapVerifier
from src.weights.files import WeightsError
from tests.verifier import clap_weights
from tests.verifier.adapters import vacate
from tests.verifier.clap_weights import CHECKPOINT, PROMPTS, shared_folder

pytestmark = pytest.mark.slow  # the libraries' imports and the weights take half a minute

CASE = "clap"
PROMPT = PROMPTS[0]
LENGTHS = (2, 10, 17)


@pytest.fixture(scope="module")
def naive() -> dict[str, Any]:
    """What the library itself said, by name."""
    return clap_weights.shared_naive()


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return [clap_weights.clip(seconds) for seconds in LENGTHS]


@pytest.fixture(scope="module")
def values(adapter: ClapVerifier, clips: list[np.ndarray]) -> list[float]:
    """The scores of `clips`, in one call."""
    return score(adapter, *clips)


def score(verifier: ClapVerifier, *clips: np.ndarray, prompt: str = PROMPT) -> list[float]:
    return [score.value for score in verifier.score(clips, [prompt] * len(clips))]


# The score


def test_scores_are_those_of_the_librarys_documented_calls(
    adapter: ClapVerifier, values: list[float], naive: dict[str, Any]
) -> None:
    other = clap_weights.clip(10, seed=1)
    assert values[1] == pytest.approx(naive["ten"][0], abs=1e-5)
    assert values[0] == pytest.approx(naive["short"][0], abs=1e-5)
    both = [score.value for score in adapter.score([other, other], PROMPTS)]
    assert both == pytest.approx(naive["other"], abs=1e-5)
    assert abs(naive["other"][0] - naive["ten"][0]) > 1e-3  # the weights tell clips apart


def test_a_clip_beyond_full_scale_is_clipped_as_the_library_does(
    adapter: ClapVerifier, clips: list[np.ndarray], naive: dict[str, Any]
) -> None:
    loud = 6 * clips[0]
    assert np.abs(loud).max() > 2
    assert score(adapter, loud) == pytest.approx(naive["too loud"][:1], abs=1e-5)


def test_a_long_clip_is_the_normalised_mean_of_windows_that_cover_it(
    values: list[float], naive: dict[str, Any]
) -> None:
    assert values[2] == pytest.approx(naive["windows of long"][0], abs=1e-5)


def test_bfloat16_is_near_float32_with_a_spectrogram_that_is_exact(
    adapter: ClapVerifier,
    clips: list[np.ndarray],
    values: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adapter, "dtype", "bfloat16")
    kinds = []
    hook = adapter._library.model.audio_branch.bn0.register_forward_pre_hook(
        lambda _, inputs: kinds.append(inputs[0].dtype)
    )
    (value,) = score(adapter, clips[0])
    hook.remove()
    assert kinds == [torch.float32]
    assert value != values[0]
    assert value == pytest.approx(values[0], abs=0.02)


# Loading


def test_nothing_of_bert_or_bart_and_no_roberta_weights_are_needed(naive: dict[str, Any]) -> None:
    assert naive["import without tokenizers"]  # the library alone cannot even be imported
    repositories = {file.repository for file in ClapVerifier.files}
    assert repositories == {"lukewys/laion_clap", "roberta-base"}


def test_a_bare_file_without_position_ids_loads_in_silence_and_without_network(
    own: Path,
    naive: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    vacate(own / CHECKPOINT).symlink_to(shared_folder() / "bare" / CHECKPOINT)
    tries: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: tries.append(address))
    verifier = ClapVerifier("clap")
    verifier.load("cpu")
    scores = score(verifier, clap_weights.clip(10))
    assert scores == pytest.approx(naive["ten"][:1], abs=1e-5)
    assert tries == []
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("vocab.json", "{", "cannot be read"),
        ("vocab.json", '{"a": 0, "<pad>": 300}', "not of the same RoBERTa"),
        ("config.json", '{"vocab_size": 9}', "not of the same RoBERTa"),
        ("config.json", '{"pad_token_id": 3}', "not of the same RoBERTa"),
    ],
)
def test_another_models_tokenizer_is_refused(own: Path, name: str, text: str, reason: str) -> None:
    vacate(own / "roberta-base" / name).write_text(text)
    with pytest.raises(WeightsError, match=reason):
        ClapVerifier("clap").load("cpu")
