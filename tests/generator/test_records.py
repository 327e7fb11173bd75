"""Run folders: whole lines, whole files, one process at a time, and going on after a stop."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.data.files import write_whole
from src.runs.records import (
    MANIFEST,
    RECORDS,
    Run,
    RunFolderError,
    read_manifest,
    read_records,
    records_digest,
)

IDENTITY = {"seed": 42, "method": ["baseline"]}


def open_run(folder: Path, identity=IDENTITY, **here) -> Run:
    return Run(folder, "benchmark builtin tags", identity, {"measures": []}, here)


def line(prompt: str, status: str = "ok", **more) -> dict:
    return {"method": "baseline", "prompt_id": prompt, "status": status, **more}


def test_a_run_is_named_after_a_hash_of_its_settings(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        assert run.folder.parent == tmp_path
        assert run.folder.name.startswith("benchmark-builtin-tags-")
    with open_run(tmp_path, {"method": ["baseline"], "seed": 42}) as same:
        assert same.folder == run.folder
    with open_run(tmp_path, {**IDENTITY, "seed": 43}) as other:
        assert other.folder != run.folder


def test_what_was_appended_is_there_after_a_new_start(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        assert not run.resumed
        run.append(line("a", score=1.5))
    with open_run(tmp_path) as run:
        assert run.resumed
        assert run.is_done("baseline", "a")
        assert not run.is_done("baseline", "b")
        assert not run.is_done("sbs", "a")
        (record,) = run.records
        assert (record["score"], record["start"]) == (1.5, 0)


def test_a_failed_prompt_is_taken_up_again_and_its_later_success_counts(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.append(line("a", "failed", reason="no tag"))
    with open_run(tmp_path) as run:
        assert not run.is_done("baseline", "a")
        run.append(line("a"))
        assert run.is_done("baseline", "a")
    assert [r["status"] for r in read_records(run.folder).values()] == ["ok"]
    assert len((run.folder / RECORDS).read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "torn", [b"{", b'{"method":"baseline","prompt_id":"b","status":"ok"}', b"\xe2"]
)
def test_a_torn_last_line_is_dropped_and_its_prompt_done_again(tmp_path: Path, torn: bytes) -> None:
    with open_run(tmp_path) as run:
        run.append(line("a"))
    path = run.folder / RECORDS
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert list(read_records(run.folder)) == [("baseline", "a")]
    with open_run(tmp_path) as run:
        assert path.read_bytes() == whole
        assert not run.is_done("baseline", "b")
        run.append(line("b"))
    assert len(read_records(run.folder)) == 2


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.append(line("a"))
    path = run.folder / RECORDS
    path.write_bytes(b"no json\n" + path.read_bytes())
    with pytest.raises(RunFolderError, match="line 1 is not a record"):
        open_run(tmp_path)


def test_two_processes_cannot_share_a_folder(tmp_path: Path) -> None:
    with open_run(tmp_path), pytest.raises(RunFolderError, match="in use by another process"):
        open_run(tmp_path)
    open_run(tmp_path).close()


def test_a_folder_of_other_settings_is_never_written_to(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        pass
    manifest = read_manifest(run.folder)
    write_whole(run.folder / MANIFEST, json.dumps({**manifest, "hash": "0" * 64}))
    with pytest.raises(RunFolderError, match="other settings"):
        open_run(tmp_path)


def test_every_start_is_in_the_manifest_with_commit_versions_and_machine(tmp_path: Path) -> None:
    with open_run(tmp_path, device="cpu"):
        pass
    with open_run(tmp_path, device="cuda") as run:
        run.append(line("a"))
    manifest = read_manifest(run.folder)
    assert manifest["identity"] == IDENTITY
    assert [start["device"] for start in manifest["starts"]] == ["cpu", "cuda"]
    for start in manifest["starts"]:
        assert set(start["versions"]) >= {"python", "torch", "audiocraft"}
        assert {"commit", "dirty", "cpu_count", "command", "time"} <= set(start)
    assert read_records(run.folder)["baseline", "a"]["start"] == 1


def test_another_commit_is_said_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for commit in ("aaa", "bbb"):
        monkeypatch.setattr(
            "src.runs.records.commit", lambda c=commit: {"commit": c, "dirty": False}
        )
        with open_run(tmp_path) as run:
            pass
    assert [s["commit"] for s in read_manifest(run.folder)["starts"]] == ["aaa", "bbb"]
    assert "begun at commit aaa and goes on at bbb" in caplog.text


def test_a_number_that_is_not_finite_is_never_written(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        with pytest.raises(ValueError, match="JSON compliant"):
            run.append(line("a", score=float("nan")))
        assert not run.is_done("baseline", "a")
    assert (run.folder / RECORDS).read_bytes() == b""


def test_the_digest_is_of_the_records_bytes(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.append(line("a"))
        before = records_digest(run.folder)
        run.append(line("b"))
        assert records_digest(run.folder) != before


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "summary.csv"
    write_whole(target, "old")
    write_whole(target, "new")
    assert target.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["summary.csv"]


def test_a_process_killed_while_it_appends_leaves_whole_lines_only(tmp_path: Path) -> None:
    code = (
        "import itertools, sys; from pathlib import Path; from src.runs.records import Run\n"
        f"run = Run(Path({str(tmp_path)!r}), 'killed', {{}}, {{}})\n"
        "for i in itertools.count():\n"
        "    run.append({'method': 'm', 'prompt_id': str(i), 'status': 'ok', 'x': 'y' * 5000})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        files = list(tmp_path.glob(f"killed-*/{RECORDS}"))
        if files and files[0].stat().st_size > 200_000:
            break
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with Run(tmp_path, "killed", {}, {}) as run:
        done = [record["prompt_id"] for record in run.records]
    assert done == [str(i) for i in range(len(done))]
    assert len(done) > 30
