"""Fixtures of the tests of `muq`: import them, and every test of the module has its weights."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from muq import MuQMuLan

from src.models.muq import MuqVerifier
from tests.verifier.muq_weights import make_hub_cache, upstream


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("hub")
    make_hub_cache(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CURATOR_WEIGHTS", str(place))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield place


@pytest.fixture(scope="module")
def muq(cache: Path) -> MuqVerifier:
    verifier = MuqVerifier("muq")
    verifier.load("cpu")
    return verifier


@pytest.fixture(scope="module")
def library(cache: Path) -> MuQMuLan:
    return upstream(cache, strict=True).eval()
