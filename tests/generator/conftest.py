"""Fixtures that several test files of this folder share."""

from collections.abc import Callable, Iterator

import pytest

from src.client import ServerClient
from src.runs.settings import Settings, parse
from tests.generator.stub_server import StubServer


@pytest.fixture
def stub() -> Iterator[StubServer]:
    server = StubServer()
    yield server
    server.stop()


@pytest.fixture
def client(stub: StubServer) -> ServerClient:
    return stub.client


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Parses flags that are wrong usage. Returns what was said, as one line."""

    def said(kind: type[Settings], *args: str) -> str:
        with pytest.raises(SystemExit) as ended:
            parse(kind, args, prog="script.py")
        assert ended.value.code == 2
        return " ".join("".join(capsys.readouterr()).split())

    return said
