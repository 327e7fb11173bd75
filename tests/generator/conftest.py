"""A fixture that several test files of this folder share."""

from collections.abc import Iterator

import pytest

from tests.generator.stub_server import StubServer


@pytest.fixture
def stub() -> Iterator[StubServer]:
    server = StubServer()
    yield server
    server.stop()
