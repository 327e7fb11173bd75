"""Pools are generated once, whole, and the same however often they are broken off; and compacted.

A compacted run is smaller, read as before, and whole again when it goes on.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from src.decoding.decoder import Decoder
from src.experiments.pool_generating import candidates, generate
from src.runs.compact import compact, main
from src.runs.ending import Exit
from src.runs.pool import LOG_PROBS, UNCONDITIONAL, load_pool, load_tokens, short
from src.runs.records import COMPRESSED, RECORDS, RunFolderError, read_records
from src.runs.run import Run
from tests.generator.fake_pool import (
    PROMPTS,
    FakeClient,
    hears,
    judge,
    made_pool,
    settings_for,
    verifier,
    without_clock,
)
from tests.generator.fake_search import FakeGenerator, Narrow
from tests.generator.random_models import condition, random_lm


class TinyGenerator:
    """A real decoder on a random language model."""

    frame_rate = 50.0

    def __init__(self) -> None:
        self.lm = random_lm()

    def begin(self, prompts, keys, candidates, frames, seed, first=0):
        conditions = [condition(self.lm, prompt) for prompt in prompts]
        return Decoder(self.lm).begin(conditions, candidates, frames, keys, seed)

    def synchronize(self) -> None:
        pass


def test_pausing_at_prefixes_gives_the_tokens_and_log_probabilities_of_an_unpaused_run() -> None:
    generator = TinyGenerator()
    paused, log_probs, ledgers = candidates(PROMPTS[:2], generator, 3, 0.4, (0.1, 0.2), 7)
    whole, unpaused, _ = candidates(PROMPTS[:2], generator, 3, 0.4, (), 7)
    assert paused.shape == (2, 3, 4, 20)
    assert paused.dtype == np.int16
    assert np.array_equal(paused, whole)
    assert list(log_probs) == [LOG_PROBS, UNCONDITIONAL]
    for name, found in log_probs.items():
        assert np.array_equal(found["whole"], unpaused[name]["whole"])
        assert list(found) == ["0.1", "0.2", "whole"]
    assert [ledger.frames for ledger in ledgers] == [60, 60]
    texts, keys = [p.text for p in PROMPTS[:2]], [p.key for p in PROMPTS[:2]]
    search = generator.begin(texts, keys, 3, 20, 7)
    search.advance(5)
    for name, found in log_probs.items():
        expected = search.mean_log_prob(conditional=name == LOG_PROBS).reshape(2, 3)
        assert torch.equal(torch.from_numpy(found["0.1"]), expected)


def test_the_first_n_of_a_pool_are_the_pool_of_n(tmp_path: Path) -> None:
    with made_pool(tmp_path) as four, made_pool(tmp_path, pool_size=2) as two:
        assert four.folder != two.folder
        for prompt in PROMPTS:
            first = load_tokens(four.folder, prompt.id)[:2]
            assert np.array_equal(first, load_tokens(two.folder, prompt.id))


def test_a_pool_broken_off_anywhere_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    with made_pool(tmp_path / "whole", Narrow()) as whole:
        expected = without_clock(whole.records.values())
    with made_pool(tmp_path / "broken", Narrow()) as broken:
        path = broken.folder / RECORDS
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:50])  # killed in the middle of the first group of two
    generator = Narrow()
    with made_pool(tmp_path / "broken", generator) as resumed:
        assert without_clock(resumed.records.values()) == expected
        for prompt in PROMPTS:
            assert np.array_equal(
                load_tokens(resumed.folder, prompt.id), load_tokens(whole.folder, prompt.id)
            )
    # in the groups of the unbroken run: shapes decide how sums are rounded
    assert [keys for keys, *_ in generator.begun] == [("key waltz", "key jig"), ("key reel",)]


SCORING = [{"verifiers": ("tags",)}, {"judges": ("msd_kld",)}, {"prefixes": ("none",)}]
DECIDING = [{"seed": 1}, {"duration": 0.3}, {"top_k": 5}, {"pool_size": 8}, {"guidance": 1.0}]


@pytest.mark.parametrize("changed", [*SCORING, *DECIDING])
def test_what_decides_the_candidates_makes_another_pool_and_who_scores_them_does_not(
    tmp_path: Path, changed: dict
) -> None:
    made_pool(tmp_path).close()
    made_pool(tmp_path, **changed).close()
    assert len(list(tmp_path.iterdir())) == (1 if changed in SCORING else 2)


def test_a_folder_that_was_moved_is_reopened_and_one_that_was_changed_is_not(
    tmp_path: Path,
) -> None:
    with made_pool(tmp_path) as run:
        records = list(run.records.values())
    moved = run.folder.rename(tmp_path / "elsewhere")
    with Run.reopen(moved) as again:
        assert list(again.records.values()) == records
        assert len(again.manifest["starts"]) == 2
    manifest = moved / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"duration": 0.4', '"duration": 4'))
    with pytest.raises(RunFolderError, match="was changed"):
        Run.reopen(moved)
    with pytest.raises(RunFolderError, match="is no run's folder"):
        Run.reopen(tmp_path / "nowhere")


def test_numbers_are_kept_short_without_losing_a_float32() -> None:
    values = np.random.default_rng(0).normal(size=50).astype(np.float32)
    kept = short(values)
    assert np.array_equal(np.array(kept, np.float32), values)
    assert max(len(repr(value)) for value in kept) <= 14


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


def test_trees_are_left_out_where_that_is_asked_for_and_nothing_else(folder: Path) -> None:
    searched = {"kind": "search", "prompt_id": "a", "status": "ok", "winner": {"slot": 1}}
    with Run.reopen(folder) as run:
        run.append(searched | {"tree": [{"slot": 0}, {"slot": 1}]})
    latest = read_records(folder)
    assert main([str(folder), "--no_trees"]) == 0
    expected = [{k: v for k, v in record.items() if k != "tree"} for record in latest.values()]
    assert list(read_records(folder).values()) == expected
    assert searched.items() <= expected[-1].items()


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
    assert "is no run's folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
