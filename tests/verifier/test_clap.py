"""The `clap` verifier's scores against laion_clap's, with the full audio model and random weights.

The library was called in another process, as its documentation says; see clap_weights.py.
"""

import json
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


@pytest.fixture(scope="module")
def naive() -> dict[str, Any]:
    """What the library itself said, by name."""
    return json.loads((shared_folder() / "naive.json").read_text())


def score(verifier: ClapVerifier, *clips: np.ndarray, prompt: str = PROMPTS[0]) -> list[float]:
    return [score.value for score in verifier.score(clips, [prompt] * len(clips))]


# The score


def test_scores_are_those_of_the_librarys_documented_calls(
    adapter: ClapVerifier, naive: dict[str, Any]
) -> None:
    """Of a long clip: the normalised mean of windows that cover it. Too loud a clip is clipped."""
    short, *rest = (clap_weights.clip(seconds) for seconds in (2, 10, 17))
    assert np.abs(6 * short).max() > 2
    said = [naive[name][0] for name in ("short", "ten", "windows of long", "too loud")]
    assert score(adapter, short, *rest, 6 * short) == pytest.approx(said, abs=1e-5)
    other = clap_weights.clip(10, seed=1)
    both = [score.value for score in adapter.score([other, other], PROMPTS)]
    assert both == pytest.approx(naive["other"], abs=1e-5)
    assert abs(naive["other"][0] - naive["ten"][0]) > 1e-3  # the weights tell clips apart


def test_bfloat16_is_near_float32_with_a_spectrogram_that_is_exact(
    adapter: ClapVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = clap_weights.clip(2)
    expected = score(adapter, clip)
    monkeypatch.setattr(adapter, "dtype", "bfloat16")
    kinds = []
    hook = adapter._library.model.audio_branch.bn0.register_forward_pre_hook(
        lambda _, inputs: kinds.append(inputs[0].dtype)
    )
    found = score(adapter, clip)
    hook.remove()
    assert kinds == [torch.float32]
    assert found != expected
    assert found == pytest.approx(expected, abs=0.02)


# Loading


def test_a_bare_file_without_position_ids_loads_in_silence(
    own: Path, naive: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    vacate(own / CHECKPOINT).symlink_to(shared_folder() / "bare" / CHECKPOINT)
    verifier = ClapVerifier("clap")
    verifier.load("cpu")
    assert score(verifier, clap_weights.clip(10)) == pytest.approx(naive["ten"][:1], abs=1e-5)
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
