"""Audiobox Aesthetics against the library's own AesPredictor, with small random weights.

The library fixes WavLM's sizes in a module constant: SMALL_WAVLM put in its place makes a model of
0.1 M parameters instead of 104 M.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from audiobox_aesthetics.infer import AesPredictor
from audiobox_aesthetics.model import aes
from audiobox_aesthetics.model.wavlm import WavLMConfig

from src.models.quality import QualityVerifier
from src.protocol import Score
from src.weights.files import WeightsError, sha256
from tests.verifier.adapters import noisy_tones, vacate

RATE = 16_000
SMALL_WAVLM = WavLMConfig(
    {
        **vars(aes.DEFAULT_AUDIO_CFG),
        "encoder_layers": 2,
        "encoder_embed_dim": 32,
        "encoder_ffn_embed_dim": 64,
        "encoder_attention_heads": 2,
        "conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
        "conv_pos": 16,
        # 16 channels a group: with 8, oneDNN in torch 2.4.1 computes bfloat16 wrongly on a CPU.
        "conv_pos_groups": 2,
    }
)
STATISTICS = {
    axis: {"mean": 4.0 + index, "std": 1.0 + index / 4} for index, axis in enumerate(aes.AXES_NAME)
}


SETTINGS = {
    "proj_num_layer": 2,
    "proj_ln": True,
    "proj_act_fn": "gelu",
    "proj_dropout": 0.1,
    "nth_layer": SMALL_WAVLM.encoder_layers + 1,
    "use_weighted_layer_sum": True,
    "precision": "bf16",
    "normalize_embed": True,
    "output_dim": 1,
}


def small_model() -> aes.AesMultiOutput:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = aes.AesMultiOutput(**SETTINGS, target_transform=STATISTICS)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "proj_layer" in name or "layer_weights" in name:
                    weight += torch.randn_like(weight)
    return model


def save_model(folder: Path) -> None:
    """config.json and model.safetensors, as upstream's library saves and fetches them."""
    small_model().save_pretrained(folder)
    (folder / "README.md").unlink()


def make_checkpoint() -> dict[str, Any]:
    """What upstream's checkpoint.pt holds."""
    state = small_model().state_dict()
    return {
        "state_dict": {f"model.{name}": weight for name, weight in state.items()},
        "model_cfg": {**SETTINGS, "freeze_encoder": True},
        "target_transform": STATISTICS,
    }


def save_checkpoint(path: Path, **changes: Any) -> None:
    """Save a whole small checkpoint but for `changes` to its three parts."""
    torch.save({**make_checkpoint(), **changes}, path)


CASE = "quality"
tones = partial(noisy_tones, rate=RATE)


@pytest.fixture(scope="module")
def library(weights: Path) -> AesPredictor:
    """The library's own, which takes the model from the hub by its name: here from the folder."""
    load = aes.AesMultiOutput.from_pretrained
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aes.AesMultiOutput, "from_pretrained", lambda _: load(str(weights)))
        return AesPredictor(checkpoint_pth=None)


def score(verifier: QualityVerifier, audio: np.ndarray) -> Score:
    return verifier.score([audio], ["whatever"])[0]


@pytest.mark.parametrize("seconds", [0.001, 2, 10, 17, 30])
def test_score_and_axes_are_the_librarys(
    adapter: QualityVerifier, library: AesPredictor, seconds: float
) -> None:
    clip = tones(seconds, 1)
    [expected] = library.forward([{"path": torch.tensor(clip)[None], "sample_rate": RATE}])
    found = score(adapter, clip)
    assert found.components == pytest.approx(expected, abs=1e-5)
    assert list(found.components) == ["CE", "CU", "PC", "PQ"]
    assert found.value == pytest.approx((expected["PQ"] + expected["CE"]) / 20, abs=1e-6)


def test_the_prompt_has_no_influence(adapter: QualityVerifier) -> None:
    scores = adapter.score([tones(2, 6)] * 3, ["piano", "", "no piano"])
    assert len({score.value for score in scores}) == 1
    assert not adapter.needs_text


def test_a_forward_holds_a_bounded_number_of_windows(
    adapter: QualityVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    forward = aes.AesMultiOutput.forward

    def spy(model: Any, batch: dict[str, torch.Tensor]) -> Any:
        sizes.append(len(batch["wav"]))
        return forward(model, batch)

    monkeypatch.setattr(aes.AesMultiOutput, "forward", spy)
    adapter.score([tones(30, i) for i in range(5)], [""] * 5)
    assert max(sizes) <= QualityVerifier.windows_at_once
    assert sum(sizes) == 15


# Loading


def test_no_gpu_is_taken_unasked(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    move = aes.AesMultiOutput.to

    def to(model: Any, device: Any) -> Any:
        taken.append(torch.device(device).type)
        return move(model, "cpu")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(aes.AesMultiOutput, "to", to)
    QualityVerifier("quality").load("cpu")
    assert taken == ["cpu"]


def test_the_file_of_the_librarys_first_versions_does_as_well_where_the_other_is_not_there(
    own: Path, adapter: QualityVerifier
) -> None:
    save_checkpoint(own / "checkpoint.pt")
    assert QualityVerifier("quality").files[0].name == "model.safetensors"
    vacate(own / "config.json")
    verifier = QualityVerifier("quality")
    checkpoint = verifier.load("cpu")
    assert checkpoint.sha256 == sha256(own / "checkpoint.pt")
    assert score(verifier, tones(2, 3)) == score(adapter, tones(2, 3))


def test_a_configuration_may_have_more_settings_and_must_have_the_statistics(
    own: Path, adapter: QualityVerifier
) -> None:
    config = json.loads((own / "config.json").read_text())
    vacate(own / "config.json").write_text(json.dumps(config | {"added_later": 1}))
    verifier = QualityVerifier("quality")
    verifier.load("cpu")
    assert score(verifier, tones(2, 3)) == score(adapter, tones(2, 3))
    del config["target_transform"]["PQ"]
    (own / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"config\.json.*PQ.*--fetch quality"):
        verifier.load("cpu")


def test_a_checkpoint_with_something_else_in_it_is_refused(own: Path) -> None:
    whole = make_checkpoint()
    statistics, settings = whole["target_transform"], whole["model_cfg"]
    changes: list[tuple[dict[str, Any], str]] = [
        ({"model_cfg": {**settings, "nth_layer": 2}}, "size mismatch"),
        ({"model_cfg": {k: v for k, v in settings.items() if k != "proj_ln"}}, "proj_ln"),
        ({"target_transform": {k: v for k, v in statistics.items() if k != "PQ"}}, "PQ"),
    ]
    for change, reason in changes:
        vacate(own / "model.safetensors")
        save_checkpoint(vacate(own / "checkpoint.pt"), **change)
        with pytest.raises(WeightsError, match=rf"{reason}.*--fetch quality"):
            QualityVerifier("quality").load("cpu")
