"""Pools as people's notebooks read them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from src.pool import PoolError, load_pool
from src.records import RECORDS, RunFolderError
from tests.generator.fake_pool import PROMPTS, FakeClient, verifier
from tests.generator.test_pool_scoring import hears, judge
from tests.generator.test_pooling import make

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with make(tmp_path) as run:
        hears(run, [verifier("tags"), judge("far")], FakeClient(refuses=[("tags", "a jig")]))
    return run.folder


def test_a_notebook_reads_what_was_made(folder: Path) -> None:
    pool = load_pool(folder)
    assert pool.prompts == ("waltz", "jig", "reel")
    assert (pool.size, pool.duration, pool.frames, pool.asked) == (4, 0.4, 20, 3)
    assert pool.tokens("jig").shape == (4, 1, 20)
    assert pool.tokens("jig").dtype == np.int16
    assert set(pool.values("tags")) == {"waltz", "reel"}
    assert pool.values("tags", seconds=0.1)["reel"].dtype == np.float64
    own, seen = pool.pair("tags", "far")
    assert [len(clips) for clips in own] == [len(clips) for clips in seen] == [4, 4]
    assert list(own[1]) == list(pool.values("tags")["reel"])
    assert list(seen[1]) == list(pool.values("far")["reel"])
    first, whole = pool.pair("tags", "tags", a_seconds=0.2)
    assert list(first[0]) == list(pool.values("tags", 0.2)["waltz"])
    assert list(whole[0]) == list(pool.values("tags")["waltz"])
    far = pool.measures["far"]
    assert (far.role, far.higher_is_better, far.checkpoint) == ("judge", False, "fake (22222222)")


def test_perplexity_is_there_without_being_scored(folder: Path) -> None:
    pool = load_pool(folder)
    record = json.loads((folder / RECORDS).read_text().splitlines()[0])
    assert pool.measures["perplexity"].is_verifier == ("perplexity",)
    for key, seconds in (("whole", None), ("0.1", 0.1)):
        expected = np.exp(record["log_probs"][key])
        assert np.array_equal(pool.values("perplexity", seconds)["waltz"], expected)
    assert pool.seconds("perplexity") == 0.0
    assert pool.seconds("far") > 0


def test_a_table_has_a_row_for_each_number(folder: Path) -> None:
    pool = load_pool(folder)
    table = pool.table()
    assert list(table.columns) == ["prompt_id", "candidate", "measure", "seconds", "value"]
    # perplexity and tags at two prefixes and whole, the judge whole; tags has no jig
    assert len(table) == 4 * (3 * 3 + 3 * 2 + 3)
    row = table.query("prompt_id == 'reel' and candidate == 2 and measure == 'tags'")
    assert list(row["seconds"]) == [0.1, 0.2, 0.4]
    assert row["value"].iloc[-1] == pool.values("tags")["reel"][2]


def test_an_unknown_measure_is_an_error_that_lists_those_there_are(folder: Path) -> None:
    with pytest.raises(PoolError, match="no measure 'clap'; it has perplexity, tags, far"):
        load_pool(folder).values("clap")


def test_the_first_judge_stays_the_first_though_its_first_prompt_has_no_number(
    tmp_path: Path,
) -> None:
    with make(tmp_path) as run:
        one, two = judge("first", problem="no reference"), judge("second")
        hears(run, [one, two], FakeClient())
        hears(run, [judge("first"), two], FakeClient())
    assert list(load_pool(run.folder).measures) == ["perplexity", "first", "second"]


def test_a_pool_that_is_still_being_made_has_what_is_finished(folder: Path) -> None:
    lines = (folder / RECORDS).read_bytes().splitlines(keepends=True)
    (folder / RECORDS).write_bytes(b"".join(lines[:2]) + lines[2][:40])
    pool = load_pool(folder)
    assert pool.prompts == tuple(p.id for p in PROMPTS[:2])
    assert pool.asked == 3


def test_what_is_no_pool_or_lacks_its_tokens_is_said(folder: Path, tmp_path: Path) -> None:
    (folder / "tokens" / "jig.npy").write_bytes(b"half a fi")
    with pytest.raises(RunFolderError, match=r"jig\.npy cannot be read"):
        load_pool(folder).tokens("jig")
    other = tmp_path / "benchmark-x"
    other.mkdir()
    (other / "manifest.json").write_text('{"identity": {"script": "benchmark"}}')
    with pytest.raises(RunFolderError, match="is not a pool's folder"):
        load_pool(other)


def test_reading_a_pool_imports_no_torch(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from src.pool import load_pool;"
        "load_pool(Path(sys.argv[1])).pair('tags', 'far'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT).returncode == 0
