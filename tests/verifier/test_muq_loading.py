"""What the `muq` verifier loads, what it refuses to load, and what loading leaves behind."""

# ruff: noqa: F811 (fixtures are imported, then they are arguments)

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from muq import MuQ
from safetensors.torch import load_file, save_file

from src.models.muq import MuqVerifier
from src.weights.files import WeightsError
from tests.verifier.muq_fixtures import cache, muq  # noqa: F401
from tests.verifier.muq_weights import (
    MULAN,
    MUQ,
    ROBERTA,
    TEXT_TOKENS,
    folder,
    score,
    tones,
    upstream,
)


@pytest.fixture
def own(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the weights to be damaged."""
    place = tmp_path / "hub"
    shutil.copytree(cache, place)
    monkeypatch.setenv("CURATOR_WEIGHTS", str(place))
    return place


def test_neither_loading_nor_scoring_touches_the_global_random_states(cache: Path) -> None:
    def states() -> list[Any]:
        legacy_numpy = np.random.get_state()
        return [random.getstate(), [*map(str, legacy_numpy)], torch.get_rng_state().tolist()]

    random.seed(5)
    before = states()
    verifier = MuqVerifier("muq")
    verifier.load("cpu")
    score(verifier, tones(2, 8))
    assert states() == before
    with torch.random.fork_rng([]):
        upstream(cache)  # its constructor seeds what everybody draws from
        assert states()[0] != before[0]
        assert states()[2] != before[2]


def test_loading_says_nothing_on_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    MuqVerifier("muq").load("cpu")
    assert capfd.readouterr().out == ""


def test_the_backbones_own_weights_are_not_needed(own: Path, muq: MuqVerifier) -> None:
    for repository in (MUQ, ROBERTA):
        (folder(own, repository) / "model.safetensors").unlink()
    verifier = MuqVerifier("muq")
    assert verifier.missing() is None
    assert verifier.load("cpu").name == MULAN
    assert score(verifier, tones(2, 14)) == score(muq, tones(2, 14))


def test_a_pickled_checkpoint_does_as_well_as_a_safetensors_one(
    own: Path, muq: MuqVerifier
) -> None:
    weights = folder(own, MULAN) / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    verifier = MuqVerifier("muq")
    assert verifier.missing() is None
    verifier.load("cpu")
    assert score(verifier, tones(2, 15)) == score(muq, tones(2, 15))


@pytest.mark.parametrize(
    ("repository", "name"),
    [
        (MULAN, "config.json"),
        (MULAN, "model.safetensors"),
        (MUQ, "config.json"),
        (ROBERTA, "config.json"),
        (ROBERTA, "tokenizer.json"),
    ],
)
def test_a_missing_or_torn_file_is_named(own: Path, repository: str, name: str) -> None:
    path = folder(own, repository) / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        WeightsError, match=rf"{repository.replace('/', '--')}.*{name}.*--fetch muq"
    ):
        MuqVerifier("muq").load("cpu")
    path.unlink()
    assert name in (MuqVerifier("muq").missing() or "")
    with pytest.raises(WeightsError, match=rf"{name} is missing.*{repository}"):
        MuqVerifier("muq").load("cpu")


def test_a_checkpoint_of_something_else_loads_in_the_library_and_not_in_the_adapter(
    own: Path,
) -> None:
    weights = folder(own, MULAN) / "model.safetensors"
    save_file({"unrelated": torch.zeros(3)}, weights, {"format": "pt"})
    upstream(own)  # strict=False is upstream's default
    with pytest.raises(WeightsError, match=r"model.safetensors lacks mulan\."):
        MuqVerifier("muq").load("cpu")


def test_a_checkpoint_with_a_weight_too_few_too_many_or_misshapen_is_refused(own: Path) -> None:
    weights = folder(own, MULAN) / "model.safetensors"
    whole = load_file(weights)
    name = "mulan.text_to_latents.weight"
    changes: dict[str, tuple[dict[str, Any], str]] = {
        "few": ({k: x for k, x in whole.items() if k != name}, f"lacks {name}"),
        "many": ({**whole, "mulan.new": torch.zeros(1)}, "has the unknown mulan.new"),
        "misshapen": ({**whole, name: torch.zeros(3, 3)}, "size mismatch"),
    }
    for state, reason in changes.values():
        save_file(state, weights, {"format": "pt"})
        with pytest.raises(WeightsError, match=reason):
            MuqVerifier("muq").load("cpu")
    buffer = "mulan.text.model.embeddings.position_ids"  # saved by transformers before 4.31
    save_file({**whole, buffer: torch.arange(TEXT_TOKENS + 2)[None]}, weights, {"format": "pt"})
    MuqVerifier("muq").load("cpu")


def test_other_backbones_than_the_known_ones_are_refused(own: Path) -> None:
    path = folder(own, MULAN) / "config.json"
    config = json.loads(path.read_text())
    config["text_model"]["name"] = "Qwen/Qwen2-0.5B"
    path.write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"names Qwen/Qwen2-0\.5B as its text_model"):
        MuqVerifier("muq").load("cpu")


class MakesFolder:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_nothing_that_a_configuration_or_a_checkpoint_holds_is_run(
    own: Path, tmp_path: Path
) -> None:
    trap, sprung = tmp_path / "rvq.pth", tmp_path / "sprung"
    torch.save(MakesFolder(sprung), trap)
    path = folder(own, MUQ) / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "use_rvq_target": True, "rvq_ckpt_path": str(trap)}))
    with pytest.raises(WeightsError, match="lacks"):  # the quantizer that this model has not
        MuqVerifier("muq").load("cpu")
    weights = folder(own, MULAN) / "model.safetensors"
    weights.unlink()
    torch.save({"x": MakesFolder(sprung)}, weights.with_name("pytorch_model.bin"))
    with pytest.raises(WeightsError, match=r"pytorch_model.bin is torn or not MuQ-MuLan's"):
        MuqVerifier("muq").load("cpu")
    assert not sprung.exists()
    with pytest.raises(TypeError):  # of what it unpickled
        MuQ.from_pretrained(MUQ, cache_dir=str(own))
    assert sprung.exists()
