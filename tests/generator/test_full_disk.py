"""What cannot be written ends a script with one line and exit code 5, not as a defect."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from src.data.files import (
    WriteError,
    append_line,
    lock,
    make_folder,
    open_to_append,
    remove,
    write_whole,
    writing,
)
from src.reports import __main__ as reports
from src.runs.ending import Exit, ending
from src.runs.records import RunFolderError, read_records
from tests.generator.made_up_run import made_up_run

ROOT = Path(__file__).parents[2]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Stands for a full disk: writing beyond `size` bytes of a file is an OSError, EFBIG."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


REFUSED = {"Not a directory", "File exists"}  # where a file stands in a folder's place


@pytest.mark.parametrize(
    "write",
    [make_folder, lock, open_to_append, remove, lambda path: write_whole(path, "text")],
    ids=["make_folder", "lock", "open_to_append", "remove", "write_whole"],
)
def test_every_way_to_write_names_the_file_and_the_reason(
    write: Callable[[Path], object], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError) as error:
        write(tmp_path / "file" / "below")
    assert str(error.value).startswith(f"{tmp_path}/file")
    assert str(error.value).partition(" cannot be written: ")[2] in REFUSED


def test_a_full_disk_leaves_the_old_file_and_lines_that_are_read_on_from(tmp_path: Path) -> None:
    path, lines = tmp_path / "whole", tmp_path / "lines"
    write_whole(path, "old")
    handle = open_to_append(lines)
    append_line(lines, handle, {"a": 1})
    with largest_file(10):
        with pytest.raises(WriteError, match=f"{path} cannot be written: File too large"):
            write_whole(path, "new and longer")
        with pytest.raises(WriteError, match=f"{lines} cannot be written: No space left"):
            append_line(lines, handle, {"b": 2})
    os.close(handle)
    assert path.read_text() == "old"
    assert lines.read_text() == '{"a":1}\n{"'
    os.close(open_to_append(lines))
    assert lines.read_text() == '{"a":1}\n'
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lines", "whole"]


def test_an_error_without_a_number_is_not_the_systems(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="of a library") as error, writing(tmp_path):
        raise OSError("of a library")
    assert not isinstance(error.value, WriteError)


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO]
)
def test_a_disk_that_refuses_ends_a_script_wherever_it_is_met(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, ending("benchmark.py"):
        raise OSError(number, os.strerror(number))
    assert ended.value.code == Exit.FOLDER
    assert os.strerror(number) in capsys.readouterr().err


def test_other_errors_of_the_system_are_defects(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), ending("benchmark.py"):
        (tmp_path / "absent").read_text()


def test_a_result_that_cannot_be_printed_is_one_line(tmp_path: Path) -> None:
    code = "from src.runs.ending import *\nwith ending('benchmark.py'): say('a table')"
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True
        )
    said = "benchmark.py: stdout cannot be written: No space left on device\n"
    assert (run.returncode, run.stderr) == (Exit.FOLDER, said)


def test_reports_that_cannot_be_written_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made_up_run(tmp_path)
    with largest_file(50):
        assert reports.main([str(folder)]) == Exit.FOLDER
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("cannot be written: File too large")
    assert reports.main([str(folder)]) == Exit.DONE


def test_records_that_cannot_be_read_are_no_defect(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl.xz").write_bytes(b"nonsense")
    with pytest.raises(RunFolderError, match=r"records.jsonl.xz cannot be read"):
        read_records(tmp_path)


@pytest.mark.slow
def test_a_run_says_what_it_keeps(tmp_path: Path) -> None:
    """With 6 kB a file, records.jsonl is full in the middle of a line."""
    options = "--profile builtin --num_samples 8 --duration 1 --judges none --save_audio none"
    run = subprocess.run(
        [sys.executable, "benchmark.py", *options.split(), "--output", str(tmp_path)],
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000)),
        capture_output=True,
        text=True,
    )
    assert run.returncode == Exit.FOLDER, run.stderr
    (folder,) = tmp_path.iterdir()
    kept = len(read_records(folder))
    assert 0 < kept < 8
    assert run.stderr.splitlines()[-2:] == [
        f"benchmark.py: {folder}/records.jsonl cannot be written: No space left on device",
        f"{kept} of 8 searches are finished and kept in {folder}; the same command goes on from "
        "there.",
    ]
