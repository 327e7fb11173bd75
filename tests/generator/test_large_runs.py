"""Runs whose records are larger than memory: of their trees few are in it at once."""

import json
import shutil
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from src.data.files import WriteError, write_whole
from src.data.prompts import Prompt
from src.reports.benchmark_study import study_benchmark
from src.runs.merge import merge
from src.runs.records import MANIFEST, RECORDS, read_manifest, records_digest, search_key
from src.runs.run import Finished, Run
from tests.generator.made_up_run import listening_run, page_of
from tests.generator.test_page import Reader

PROMPTS = [Prompt(f"p{index}", "", "") for index in range(100)]
SBS = search_key("sbs")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 200 searches with trees of 128 candidates."""
    kind = {"candidates": 64, "steps": 2, "methods": ("sbs", "lookahead"), "save_audio": "none"}
    return listening_run(tmp_path_factory.mktemp("large"), len(PROMPTS), **kind)


def resume(folder: Path) -> None:
    with Run.reopen(folder) as run:
        run.append(run.records[next(iter(run.records))])


def put_in_order(folder: Path) -> None:
    with Run.reopen(folder) as run:
        run.put_in_order(PROMPTS[::-1])
        assert next(iter(run.records.values()))["prompt_id"] == "p99"


def join(folder: Path) -> None:
    shard = folder / "run" / "shards" / "1-of-1"
    shard.mkdir(parents=True)
    (folder / RECORDS).rename(shard / RECORDS)
    about = {"index": 1, "of": 1, "prompts": [prompt.id for prompt in PROMPTS]}
    write_whole(shard / MANIFEST, json.dumps(read_manifest(folder) | {"shard": about}))
    merge([folder / "run"])


@pytest.mark.parametrize(
    "work", [resume, put_in_order, join, records_digest, study_benchmark, page_of]
)
def test_memory_is_a_small_part_of_the_records(
    large: Path, tmp_path: Path, work: Callable[[Path], object]
) -> None:
    folder = Path(shutil.copytree(large, tmp_path / "large"))
    size = (folder / RECORDS).stat().st_size
    tracemalloc.start()
    try:
        work(folder)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    fixed = 2e6  # versions of packages; a template of a page
    assert peak < fixed + size / 2, f"{peak} of {size} bytes"  # as dicts 4 times the size


def test_a_page_made_prompt_by_prompt_has_one_json_value(large: Path) -> None:
    text = Reader(page_of(large)).inside["application/json"]
    escaped = json.dumps(json.loads(text), separators=(",", ":"))
    for mark in "<>&'":
        escaped = escaped.replace(mark, f"\\u{ord(mark):04x}")
    assert text == escaped


def test_a_records_files_are_written_side_by_side_and_before_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(3, timeout=60)

    def write(path: Path, content: bytes) -> None:
        together.wait()
        assert not (run.folder / RECORDS).read_bytes()
        write_whole(path, content)

    files = {f"{name}/a": b"bytes" for name in ("audio", "tokens", "embeddings")}
    record = SBS | {"prompt_id": "a", "status": "ok"}
    with Run(tmp_path, "several files", {}, {}) as run:
        monkeypatch.setattr("src.runs.run.write_whole", write)
        run.keep(Finished(record, files))
        assert {path: (run.folder / path).read_bytes() for path in files} == files
        assert run.is_done(SBS, "a")
        monkeypatch.undo()
        with pytest.raises(WriteError):  # a file is no folder
            run.keep(Finished(record | {"prompt_id": "b"}, files | {f"{RECORDS}/b": b""}))
        assert not run.is_done(SBS, "b")
