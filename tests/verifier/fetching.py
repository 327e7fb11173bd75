"""What the tests of --fetch download: three files, from a hub and elsewhere, and who needs them."""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from src.runs import fetch
from src.verifier_core import VERIFIERS
from src.weights.files import WeightFile
from tests.hub_server import HubServer, hub_server

Fetch = Callable[..., bool]

LARGE, SMALL, PLAIN = "owner/model/large.bin", "owner/model/config.json", "plain.pth"
CONTENT = {
    LARGE: np.random.default_rng(0).bytes(300_000),
    SMALL: b'{"size": 1}',
    PLAIN: np.random.default_rng(1).bytes(200_000),
}


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The hub of this process, and an empty weights folder to download into."""
    from huggingface_hub import constants
    from huggingface_hub.utils import reset_sessions

    with hub_server() as mirror:
        mirror.files.update(CONTENT)
        environment = {
            "HF_ENDPOINT": mirror.url,
            **dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_XET"), "0"),
            "HF_HOME": str(tmp_path / "hf"),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "CURATOR_WEIGHTS": str(tmp_path / "weights"),
            **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"),
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        # It has read its variables already, when another test imported it.
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        reset_sessions()
        monkeypatch.setattr(fetch, "PAUSE_SECONDS", 0.0)
        # What is read of a chunk when the connection breaks is lost.
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
        yield mirror
    reset_sessions()


@pytest.fixture
def fetched(mirror: HubServer, monkeypatch: pytest.MonkeyPatch) -> Fetch:
    """Runs --fetch for a verifier that needs these files; says whether it got them."""

    def run(*needed: WeightFile, licence: str = "MIT") -> bool:
        small = SimpleNamespace(files=needed, licence=licence)
        monkeypatch.setitem(VERIFIERS, "small", lambda _: small)
        return fetch.fetch(["small", "small"]) == 0

    return run


def file(name: str, sha256: str = "") -> WeightFile:
    """What an adapter says of one of the files."""
    repository, _, short = name.rpartition("/")
    url = "" if repository else f"{os.environ['HF_ENDPOINT']}/{name}"
    return WeightFile(short, repository=repository, url=url, sha256=sha256)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
