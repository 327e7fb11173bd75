"""Fixtures of the tests of `imagebind`: import them, and each test of a module has its weights."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from src.models.imagebind import ImageBindVerifier
from src.weights.files import WEIGHTS_VARIABLE
from tests.verifier.imagebind_weights import load_small, small_imagebind, write_imagebind_weights


@pytest.fixture(scope="module", autouse=True)
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file, where the adapter finds it."""
    torch.set_num_threads(1)
    path = write_imagebind_weights(tmp_path_factory.mktemp("weights"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv(WEIGHTS_VARIABLE, str(path.parent))
        yield path


@pytest.fixture(scope="module")
def verifier(weights: Path) -> ImageBindVerifier:
    return load_small()


@pytest.fixture(scope="module")
def upstream(weights: Path) -> nn.Module:
    """The whole model, loaded as upstream loads it."""
    model = small_imagebind()
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model.eval()
