"""Fixtures of the tests of `quality`: import them, and every test of the module has its weights."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from audiobox_aesthetics.infer import AesPredictor
from audiobox_aesthetics.model import aes

from src.models.quality import QualityVerifier
from tests.verifier.quality_weights import SMALL_WAVLM, save_checkpoint


@pytest.fixture(scope="module", autouse=True)
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aes, "DEFAULT_AUDIO_CFG", SMALL_WAVLM)
        patch.setenv("CURATOR_WEIGHTS", str(place))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        save_checkpoint(place / "checkpoint.pt")
        yield place


@pytest.fixture(scope="module")
def quality(weights: Path) -> QualityVerifier:
    verifier = QualityVerifier("quality")
    verifier.load("cpu")
    return verifier


@pytest.fixture(scope="module")
def library(weights: Path) -> AesPredictor:
    return AesPredictor(checkpoint_pth=str(weights / "checkpoint.pt"))
