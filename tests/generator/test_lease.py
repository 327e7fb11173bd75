"""One writer a folder: a lease is held by one process, taken over from the dead, never from others.

Other machines are made up: a lease's file says who holds it, and its time whether that one lives.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from src.data import lease as leases
from src.data.files import WriteError
from src.data.lease import LEASE, InUse, Lease, holder
from src.runs.records import RECORDS, RunFolderError, read_records
from src.runs.run import Run

ROOT = Path(__file__).parents[2]
ELSEWHERE = {"host": "node3", "pid": 4711, "machine": "another", "born": "1", "token": "theirs"}
HOLDS = """
import sys, time
from pathlib import Path
from src.data.lease import Lease
lease = Lease(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(100)
"""
# Waits for the start, so that all begin at once; then adds lines as long as the lease is its own.
RACES = """
import os, sys, time
from pathlib import Path
from src.data.lease import InUse, Lease
folder = Path(sys.argv[1])
while not (folder / "go").exists():
    time.sleep(0.001)
try:
    with Lease(folder) as lease, (folder / "lines").open("a", buffering=1) as file:
        for _ in range(20):
            lease.check()
            file.write(f"{os.getpid()}\\n")
            time.sleep(0.01)
except InUse:
    sys.exit(5)
"""


def start(code: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def held_elsewhere(folder: Path, seconds_ago: float) -> Path:
    path = folder / LEASE
    path.write_text(json.dumps(ELSEWHERE))
    then = time.time() - seconds_ago
    os.utime(path, (then, then))
    return path


def test_a_folder_has_one_holder_and_nothing_is_left_of_it(tmp_path: Path) -> None:
    with Lease(tmp_path) as lease:
        lease.check()
        with pytest.raises(InUse, match=rf"in use by another process, {os.getpid()} on "):
            Lease(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [LEASE]
    assert not list(tmp_path.iterdir())
    Lease(tmp_path).close()


@pytest.mark.parametrize("reaped", [True, False], ids=["gone", "a zombie"])
def test_of_a_killed_holder_it_is_taken_over_at_once(tmp_path: Path, reaped: bool) -> None:
    process = start(HOLDS, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(InUse, match=rf"another process, {process.pid} on"):
        Lease(tmp_path)
    process.send_signal(signal.SIGKILL)
    if reaped:
        process.wait()
    else:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    began = time.monotonic()
    with Lease(tmp_path) as lease:
        lease.check()
    assert time.monotonic() - began < 5
    process.wait()


def test_a_later_process_of_the_same_number_is_not_the_holder(tmp_path: Path) -> None:
    own = holder(os.getpid())
    (tmp_path / LEASE).write_text(json.dumps(own | {"born": "1", "token": "theirs"}))
    Lease(tmp_path).close()


@pytest.mark.parametrize("killed_before", [False, True], ids=["free", "left by a killed process"])
def test_of_several_that_begin_at_once_one_writes(tmp_path: Path, killed_before: bool) -> None:
    if killed_before:
        own = holder(os.getpid())
        (tmp_path / LEASE).write_text(json.dumps(own | {"born": "1", "token": "theirs"}))
    racers = [start(RACES, tmp_path) for _ in range(3)]
    time.sleep(0.5)
    (tmp_path / "go").touch()
    codes = [process.wait(timeout=60) for process in racers]
    lines = (tmp_path / "lines").read_text().split()
    done = [str(p.pid) for p, code in zip(racers, codes, strict=True) if code == 0]
    assert set(codes) <= {0, 5}
    # one after the other, if any starts after another has ended; never in between
    assert lines == [pid for pid in dict.fromkeys(lines) for _ in range(20)]
    assert {*done} == {*lines}


def test_of_another_machine_it_is_taken_over_when_its_time_stands_still(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "src")
    held_elsewhere(tmp_path, seconds_ago=1.0)
    began = time.monotonic()
    with Lease(tmp_path, renew=0.1, stale=2.0) as lease:
        lease.check()
    assert 0.5 < time.monotonic() - began < 5
    waiting, ended = (record.getMessage() for record in caplog.records)
    assert "another process, 4711 on node3, which may have ended: waiting for it, 1 s" in waiting
    assert ended.endswith("4711 on node3, which has ended")


def test_one_that_was_left_long_ago_is_not_waited_for(tmp_path: Path) -> None:
    held_elsewhere(tmp_path, seconds_ago=leases.STALE + 5)
    began = time.monotonic()
    Lease(tmp_path).close()
    assert time.monotonic() - began < 1


def test_of_another_machine_that_renews_it_is_in_use(tmp_path: Path) -> None:
    path = held_elsewhere(tmp_path, seconds_ago=1.0)
    renewing = threading.Timer(0.3, lambda: os.utime(path))
    renewing.start()
    with pytest.raises(InUse, match="in use by another process, 4711 on node3"):
        Lease(tmp_path, renew=0.1, stale=60.0)
    assert json.loads(path.read_text()) == ELSEWHERE
    assert [p.name for p in tmp_path.iterdir()] == [LEASE]


def test_the_holder_renews_it_and_no_other(tmp_path: Path) -> None:
    with Lease(tmp_path, renew=0.05):
        path = tmp_path / LEASE
        os.utime(path, (1, 1))
        time.sleep(0.5)
        assert path.stat().st_mtime > 1
        path.write_text(json.dumps(ELSEWHERE))
        time.sleep(0.2)
        os.utime(path, (1, 1))
        time.sleep(0.2)
        assert path.stat().st_mtime == 1
    assert json.loads(path.read_text()) == ELSEWHERE  # nor is it given back


def test_a_run_that_was_taken_over_writes_no_more(tmp_path: Path) -> None:
    line = {"kind": "search", "method": "sbs", "status": "ok"}
    with Run(tmp_path, "a run", {"seed": 1}, {}) as run:
        run.append(line | {"prompt_id": "a"})
        (run.folder / LEASE).write_text(json.dumps(ELSEWHERE))
        with pytest.raises(RunFolderError, match="taken over by another process, 4711 on node3"):
            run.append(line | {"prompt_id": "b"})
    assert [r["prompt_id"] for r in read_records(run.folder).values()] == ["a"]
    assert (run.folder / RECORDS).read_bytes().count(b"\n") == 1


def test_without_links_a_file_system_gives_it_by_making_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with Lease(tmp_path) as lease:
        lease.check()
        with pytest.raises(InUse):
            Lease(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"file/\.lease"):
        Lease(tmp_path / "file")
