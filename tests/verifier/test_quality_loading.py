"""What the `quality` verifier loads, what it refuses to load, and what loading leaves behind."""

# ruff: noqa: F811 (fixtures are imported, then they are arguments)

import os
import random
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from audiobox_aesthetics.infer import AesPredictor
from audiobox_aesthetics.model import aes
from safetensors.torch import save_file

from src.models.quality import QualityVerifier
from src.weights.files import WeightsError
from tests.verifier.quality_fixtures import weights  # noqa: F401
from tests.verifier.quality_weights import (
    SMALL_WAVLM,
    axes,
    make_checkpoint,
    save_checkpoint,
    tones,
)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a checkpoint is looked for that a test makes itself."""
    monkeypatch.setenv("CURATOR_WEIGHTS", str(tmp_path))
    return tmp_path / "checkpoint.pt"


def test_neither_loading_nor_scoring_touches_the_global_random_states(
    weights: Path,
) -> None:
    library = AesPredictor(checkpoint_pth=str(weights / "checkpoint.pt"))

    def states() -> list[Any]:
        legacy_numpy = np.random.get_state()
        return [random.getstate(), legacy_numpy[1].tolist(), torch.get_rng_state().tolist()]

    np.random.random()  # the state's position moves, its numbers do not until they are used up
    before = [*states(), np.random.get_state()[2]]
    verifier = QualityVerifier("quality")
    verifier.load("cpu")
    verifier.score([tones(2, 10)], [""])
    assert [*states(), np.random.get_state()[2]] == before
    axes(library, tones(2, 10))  # draws from numpy in every layer
    assert np.random.get_state()[2] != before[-1]


def test_loading_says_nothing_on_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    QualityVerifier("quality").load("cpu")
    assert capfd.readouterr().out == ""


def test_the_library_takes_a_gpu_unasked_and_the_adapter_does_not(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    move = aes.AesMultiOutput.to

    def to(model: Any, device: Any) -> Any:
        taken.append(torch.device(device).type)
        return move(model, "cpu")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(aes.AesMultiOutput, "to", to)
    QualityVerifier("quality").load("cpu")
    assert taken == ["cpu"]

    def load(file: Any, map_location: Any) -> None:
        taken.append(torch.device(map_location).type)
        raise InterruptedError

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(InterruptedError):
        AesPredictor(checkpoint_pth=str(weights / "checkpoint.pt"))
    assert taken == ["cpu", "cuda"]


def test_a_missing_file_is_the_hubs_to_the_library_and_an_error_to_the_adapter(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def download(repository: str, name: str, **_: Any) -> str:
        asked.append(f"{repository}/{name}")
        raise FileNotFoundError

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setenv("HF_HOME", str(own.parent))
    verifier = QualityVerifier("quality")
    assert "checkpoint.pt" in (verifier.missing() or "")
    with pytest.raises(WeightsError, match=r"checkpoint\.pt is missing.*audiobox-aesthetics"):
        verifier.load("cpu")
    assert asked == []
    with pytest.raises(FileNotFoundError):
        AesPredictor(checkpoint_pth=str(own))
    assert asked == ["facebook/audiobox-aesthetics/checkpoint.pt"]


def test_a_missing_head_loads_in_silence_in_the_library_and_not_in_the_adapter(
    own: Path,
) -> None:
    checkpoint = make_checkpoint(SMALL_WAVLM.encoder_layers)
    headless = {k: v for k, v in checkpoint["state_dict"].items() if "proj_layer.PQ" not in k}
    hub_folder = own.parent
    state = {name.removeprefix("model."): weight for name, weight in headless.items()}
    save_file({n: w.clone() for n, w in state.items()}, hub_folder / "model.safetensors")
    settings = {**checkpoint["model_cfg"], "target_transform": checkpoint["target_transform"]}
    aes.AesMultiOutput.from_pretrained(hub_folder, **settings)
    save_checkpoint(own, state_dict=headless)
    with pytest.raises(WeightsError, match=r"no checkpoint of.*Missing key.*proj_layer\.PQ"):
        QualityVerifier("quality").load("cpu")


def test_a_checkpoint_with_something_else_in_it_is_refused(own: Path) -> None:
    whole = make_checkpoint(SMALL_WAVLM.encoder_layers)
    statistics, settings = whole["target_transform"], whole["model_cfg"]
    changes: list[tuple[dict[str, Any], str]] = [
        ({"state_dict": {**whole["state_dict"], "model.new": torch.zeros(1)}}, "Unexpected.*new"),
        ({"state_dict": [1, 2]}, "AttributeError"),
        ({"model_cfg": {**settings, "nth_layer": 2}}, "size mismatch"),
        ({"model_cfg": {k: v for k, v in settings.items() if k != "proj_ln"}}, "proj_ln"),
        ({"target_transform": {k: v for k, v in statistics.items() if k != "PQ"}}, "PQ"),
        ({"target_transform": {**statistics, "PQ": {"mean": 0, "std": np.nan}}}, "not finite"),
    ]
    for change, reason in changes:
        save_checkpoint(own, **change)
        with pytest.raises(WeightsError, match=rf"{reason}.*--fetch quality"):
            QualityVerifier("quality").load("cpu")


@pytest.mark.parametrize("kept", [0, 100, 50_000])
def test_a_torn_checkpoint_is_refused(own: Path, weights: Path, kept: int) -> None:
    own.write_bytes((weights / "checkpoint.pt").read_bytes()[:kept])
    with pytest.raises(WeightsError, match=r"torn.*--fetch quality"):
        QualityVerifier("quality").load("cpu")


class MakesFolder:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_nothing_that_a_checkpoint_holds_is_run(own: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    save_checkpoint(own, extra=MakesFolder(sprung))
    with pytest.raises(WeightsError, match="holds more than weights"):
        QualityVerifier("quality").load("cpu")
    assert not sprung.exists()
    AesPredictor(checkpoint_pth=str(own))
    assert sprung.exists()
