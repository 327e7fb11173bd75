"""Weight files of strangers: tensors, containers and numpy scalars are read, code is not."""

import collections
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.weights.checkpoints import read_tensors
from tests.verifier.clap_weights import Surprise

CONTENT: dict[str, Any] = {
    "state_dict": collections.OrderedDict(w=torch.arange(6.0).reshape(2, 3).T),
    "half": torch.nn.Parameter(torch.ones(2, dtype=torch.float16), requires_grad=False),
    "settings": {"dtype": torch.bfloat16, "device": torch.device("cpu"), "shape": torch.Size([2])},
    "seen": [{"rock", "pop"}, collections.Counter("aab")],
    "optimizer": [{"lr": np.float64(1e-4), "steps": np.int64(3), "on": True, "betas": (0.9, None)}],
}


class Evaluates:
    def __reduce__(self) -> tuple:
        return eval, ("1 + 1",)


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_containers_and_scalars_are_read(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "f.pt"
    torch.save(CONTENT, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)  # torch's own way knows no numpy scalars
    found = read_tensors(path)
    assert isinstance(found, dict)
    assert torch.equal(found["state_dict"]["w"], CONTENT["state_dict"]["w"])
    assert found["half"].dtype == torch.float16
    for name in ("settings", "seen", "optimizer"):
        assert found[name] == CONTENT[name]


def test_tensors_of_the_first_torch_versions_are_read(tmp_path: Path) -> None:
    class Old:
        def __reduce__(self) -> tuple:
            storage = torch.arange(6.0)._typed_storage()
            return torch._utils._rebuild_tensor, (storage, 0, (2, 3), (3, 1))

    torch.save(Old(), tmp_path / "f.pt")
    assert torch.equal(read_tensors(tmp_path / "f.pt"), torch.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_not_run(tmp_path: Path, zipped: bool) -> None:
    path, made = tmp_path / "f.pt", tmp_path / "made"
    for content, met in (
        ({"w": Surprise(made)}, "posix.mkdir"),
        ([torch.ones(1), Evaluates()], "__builtin__.eval"),
        ({"f": torch.hub.load}, "torch.hub.load"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
    ):
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(pickle.UnpicklingError, match=met):
            read_tensors(path)
    assert not made.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_bare_pickle_is_not_run_either(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "f.pt"
    path.write_bytes(pickle.dumps(Surprise(tmp_path / "made"), protocol=protocol))
    with pytest.raises(pickle.UnpicklingError, match="mkdir"):
        read_tensors(path)
    assert not (tmp_path / "made").exists()


def test_a_program_in_the_place_of_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.pt"
    torch.jit.script(torch.nn.Linear(1, 1)).save(path)
    with pytest.raises(pickle.UnpicklingError, match="TorchScript"):
        read_tensors(path)
