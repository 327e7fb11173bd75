"""A compacted run: smaller, read as before, and whole again when it goes on."""

import json
from pathlib import Path

import numpy as np
import pytest

from src.experiments.pool_generation import generate
from src.runs.compact import compact, main
from src.runs.ending import Exit
from src.runs.pool import load_pool
from src.runs.records import COMPRESSED, RECORDS, Run, read_records
from tests.generator.fake_pool import (
    PROMPTS,
    FakeClient,
    hears,
    judge,
    made_pool,
    settings_for,
    verifier,
)
from tests.generator.fake_search import FakeGenerator

SCORERS = [verifier("tags"), judge("far")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with made_pool(tmp_path) as run:
        hears(run, SCORERS, FakeClient(refuses=[("tags", "a jig")]))
        hears(run, SCORERS, FakeClient())  # the failed one again
    return run.folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.*z")}


def test_a_compacted_pool_has_the_same_numbers_and_tokens(folder: Path) -> None:
    before = load_pool(folder)
    tokens = {prompt: before.tokens(prompt) for prompt in before.prompts}
    was, now = compact(folder)
    assert now < was
    assert not [*folder.rglob(RECORDS), *folder.rglob("*.npy")]
    after = load_pool(folder)
    assert after.measures == before.measures
    for name in before.measures:
        for seconds in (None, *before.seconds_of(name)):
            for prompt, values in before.values(name, seconds).items():
                assert np.array_equal(after.values(name, seconds)[prompt], values)
    for prompt, there in tokens.items():
        assert np.array_equal(after.tokens(prompt), there)
        assert after.tokens(prompt).dtype == np.int16


def test_the_latest_record_of_each_key_is_kept_as_it_is(folder: Path) -> None:
    with Run.reopen(folder) as run:
        run.append({"kind": "search", "prompt_id": "a", "status": "ok", "x": [1 / 3], "n": 2**60})
    latest = read_records(folder)
    compact(folder)
    assert list(read_records(folder).items()) == list(latest.items())


def test_compacting_twice_changes_nothing(folder: Path) -> None:
    compact(folder)
    once = files(folder)
    assert once.keys() == {COMPRESSED, *(f"{prompt.id}.npz" for prompt in PROMPTS)}
    compact(folder)
    assert files(folder) == once


def test_a_compacted_pool_goes_on_where_it_was(folder: Path, tmp_path: Path) -> None:
    compact(folder)
    known, generator, client = read_records(folder), FakeGenerator(), FakeClient()
    with Run.reopen(folder) as run:
        generate(run, PROMPTS, generator, settings_for(tmp_path))  # type: ignore[arg-type]
        assert hears(run, [*SCORERS, verifier("clap", prefixes=())], client) == 0
    assert generator.begun == []
    assert [names for names, _, _ in client.asked] == [("clap",)] * len(PROMPTS)
    lines = [json.loads(line) for line in (folder / RECORDS).read_text().splitlines()]
    assert lines[: len(known)] == list(known.values())
    assert not (folder / COMPRESSED).exists()


def test_what_is_no_run_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path)])
    assert ended.value.code == Exit.FOLDER
    assert "cannot be read" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
