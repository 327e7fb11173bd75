"""Pools as people's notebooks read them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from src.runs.pool import PoolError, load_pool, token_file
from src.runs.records import RECORDS, RunFolderError, read_records
from src.stats.best_of_n import within_prompt_std
from tests.generator.made_up_pool import made_up_pool

ROOT = Path(__file__).parents[2]
LEVELS = (1.0, 2.0, 4.0, 5.0)  # of which the last is the whole clip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three prompts of four candidates; tags has no score of the second."""
    measures, refused = ("tags", "copy", "kin"), {"tags": (1,), "copy": (0,)}
    return made_up_pool(tmp_path, 3, 4, measures, refused, guided=True)


def test_a_notebook_reads_what_was_made(folder: Path) -> None:
    pool = load_pool(folder)
    assert (pool.prompts, pool.prefixes) == (("p0", "p1", "p2"), LEVELS[:-1])
    assert (pool.size, pool.duration, pool.frames, pool.asked) == (4, 5.0, 250, 3)
    assert pool.tokens("p1").shape == (4, 4, 250)
    assert pool.reasons == {
        "tags": {"p1": "tags: names no tag"},
        "copy": {"p0": "copy: names no tag"},
    }
    (record,) = (
        record
        for record in read_records(folder).values()
        if (record.get("measure"), record["prompt_id"]) == ("tags", "p2")
    )
    for seconds, key in ((None, "whole"), (2.0, "2")):
        assert list(pool.values("tags", seconds)) == ["p0", "p2"]
        assert pool.values("tags", seconds)["p2"].tolist() == record["values"][key]
    assert pool.values("kin", 2.0) == {}
    for seconds in (None, 2.0):
        first, seen = pool.pair("tags", "kin", a_seconds=seconds)
        assert [list(x) for x in first] == [list(x) for x in pool.values("tags", seconds).values()]
        assert [list(x) for x in seen] == [list(pool.values("kin")[p]) for p in ("p0", "p2")]
    assert (pool.seconds("tags"), pool.generation_seconds()) == (0.5, 1.0)


def test_measures_are_verifiers_then_judges_as_asked_for_though_the_first_prompt_has_no_number(
    folder: Path,
) -> None:
    measures = load_pool(folder).measures
    assert list(measures) == ["perplexity", "pmi", "tags", "copy", "kin"]
    copy = measures["copy"]
    assert (copy.role, copy.higher_is_better) == ("judge", False)
    assert copy.checkpoint == "copy (01234567)"
    assert measures["kin"].shares_data_with == ("tags",)


def test_perplexity_and_pmi_are_there_without_being_scored(folder: Path) -> None:
    pool = load_pool(folder)
    record = pool.candidates["p0"]
    assert pool.measures["perplexity"].is_verifier == ("perplexity", "pmi")
    for key, seconds in (("whole", None), ("1", 1.0)):
        log_probs = np.array(record["log_probs"][key])
        without = np.array(record["unconditional_log_probs"][key])
        assert np.array_equal(pool.values("perplexity", seconds)["p0"], np.exp(log_probs))
        assert np.array_equal(pool.values("pmi", seconds)["p0"], log_probs - without)
    assert pool.seconds("perplexity") == pool.seconds("pmi") == 0.0


def test_a_pool_made_without_guidance_has_no_pmi(tmp_path: Path) -> None:
    pool = load_pool(made_up_pool(tmp_path, 2, 4, ["tags"]))
    assert list(pool.measures) == ["perplexity", "tags"]
    with pytest.raises(PoolError, match="no measure 'pmi'; it has perplexity, tags"):
        pool.values("pmi")


def test_a_sum_is_of_parts_in_units_of_their_spread_within_the_pools_prompts(folder: Path) -> None:
    name = "0.5*tags+pmi"
    pool = load_pool(folder, [name])
    assert list(pool.measures) == ["perplexity", "pmi", "tags", name, "copy", "kin"]
    parts = {part: pool.values(part) for part in ("tags", "pmi")}
    scales = {part: within_prompt_std([*values.values()]) for part, values in parts.items()}
    assert pool.measures[name].scales == scales
    assert pool.measures[name].is_verifier == ("tags", "perplexity", "pmi")
    # beginnings are in the units of whole clips, as a search has one constant for all steps
    for seconds in (None, 2.0):
        tags, pmi = pool.values("tags", seconds), pool.values("pmi", seconds)
        found = pool.values(name, seconds)
        assert list(found) == ["p0", "p2"]  # tags has no p1
        for prompt, values in found.items():
            expected = 0.5 * tags[prompt] / scales["tags"] + pmi[prompt] / scales["pmi"]
            assert values == pytest.approx(expected, rel=1e-12)
    assert pool.values("tags+perplexity").keys() == found.keys()  # named on the spot
    assert pool.seconds(name) == pool.seconds("tags")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("tags+clap", "no verifier 'clap'; it has perplexity, pmi, tags, copy, kin"),
        ("tags+copy", "no verifier 'copy'"),  # a judge selects nothing
        ("tags+", "is not a verifier or an expression"),
    ],
)
def test_a_sum_of_what_is_no_verifier_of_the_pool_is_an_error(folder, text, reason) -> None:
    with pytest.raises(PoolError, match=reason):
        load_pool(folder, [text])
    with pytest.raises(PoolError, match=reason):
        load_pool(folder).values(text)


def test_a_table_has_a_row_for_each_number(folder: Path) -> None:
    pool = load_pool(folder)
    table = pool.table()
    assert list(table.columns) == ["prompt_id", "candidate", "measure", "seconds", "value"]
    # perplexity, pmi and tags at three prefixes and whole, judges whole
    assert len(table) == 4 * (2 * 3 * 4 + 2 * 4 + 2 + 3)
    row = table.query("prompt_id == 'p2' and candidate == 2 and measure == 'tags'")
    assert tuple(row["seconds"]) == LEVELS
    assert row["value"].iloc[-1] == pool.values("tags")["p2"][2]


def test_a_pool_that_is_still_being_made_has_what_is_finished(folder: Path) -> None:
    lines = (folder / RECORDS).read_bytes().splitlines(keepends=True)
    (folder / RECORDS).write_bytes(b"".join(lines[:6]) + lines[6][:40])
    pool = load_pool(folder)
    assert (pool.prompts, pool.asked) == (("p0", "p1"), 3)
    assert list(pool.values("tags")) == ["p0"]


def test_tokens_may_be_packed_and_those_that_are_not_whole_are_an_error(folder: Path) -> None:
    path = token_file(folder, "p1")
    packed = path.with_suffix(".npz")
    np.savez_compressed(packed, tokens=np.load(path))
    path.unlink()
    assert load_pool(folder).tokens("p1").shape == (4, 4, 250)
    for file in (packed, path):
        file.write_bytes(b"PK\x03\x04 half a fi")
        with pytest.raises(RunFolderError, match=rf"{file.name} cannot be read"):
            load_pool(folder).tokens("p1")
    packed.unlink()
    path.unlink()
    with pytest.raises(RunFolderError, match=r"p1\.npy cannot be read"):
        load_pool(folder).tokens("p1")


def test_what_is_no_pool_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"identity": {"script": "benchmark"}}')
    with pytest.raises(
        RunFolderError, match=r"is not a pool's folder, .*: its manifest lacks 'candidates'"
    ):
        load_pool(tmp_path)


def test_reading_a_pool_imports_no_torch(folder: Path) -> None:
    code = (
        "import sys; from src.runs.pool import load_pool;"
        "load_pool(sys.argv[1]).pair('tags', 'kin'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT).returncode == 0
