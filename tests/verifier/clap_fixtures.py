"""Fixtures of the tests of `clap`: import them, and every test of the module has its weights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from src.weights.files import WEIGHTS_VARIABLE
from tests.verifier.clap_weights import Loaded, shared_folder, shared_naive, shared_verifier


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user's own folder of weights, and a hub cache with nothing in it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv(WEIGHTS_VARIABLE, str(shared_folder() / "weights"))
        monkeypatch.setenv("HF_HOME", str(tmp_path_factory.mktemp("empty hub")))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        monkeypatch.delenv("HF_HUB_CACHE", raising=False)
        yield


@pytest.fixture(scope="module")
def naive() -> dict[str, Any]:
    """What the library itself said, by name."""
    return shared_naive()


@pytest.fixture(scope="module")
def made() -> Path:
    """weights/ and bare/."""
    return shared_folder()


@pytest.fixture(scope="module")
def loaded(environment: None) -> Loaded:
    return shared_verifier()
