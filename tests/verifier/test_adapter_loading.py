"""What every adapter does as it loads: what it needs, what it refuses, what it leaves behind."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from src.protocol import Checkpoint
from src.weights.files import WeightsError, sha256
from tests.verifier.adapters import Case, Loaded, each, vacate
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
