"""Fixtures that several test files of this folder share."""

from collections.abc import Iterator

import pytest

from src.client import ServerClient
from tests.generator.stub_server import StubServer


@pytest.fixture
def stub() -> Iterator[StubServer]:
    server = StubServer()
    yield server
    server.stop()


@pytest.fixture
def client(stub: StubServer) -> ServerClient:
    return stub.client
