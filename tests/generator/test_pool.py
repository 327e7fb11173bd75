"""Pools as people's notebooks read them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.generator.test_pooling import make

from src.runs.pool import PoolError, load_pool
from src.runs.records import RECORDS, RunFolderError
from src.stats.best_of_n import within_prompt_std
from tests.generator.fake_pool import PROMPTS, FakeClient, verifier
from tests.generator.test_pool_scoring import hears, judge

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
    assert pool.measures["perplexity"].is_verifier == ("perplexity", "pmi")
    for key, seconds in (("whole", None), ("0.1", 0.1)):
        expected = np.exp(record["log_probs"][key])
        assert np.array_equal(pool.values("perplexity", seconds)["waltz"], expected)
        without = np.array(record["unconditional_log_probs"][key])
        expected = np.array(record["log_probs"][key]) - without
        assert np.array_equal(pool.values("pmi", seconds)["waltz"], expected)
    assert pool.seconds("perplexity") == pool.seconds("pmi") == 0.0
    assert pool.seconds("far") > 0


def test_a_pool_made_without_guidance_has_no_pmi(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / RECORDS).read_text().splitlines()]
    for record in lines:
        record.pop("unconditional_log_probs", None)
    (folder / RECORDS).write_text("".join(json.dumps(record) + "\n" for record in lines))
    pool = load_pool(folder)
    assert list(pool.measures) == ["perplexity", "tags", "far"]
    with pytest.raises(PoolError, match="no measure 'pmi'"):
        pool.values("pmi")


def test_a_sum_is_of_parts_in_units_of_their_spread_within_the_pools_prompts(folder: Path) -> None:
    pool = load_pool(folder, ["0.5*tags+pmi"])
    assert list(pool.measures) == ["perplexity", "pmi", "tags", "0.5*tags+pmi", "far"]
    tags, pmi = pool.values("tags"), pool.values("pmi")
    scales = {
        "tags": within_prompt_std([*tags.values()]),
        "pmi": within_prompt_std([*pmi.values()]),
    }
    assert pool.measures["0.5*tags+pmi"].scales == scales
    found = pool.values("0.5*tags+pmi")
    assert list(found) == ["waltz", "reel"]  # tags has no jig
    for prompt, values in found.items():
        expected = 0.5 * tags[prompt] / scales["tags"] + pmi[prompt] / scales["pmi"]
        assert values == pytest.approx(expected, rel=1e-12)
    # beginnings are in the units of whole clips, as a search has one constant for all steps
    begun = pool.values("0.5*tags+pmi", 0.2)["reel"]
    parts = [pool.values(name, 0.2)["reel"] for name in ("tags", "pmi")]
    assert begun == pytest.approx(0.5 * parts[0] / scales["tags"] + parts[1] / scales["pmi"])
    assert pool.values("tags+perplexity").keys() == found.keys()  # named on the spot
    assert pool.seconds("0.5*tags+pmi") == pool.seconds("tags")
    assert pool.measures["0.5*tags+pmi"].is_verifier == ("tags", "perplexity", "pmi")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("tags+clap", "no verifier 'clap'; it has perplexity, pmi, tags, far"),
        ("tags+far", "no verifier 'far'"),  # a judge selects nothing
        ("tags+", "is not a verifier or a sum"),
    ],
)
def test_a_sum_of_what_is_no_verifier_of_the_pool_is_an_error(folder, text, reason) -> None:
    with pytest.raises(PoolError, match=reason):
        load_pool(folder, [text])


def test_a_table_has_a_row_for_each_number(folder: Path) -> None:
    pool = load_pool(folder)
    table = pool.table()
    assert list(table.columns) == ["prompt_id", "candidate", "measure", "seconds", "value"]
    # perplexity, pmi and tags at two prefixes and whole, the judge whole; tags has no jig
    assert len(table) == 4 * (2 * 3 * 3 + 3 * 2 + 3)
    row = table.query("prompt_id == 'reel' and candidate == 2 and measure == 'tags'")
    assert list(row["seconds"]) == [0.1, 0.2, 0.4]
    assert row["value"].iloc[-1] == pool.values("tags")["reel"][2]


def test_an_unknown_measure_is_an_error_that_lists_those_there_are(folder: Path) -> None:
    with pytest.raises(PoolError, match="no measure 'clap'; it has perplexity, pmi, tags, far"):
        load_pool(folder).values("clap")


def test_the_first_judge_stays_the_first_though_its_first_prompt_has_no_number(
    tmp_path: Path,
) -> None:
    with make(tmp_path) as run:
        one, two = judge("first", problem="no reference"), judge("second")
        hears(run, [one, two], FakeClient())
        hears(run, [judge("first"), two], FakeClient())
    assert list(load_pool(run.folder).measures) == ["perplexity", "pmi", "first", "second"]


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
        "import sys; from pathlib import Path; from src.runs.pool import load_pool;"
        "load_pool(Path(sys.argv[1])).pair('tags', 'far'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT).returncode == 0
