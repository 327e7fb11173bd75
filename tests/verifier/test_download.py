"""One file from a real HTTP server that answers as the hub does, with a fault in each test."""

import fcntl
import re
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from src.data.files import WriteError
from src.weights.files import find, locate
from tests.hub_server import HubServer
from tests.verifier.fetching import CONTENT, LARGE, PLAIN, SMALL, Fetch, file, sha256

BOTH = pytest.mark.parametrize("name", [LARGE, PLAIN])
Log = pytest.LogCaptureFixture


def is_whole(name: str) -> bool:
    return locate(file(name)).read_bytes() == CONTENT[name]


@BOTH
def test_a_download_that_is_cut_goes_on_where_it_stopped(
    mirror: HubServer, fetched: Fetch, name: str
) -> None:
    mirror.cut[name] = [*[20_000] * 8, 10**9]
    assert fetched(file(name))
    assert is_whole(name)
    assert mirror.downloads(name) == [20_000 * cut for cut in range(9)]


@BOTH
@pytest.mark.parametrize("changed", [False, True])
def test_a_later_run_goes_on_where_an_earlier_one_gave_up_unless_the_file_changed(
    mirror: HubServer, fetched: Fetch, name: str, changed: bool, caplog: Log
) -> None:
    mirror.cut[name] = [120_000, 0]
    assert not fetched(file(name))
    assert "broke off" in caplog.text
    assert "the same command goes on" in caplog.text
    assert find(file(name)) is None
    mirror.cut.clear()
    mirror.files[name] = CONTENT[name][::-1] if changed else CONTENT[name]
    assert fetched(file(name))
    assert locate(file(name)).read_bytes() == mirror.files[name]
    assert mirror.downloads(name)[-1] == (0 if changed else 120_000)
    assert list(locate(file(name)).parent.glob("*.part")) == []


@BOTH
def test_a_server_that_ignores_ranges_is_read_from_the_start(
    mirror: HubServer, fetched: Fetch, name: str
) -> None:
    mirror.no_ranges = True
    mirror.cut[name] = [120_000, 10**9]
    assert fetched(file(name))
    assert is_whole(name)


@BOTH
@pytest.mark.parametrize("longer", [False, True])
def test_other_bytes_than_announced_are_deleted(
    mirror: HubServer, fetched: Fetch, name: str, longer: bool, caplog: Log
) -> None:
    known = sha256(CONTENT[name]) if name == PLAIN else ""  # the hub says it of its large files
    mirror.swapped[name] = CONTENT[name] + b"more" if longer else CONTENT[name][::-1]
    assert not fetched(file(name, known))
    said = ["another size than announced"]
    if not longer:
        said = [sha256(CONTENT[name]), sha256(mirror.swapped[name]), "try again"]
    assert all(part in caplog.text for part in said)
    assert find(file(name)) is None
    mirror.swapped.clear()
    assert fetched(file(name, known))
    assert is_whole(name)


def test_a_hub_file_that_was_damaged_is_refused_and_fetched_again_once_it_is_deleted(
    fetched: Fetch, caplog: Log
) -> None:
    assert fetched(file(LARGE))
    path = locate(file(LARGE))
    path.write_bytes(b"!" + CONTENT[LARGE][1:])
    assert not fetched(file(LARGE))
    assert re.search(r"blobs/\w+ is damaged or another file.*delete it", caplog.text)
    path.resolve().unlink()
    assert fetched(file(LARGE))
    assert is_whole(LARGE)


def test_a_file_that_wants_an_account_says_what_to_do(
    mirror: HubServer, fetched: Fetch, caplog: Log
) -> None:
    mirror.refused = {LARGE: 401, SMALL: 403}
    assert not fetched(file(LARGE), file(SMALL))
    assert caplog.text.count("set HF_TOKEN") == 2


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Stands for a full disk: writing beyond `size` bytes of a file is an OSError, EFBIG."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)


@BOTH
def test_a_disk_that_fills_up_is_reported_and_the_download_goes_on_later(
    fetched: Fetch, name: str
) -> None:
    with full_disk(100_000), pytest.raises(WriteError, match="cannot be written: File too large"):
        fetched(file(name))
    assert find(file(name)) is None
    assert fetched(file(name))
    assert is_whole(name)


def test_two_processes_do_not_write_one_file(
    mirror: HubServer, fetched: Fetch, tmp_path: Path, caplog: Log
) -> None:
    mirror.cut[PLAIN] = [120_000, 0]
    assert not fetched(file(PLAIN))
    mirror.cut.clear()
    (partial,) = (tmp_path / "weights").glob("*.part")
    with partial.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert not fetched(file(PLAIN))
    assert "by another process" in caplog.text
    assert fetched(file(PLAIN))
