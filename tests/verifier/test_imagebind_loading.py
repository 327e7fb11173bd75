"""What the `imagebind` verifier loads, what it refuses to load, and what loading leaves behind."""

# ruff: noqa: F811 (fixtures are imported, then they are arguments)

import pickle
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from src.models import imagebind
from src.models.imagebind import ImageBindVerifier, import_imagebind
from src.verifier_core import VERIFIERS
from src.weights.files import WEIGHTS_VARIABLE, WeightsError, sha256
from tests.verifier.imagebind_fixtures import upstream, verifier, weights  # noqa: F401
from tests.verifier.imagebind_weights import (
    load_small,
    noisy_tones,
    score,
    small_imagebind,
)


def test_a_missing_file_is_named_with_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    assert "imagebind_huge.pth" in (ImageBindVerifier("imagebind").missing() or "")
    with pytest.raises(WeightsError, match=r"imagebind_huge\.pth is missing.*dl\.fbaipublicfiles"):
        load_small()


class Trap:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("sprung"),))


def _torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _junk(path: Path) -> None:
    path.write_bytes(b"<html>404</html>")


def _code(path: Path) -> None:
    path.write_bytes(pickle.dumps(Trap(), protocol=2))


def _code_in_a_checkpoint(path: Path) -> None:
    torch.save(torch.load(path, weights_only=True) | {"trap": Trap()}, path)


def _saved_model(path: Path) -> None:
    torch.save({"state_dict": torch.load(path, weights_only=True)}, path)


def _edited(edit: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        state = dict(torch.load(path, weights_only=True))
        edit(state)
        torch.save(state, path)

    return change


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_torn, "cannot be read"),
        (_junk, "cannot be read"),
        (_code, "cannot be read"),
        (_code_in_a_checkpoint, "cannot be read"),
        (_saved_model, "does not hold tensors by name"),
        (
            _edited(lambda state: state.pop("modality_heads.audio.2.weight")),
            r"1 tensors are missing \(modality_heads\.audio\.2\.weight\)",
        ),
        (
            _edited(lambda state: state.pop("modality_trunks.vision.blocks.0.mlp.fc1.bias")),
            r"1 tensors are missing \(modality_trunks\.vision",
        ),
        (
            _edited(lambda state: state.update({"head.bias": torch.zeros(1)})),
            r"1 tensors are unknown \(head\.bias\)",
        ),
        (
            _edited(
                lambda state: state.update({"modality_heads.text.proj.1.weight": torch.ones(2)})
            ),
            r"1 tensors have another shape \(modality_heads\.text\.proj\.1\.weight\)",
        ),
    ],
)
def test_a_file_that_is_not_the_whole_model_is_refused_in_one_sentence(
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path], None],
    reason: str,
) -> None:
    path = tmp_path / weights.name
    path.write_bytes(weights.read_bytes())
    monkeypatch.chdir(tmp_path)
    spoil(path)
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    with pytest.raises(WeightsError, match=rf"{reason}.*--fetch imagebind") as caught:
        load_small()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "sprung").exists()


def test_weights_of_another_size_are_refused_rather_than_loaded_in_part(weights: Path) -> None:
    with pytest.raises(WeightsError, match=r"are missing .* have another shape"):
        ImageBindVerifier("imagebind").load("cpu")  # the real architecture


# Loading


def test_the_checkpoint_is_named_with_its_hash(weights: Path) -> None:
    checkpoint = ImageBindVerifier("imagebind", small_imagebind).load("cpu")
    assert (checkpoint.name, checkpoint.sha256) == ("imagebind_huge", sha256(weights))


def test_a_file_of_the_older_format_that_cannot_be_mapped_loads_too(
    verifier: ImageBindVerifier, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = torch.load(weights, weights_only=True)
    torch.save(state, tmp_path / weights.name, _use_new_zipfile_serialization=False)
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    clip = noisy_tones(2, 17)
    assert score(load_small(), clip) == score(verifier, clip)


def test_only_what_audio_and_text_need_is_kept_in_memory(
    verifier: ImageBindVerifier, upstream: nn.Module
) -> None:
    kept = verifier._model.state_dict()
    whole = upstream.state_dict()
    assert kept.keys() == {name for name in whole if name.split(".")[1] in ("audio", "text")}
    assert all(torch.equal(kept[name], whole[name]) for name in kept)
    assert not any(parameter.requires_grad for parameter in verifier._model.parameters())


def test_a_file_that_changes_after_it_was_loaded_does_not_change_the_model(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / weights.name
    path.write_bytes(weights.read_bytes())
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    verifier, clip = load_small(), noisy_tones(2, 20)
    before = score(verifier, clip, "first prompt")
    with path.open("r+b") as file:  # in place: the memory of a mapped file would follow
        file.write(bytes(path.stat().st_size))
    assert score(verifier, clip, "first prompt") == before
    assert score(verifier, clip, "second prompt") != 0


def test_the_real_architecture_is_the_librarys_and_takes_no_memory_until_its_weights_come() -> None:
    verifier = VERIFIERS["imagebind"]("imagebind")
    assert isinstance(verifier, ImageBindVerifier)
    import_imagebind()
    model = imagebind._without_memory(verifier._architecture)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert sum(p.numel() for p in model.parameters()) == 1_200_781_057
    imagebind._drop_other_branches(model)
    assert sum(p.numel() for p in model.parameters()) == 440_268_289


def test_while_it_is_built_other_threads_make_real_tensors() -> None:
    def build() -> nn.Module:
        with ThreadPoolExecutor(1) as other:
            assert not other.submit(torch.zeros, 1).result().is_meta
        assert torch.zeros(1).is_meta
        return nn.Linear(2, 2)

    assert imagebind._without_memory(build).weight.is_meta  # as when a server loads two models


def test_loading_and_scoring_leave_every_generator_of_random_numbers_as_it_was(
    weights: Path,
) -> None:
    def states() -> tuple[Any, ...]:
        numpy_state = pickle.dumps(np.random.get_state())
        return random.getstate(), numpy_state, torch.get_rng_state().tolist()

    before = states()
    score(load_small(), noisy_tones(3, 18))
    assert states() == before


def test_loading_and_scoring_print_nothing(
    weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    score(load_small(), noisy_tones(3, 19))
    assert capfd.readouterr().out == ""
