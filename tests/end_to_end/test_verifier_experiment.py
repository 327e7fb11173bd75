"""verifier_experiment.py for real: the built-in model, the verifier server, processes that die."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch

import verifier_experiment
from src.client.local_server import local_server
from src.runs.ending import Exit
from src.runs.pool import Pool, load_pool
from src.runs.records import read_records

ROOT = Path(__file__).parents[2]
PROMPTS, POOL = 3, 4
# One prompt at a time, so that a run can be stopped between any two of its pools.
TINY = (
    *("--profile", "builtin", "--num_samples", str(PROMPTS), "--duration", "1.6"),
    *("--step_size", "0.8", "--budgets", "1", "2", "--pool_size", str(POOL), "--max_rows", "4"),
    *("--verifiers", "perplexity", "tags", "--judges", "msd_kld"),
)
# One thread each: on a busy machine, threads that wait for one another cost more than they give.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
ONE_THREAD = ("--threads", "1")
BOTH = (*TINY, "--method", "sbs", "--sweep_verifiers", "tags")


def start(output: Path, *args: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "verifier_experiment.py", *args, "--output", str(output)],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(output: Path, *args: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr; in this process, which imports everything once."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            code = verifier_experiment.main([*args, "--output", str(output)])
    finally:
        torch.set_num_threads(threads)
    return code, out.getvalue(), err.getvalue()


def folder_of(output: Path, kind: str) -> Path:
    (folder,) = output.glob(f"{kind}-*")
    return folder


def pool_of(output: Path) -> Pool:
    return load_pool(folder_of(output, "pool"))


def until_written(process: "subprocess.Popen[str]", output: Path, records: int) -> None:
    """Wait for that many records of the pool, while the process runs."""
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline and process.poll() is None:
        files = list(output.glob("pool-*/records.jsonl"))
        if files and files[0].read_bytes().count(b"\n") >= records:
            return
        time.sleep(0.02)
    process.kill()
    pytest.fail(f"no {records} records came: {process.communicate()[1][-2000:]}")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with local_server(["tags", "tags_msd"], options=ONE_THREAD) as url:
        yield url


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, server: str) -> tuple[Path, str]:
    """An experiment that nothing disturbed; its stdout."""
    output = tmp_path_factory.mktemp("whole")
    code, out, err = run(output, *BOTH, "--server", server)
    assert code == Exit.DONE, err
    return output, out


@pytest.mark.slow
def test_one_pool_is_generated_and_every_number_follows_from_it(whole: tuple[Path, str]) -> None:
    output, out = whole
    assert "would generate 9 clips a prompt; the pool has 4" in out
    pool = pool_of(output)
    assert list(pool.measures) == ["perplexity", "pmi", "tags", "msd_kld"]
    assert (len(pool.prompts), pool.prefixes) == (PROMPTS, (0.8,))
    for name in pool.measures:
        values = pool.values(name)
        assert [len(values[p]) for p in pool.prompts] == [POOL] * PROMPTS
    with (pool.folder / "scaling.csv").open() as file:
        rows = list(csv.DictReader(file))
    own = next(
        float(row["mean"])
        for row in rows
        if (row["selector"], row["measure"], row["n"]) == ("tags", "tags", "1")
    )
    everything = np.mean([pool.values("tags")[p] for p in pool.prompts])
    assert own == pytest.approx(everything, abs=1e-4)
    assert {p.name for p in pool.folder.glob("*.png")} >= {"scaling.png", "matrix.png"}


@pytest.mark.slow
def test_cells_that_cannot_run_are_listed_and_the_others_start_from_the_pools_candidates(
    whole: tuple[Path, str],
) -> None:
    output, out = whole
    assert "Left out: sbs n=2 m=4: 4 does not divide 2." in out
    folder, pool = folder_of(output, "sweep"), pool_of(output)
    records = read_records(folder)
    assert {method for method, _ in records} == {
        "baseline n=1 m=1 k=0 step=1.6 seed=42",
        "sbs n=2 m=2 k=0 step=0.8 seed=42",
    }
    assert (folder / "cost.csv").is_file()
    for (method, prompt), record in records.items():
        assert set(record["judges"]) == {"msd_kld"}
        if method.startswith("baseline"):
            first = {name: pool.values(name)[prompt][0] for name in pool.measures}
            assert record["winner"]["score"]["value"] == pytest.approx(first["tags"], abs=1e-3)
            assert record["judges"]["msd_kld"] == pytest.approx(first["msd_kld"], abs=1e-3)
        else:
            # what beam search heard after one step is what the pool's prefix was scored on
            heard = [node["score"]["value"] for node in record["tree"] if node["step"] == 0]
            assert heard == pytest.approx(list(pool.values("tags", 0.8)[prompt][:2]), abs=1e-3)


@pytest.mark.slow
def test_a_killed_experiment_that_then_lost_its_server_ends_as_if_nothing_had_happened(
    whole: tuple[Path, str], server: str, tmp_path: Path
) -> None:
    killed = start(tmp_path, *BOTH, "--server", server)
    until_written(killed, tmp_path, 1)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    with (folder_of(tmp_path, "pool") / "records.jsonl").open("a") as file:
        file.write('{"method":"candidates","prompt_id":"half a li')

    with ExitStack() as stack:
        doomed = stack.enter_context(local_server(["tags"], options=ONE_THREAD))
        process = start(tmp_path, *BOTH, "--server", doomed)
        until_written(process, tmp_path, PROMPTS + 1)
        stack.close()
    _, err = process.communicate(timeout=100)
    assert process.returncode == Exit.SERVER, err
    assert "the same command goes on from there" in err

    code, _, err = run(tmp_path, *BOTH, "--server", server)
    assert code == Exit.DONE, err
    expected, found = pool_of(whole[0]), pool_of(tmp_path)
    assert found.folder.name == expected.folder.name
    assert found.prompts == expected.prompts
    for prompt in expected.prompts:
        assert np.array_equal(found.tokens(prompt), expected.tokens(prompt))
    for name in expected.measures:
        for seconds in (None, *expected.seconds_of(name)):
            for prompt, values in expected.values(name, seconds).items():
                assert found.values(name, seconds)[prompt] == pytest.approx(values, rel=1e-5)
    assert winners(tmp_path) == winners(whole[0])


def winners(output: Path) -> dict[tuple[str, str], str]:
    """The winner's tokens, as a hash, of each cell and prompt."""
    records = read_records(folder_of(output, "sweep"))
    return {key: record["winner"]["tokens_sha256"] for key, record in records.items()}


@pytest.fixture
def old(whole: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the pool, in another place."""
    return Path(shutil.copytree(folder_of(whole[0], "pool"), tmp_path / "old"))


@pytest.mark.slow
def test_an_old_pool_is_scored_by_a_new_verifier_and_judge_without_generating(
    old: Path, server: str, tmp_path: Path
) -> None:
    before = (old / "records.jsonl").read_bytes()
    new = ("--verifiers", "tags_msd", "tags", "--judges", "msd_vgg_kld", "--server", server)
    code, _, err = run(tmp_path, "--pool", str(old), *new)
    assert code == Exit.PROMPTS_FAILED, err  # tags_msd knows no word of one prompt
    after = (old / "records.jsonl").read_bytes()
    assert after.startswith(before)
    added = [json.loads(line)["method"] for line in after[len(before) :].splitlines()]
    assert added == ["scores tags_msd", "scores msd_vgg_kld"] * PROMPTS
    pool = load_pool(old)
    assert list(pool.measures) == [
        *("perplexity", "pmi", "tags", "tags_msd", "msd_kld", "msd_vgg_kld")
    ]
    assert pool.seconds_of("tags_msd") == (0.8,)
    refused = read_records(old)["scores tags_msd", pool.prompts[2]]
    assert refused["status"] == "failed"
    assert "names no tag that 'tags_msd' knows" in refused["reason"]
    assert list(pool.values("tags_msd")) == list(pool.prompts[:2])
    assert list(pool.values("msd_vgg_kld")) == list(pool.prompts)


@pytest.mark.slow
def test_statistics_of_an_old_pool_need_neither_torch_nor_a_server(old: Path) -> None:
    for made in [*old.glob("*.csv"), *old.glob("*.png")]:
        made.unlink()
    before = (old / "records.jsonl").read_bytes()
    code = (
        "import sys, verifier_experiment\n"
        "code = verifier_experiment.main(sys.argv[1:])\n"
        "sys.exit(9 if 'torch' in sys.modules else code)"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-c", code, "--pool", str(old), "--budgets", "1", "2", "4"),
            *("--sums", "tags+pmi"),
        ],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == Exit.DONE, done.stderr
    with (old / "scaling.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["n"] for row in rows} == {"1", "2", "4"}
    assert [row["measure"] for row in rows if row["selector"] == "tags+pmi"][::3] == [
        *("msd_kld", "perplexity", "pmi", "tags", "tags+pmi")
    ]
    # of the only four candidates a sum chooses the one that a search would
    pool = load_pool(old)
    sums, judged = pool.pair("tags+pmi", "msd_kld")
    best = np.mean([j[s.argmax()] for s, j in zip(sums, judged, strict=True)])
    found = next(r for r in rows if (r["selector"], r["n"]) == ("tags+pmi", "4"))
    assert float(found["mean"]) == pytest.approx(best, rel=1e-5)
    assert (old / "records.jsonl").read_bytes() == before


@pytest.mark.slow
def test_what_is_no_pool_and_what_is_not_the_pools_is_said(old: Path, tmp_path: Path) -> None:
    code, _, err = run(tmp_path, "--pool", str(tmp_path / "nothing"))
    assert code == Exit.FOLDER
    assert "cannot be read" in err
    code, _, err = run(tmp_path, "--pool", str(old), "--duration", "3")
    assert code == Exit.USAGE
    assert "has 1.6; leave it out" in err
    code, _, err = run(tmp_path, "--pool", str(old), "--sums", "tags+clap")
    assert code == Exit.USAGE
    assert "the pool has no scores of clap; name what it lacks in --verifiers" in err
