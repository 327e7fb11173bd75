"""Servers for the tests of this folder, each started when the first test asks for it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.verifier.adapters import adapter, case, loaded, own, weights  # noqa: F401 (fixtures)
from tests.verifier.fetching import fetched, mirror  # noqa: F401 (fixtures)
from tests.verifier.server_process import ServerProcess

# Triton decides for interpreter or compiler when it is imported, which other libraries do too.
os.environ["TRITON_INTERPRET"] = "1"
MODELS = ("--models", "fake", "fake48", "broken", "slow_to_load")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("server") / "log"
    with ServerProcess(log, *MODELS, "--batch.max_clips", "4", "--max_requests", "64") as server:
        server.wait_until_ready()
        yield server
        assert server.process.poll() is None, f"the server died: {server.log.read_text()}"


@pytest.fixture(scope="session")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with a token and small limits."""
    log = tmp_path_factory.mktemp("strict") / "log"
    options = ["--models", "fake", "--max_requests", "2", "--upload_seconds", "1"]
    options += ["--batch.max_clips", "1", "--batch.max_queue", "4"]
    options += ["--limits.max_files", "4", "--limits.max_body_bytes", "100000"]
    with ServerProcess(log, *options, token="hunter2") as server:
        yield server


@pytest.fixture
def nothing_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The one folder in which weights are looked for; it is empty."""
    for name in ("CURATOR_WEIGHTS", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path
