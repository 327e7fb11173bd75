"""One file from a real HTTP server that answers as the hub does, with a fault in each test."""

import fcntl
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from src.runs import fetch
from src.weights.files import WeightsError, find, locate, record_of
from tests.verifier.fetching import CONTENT, LARGE, PLAIN, SMALL, Host, file, sha256
from tests.verifier.hub_server import HubServer

EACH = pytest.mark.parametrize("name", [LARGE, SMALL, PLAIN])
LONG = pytest.mark.parametrize("name", [LARGE, PLAIN])


@LONG
def test_a_download_that_is_cut_goes_on_where_it_stopped(
    mirror: HubServer, host: Host, name: str
) -> None:
    host(file(name))
    mirror.cut[name] = [*[20_000] * 8, 10**9]
    assert fetch.fetch(["small"]) == 0
    assert locate(file(name)).read_bytes() == CONTENT[name]
    assert mirror.downloads(name) == [20_000 * cut for cut in range(9)]


@LONG
def test_progress_is_shown_on_a_terminal(
    mirror: HubServer,
    host: Host,
    name: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host(file(name))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert fetch.fetch(["small"]) == 0
    text = capsys.readouterr().err
    assert "100%" in text
    assert f"{len(CONTENT[name]) // 1000}k" in text


@LONG
def test_a_later_run_goes_on_where_an_earlier_one_gave_up(
    mirror: HubServer, host: Host, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    host(file(name))
    mirror.cut[name] = [120_000, 0]
    assert fetch.fetch(["small"]) == 1
    assert "broke off after 120000 bytes" in caplog.text
    assert "the same command goes on" in caplog.text
    assert find(file(name)) is None
    mirror.cut.clear()
    assert fetch.fetch(["small"]) == 0
    assert mirror.downloads(name)[-1] == 120_000
    assert locate(file(name)).read_bytes() == CONTENT[name]


@LONG
def test_a_file_that_changed_since_the_cut_is_not_pieced_together(
    mirror: HubServer, host: Host, name: str
) -> None:
    host(file(name))
    mirror.cut[name] = [120_000, 0]
    assert fetch.fetch(["small"]) == 1
    mirror.cut.clear()
    mirror.files[name] = CONTENT[name][::-1]
    assert fetch.fetch(["small"]) == 0
    assert locate(file(name)).read_bytes() == CONTENT[name][::-1]


@LONG
def test_a_server_that_takes_no_notice_of_ranges_is_read_from_the_start(
    mirror: HubServer, host: Host, name: str
) -> None:
    host(file(name))
    mirror.no_ranges = True
    mirror.cut[name] = [120_000, 10**9]
    assert fetch.fetch(["small"]) == 0
    assert locate(file(name)).read_bytes() == CONTENT[name]


@EACH
def test_wrong_bytes_are_deleted_and_both_hashes_named(
    mirror: HubServer, host: Host, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    host(file(name, sha256(CONTENT[name]) if name == PLAIN else ""))
    mirror.swapped[name] = CONTENT[name][::-1]
    assert fetch.fetch(["small"]) == 1
    if name != SMALL:  # the hub has no sha256 of its small files, but git's hash
        assert sha256(CONTENT[name]) in caplog.text
        assert sha256(CONTENT[name][::-1]) in caplog.text
    assert "try again" in caplog.text
    assert find(file(name)) is None
    mirror.swapped.clear()
    assert fetch.fetch(["small"]) == 0
    assert locate(file(name)).read_bytes() == CONTENT[name]


def test_a_hub_file_that_is_not_the_one_expected_is_not_downloaded(
    mirror: HubServer, host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host(file(LARGE, sha256(b"another")))
    assert fetch.fetch(["small"]) == 1
    assert "has changed" in caplog.text
    assert mirror.downloads(LARGE) == []


@EACH
def test_later_loads_are_held_to_what_was_fetched_and_fetching_again_mends_it(
    mirror: HubServer, host: Host, name: str
) -> None:
    host(file(name))
    fetch.fetch(["small"])
    path = locate(file(name))
    path.write_bytes(b"!" + CONTENT[name][1:])
    with pytest.raises(WeightsError, match="is damaged or another file"):
        locate(file(name))
    assert fetch.fetch(["small"]) == 0
    assert locate(file(name)).read_bytes() == CONTENT[name]


def test_a_plain_files_record_is_one_that_sha256sum_can_check(
    mirror: HubServer, host: Host
) -> None:
    host(file(PLAIN))
    fetch.fetch(["small"])
    record = record_of(locate(file(PLAIN)))
    subprocess.run(["sha256sum", "--check", "--strict", record.name], cwd=record.parent, check=True)


@pytest.mark.parametrize("status", [401, 403])
def test_a_file_that_wants_an_account_says_what_to_do(
    mirror: HubServer, host: Host, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    host(file(LARGE))
    mirror.refused[LARGE] = status
    assert fetch.fetch(["small"]) == 1
    assert "set HF_TOKEN" in caplog.text


@LONG
def test_a_disk_that_fills_up_meanwhile_is_said(
    mirror: HubServer, host: Host, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    import resource

    host(file(name))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:  # stands for a full disk: writing beyond 100 kB is an OSError, EFBIG
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        assert fetch.fetch(["small"]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert "cannot be written: File too large" in caplog.text
    assert find(file(name)) is None
    assert fetch.fetch(["small"]) == 0
    assert locate(file(name)).read_bytes() == CONTENT[name]


def test_two_processes_do_not_write_one_file(
    mirror: HubServer,
    host: Host,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    host(file(PLAIN))
    (tmp_path / "weights").mkdir()
    with (tmp_path / "weights" / f"{PLAIN}.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert fetch.fetch(["small"]) == 1
    assert "by another process" in caplog.text
    assert fetch.fetch(["small"]) == 0


@LONG
def test_more_bytes_than_announced_are_deleted(
    mirror: HubServer, host: Host, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    host(file(name))
    mirror.swapped[name] = CONTENT[name] + b"more"
    assert fetch.fetch(["small"]) == 1
    assert "came in another size than announced" in caplog.text
    assert find(file(name)) is None
    mirror.swapped.clear()
    assert fetch.fetch(["small"]) == 0
    assert locate(file(name)).read_bytes() == CONTENT[name]
