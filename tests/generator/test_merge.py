"""Shards joined: the records and files of one process, whatever the parts and however often."""

import io
import json
import lzma
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import benchmark
import verifier_experiment
from src.data.files import as_json
from src.data.lease import Lease
from src.data.prompts import Prompt
from src.reports import __main__ as reports
from src.runs import merge
from src.runs.continuing import winner_of
from src.runs.ending import Exit
from src.runs.pool import load_pool
from src.runs.records import (
    CANDIDATES,
    COMPRESSED,
    MANIFEST,
    RECORDS,
    RunFolderError,
    read_manifest,
    read_records,
    scores_key,
    search_key,
)
from src.runs.run import Run
from src.runs.shards import Shard
from src.runs.sources import results_of

PROMPTS = [Prompt(id=f"p{n:02d}", text=f"text {n}", key=f"key {n}") for n in range(23)]
IDENTITY = {"script": "benchmark", "settings": {"seed": 42, "verifier": "pmi"}}
FACTS = {"title": "made up", "caveats": []}
SEARCHES = [search_key(name) for name in ("baseline", "sbs")]
POOL = [CANDIDATES, scores_key("tags"), scores_key("msd_kld")]
REFERENCES = Path("music_data")


def write(
    output: Path,
    shard: str | None = None,
    keys: Sequence[Mapping[str, Any]] = SEARCHES,
    identity: Mapping[str, Any] = IDENTITY,
    failed: Iterable[str] = (),
    prompts: Iterable[str] | None = None,
    **more: Any,
) -> Path:
    """What a process makes of a run, or of a shard of it, in the order of scripts. prompts: those
    that it comes to. Returns the folder."""
    part = None if shard is None else Shard.parse(shard)
    own = PROMPTS if part is None else list(part.of_groups(PROMPTS, 3))
    here = {"asked": keys}
    with Run(output, "run", identity, FACTS, here, shard=part, prompts=PROMPTS) as run:
        for key, prompt in in_order(keys, own):
            if prompts is not None and prompt.id not in prompts:
                continue
            status = "failed" if prompt.id in failed else "ok"
            reference = os.path.relpath((output / REFERENCES / f"{prompt.id}.wav"), run.folder)
            record = {**key, "prompt_id": prompt.id, "status": status, "score": len(prompt.id) / 7}
            record |= {"seconds": np.random.random(), "reference": reference, "reason": status}
            record |= {"ledger": {"frames": 50, "seconds": {"decode": np.random.random()}}}
            if not run.is_done(key, prompt.id):
                run.append(record | more)
                file = run.folder / "tokens" / f"{prompt.id}.npy"
                file.parent.mkdir(exist_ok=True)
                np.save(file, np.full((1, 4, 5), len(prompt.id), np.int16))
    return run.folder


def in_order(
    keys: Sequence[Mapping[str, Any]], prompts: Sequence[Prompt]
) -> list[tuple[Mapping[str, Any], Prompt]]:
    if keys[0] != CANDIDATES:
        return [(key, prompt) for key in keys for prompt in prompts]
    scored = [(key, prompt) for prompt in prompts for key in keys[1:]]
    return [(CANDIDATES, prompt) for prompt in prompts] + scored


def timeless(folder: Path) -> list[str]:
    """Every line of the records but for times, references too."""
    lines = [json.loads(line) for line in (folder / RECORDS).read_text().splitlines()]
    return [as_json(results_of(line) | {"at": line.get("reference")}) for line in lines]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "shards" not in path.relative_to(folder).parts
    }


def join(*folders: Path) -> tuple[int, str]:
    """Exit code and stdout."""
    with redirect_stdout(io.StringIO()) as out:
        try:
            code = merge.main([str(folder) for folder in folders])
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, out.getvalue()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two shards of a run that is complete."""
    write(tmp_path, "1/2")
    return write(tmp_path, "2/2").parent.parent


@pytest.mark.parametrize("keys", [SEARCHES, POOL], ids=["a benchmark", "a pool"])
@pytest.mark.parametrize("of", [1, 2, 5])
def test_joined_records_are_those_of_one_process_but_for_times(
    tmp_path: Path, of: int, keys: list[dict]
) -> None:
    one = write(tmp_path / "one", keys=keys)
    for index in range(of, 0, -1):  # in any order
        shard = write(tmp_path / "several", f"{index}/{of}", keys)
    run, parts = shard.parent.parent, f"{of} shards" if of > 1 else "1 shard"
    assert run.name == one.name
    code, out = join(run)
    assert (code, out.splitlines()[0]) == (0, f"{run}: {len(keys) * 23} records of {parts}")
    assert f"python -m src.reports {run}" in out
    assert timeless(run) == timeless(one)
    assert {*contents(run)} == {*contents(one)}
    manifest, expected = read_manifest(run), read_manifest(one)
    starts = manifest.pop("starts")
    assert manifest | {"starts": expected["starts"]} == expected
    assert {start["shard"] for start in starts} == {f"{i}/{of}" for i in range(1, of + 1)}
    for record in read_records(run).values():
        index, _ = starts[record["start"]]["shard"].split("/")
        assert record["prompt_id"] in (run / f"shards/{index}-of-{of}" / RECORDS).read_text()


def test_to_join_again_changes_nothing_and_adds_what_has_come(tmp_path: Path, run: Path) -> None:
    join(run)
    before = contents(run)
    assert join(run)[0] == 0
    assert contents(run) == before
    later = [*SEARCHES, search_key("waves")]
    write(tmp_path, "1/2", later)
    code, out = join(run)
    assert code == 1
    left = [p.id for p in Shard(2, 2).of_groups(PROMPTS, 3)]
    assert f"search waves: {len(left)} of 23 prompts missing: {', '.join(left[:10])}" in out
    write(tmp_path, "2/2", later)
    assert join(run)[0] == 0
    assert timeless(run) == timeless(write(tmp_path / "one", keys=later))
    before = contents(run)
    join(run)
    assert contents(run) == before
    starts = read_manifest(run)["starts"]
    assert [start["shard"] for start in starts] == ["1/2", "2/2", "1/2", "2/2"]


def test_it_is_said_what_is_missing(tmp_path: Path) -> None:
    own = [p.id for p in Shard(2, 5).of_groups(PROMPTS, 3)]
    run = write(tmp_path, "2/5", failed=own[:1]).parent.parent
    write(tmp_path, "4/5", prompts=())
    (run / "shards" / "5-of-5").mkdir()  # killed before it began
    code, out = join(run)
    others = [p.id for p in PROMPTS if p.id not in own]
    listed = f"{', '.join(others[:10])} and {len(others) - 10} more"
    assert (code, out.splitlines()[1:-1]) == (
        1,
        [
            line
            for name in ("baseline", "sbs")
            for line in (
                f"search {name}: {len(others)} of 23 prompts missing: {listed}",
                f"search {name}: 1 of 23 prompts failed: {own[0]}",
            )
        ]
        + ["shards 1 and 3 and 5 of 5 have not begun"],
    )


def test_a_later_success_counts_before_and_after_a_failure_was_joined(
    tmp_path: Path, run: Path
) -> None:
    other = write(tmp_path / "other", "1/2", failed=["p00", "p01", "p02", "p03"])
    other_run = other.parent.parent
    shutil.copytree(run / "shards" / "2-of-2", other_run / "shards" / "2-of-2")
    assert join(other_run)[0] == 1
    write(tmp_path / "other", "1/2")
    assert join(other_run)[0] == 0
    join(run)
    assert timeless(other_run) == timeless(run)


def test_what_a_shard_has_made_anew_replaces_what_was_joined(tmp_path: Path, run: Path) -> None:
    join(run)
    shard = run / "shards" / "1-of-2"
    line = json.loads((shard / RECORDS).read_text().splitlines()[0])
    with Run.reopen(shard) as opened:  # as when it was judged again
        opened.append(line | {"score": 9.5})
    assert join(run)[0] == 0
    scores = [r["score"] for r in read_records(run).values() if r["score"] == 9.5]
    assert scores == [9.5]


def test_results_that_differ_are_refused_by_prompt_and_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write(tmp_path, "1/1").parent.parent
    write(tmp_path, "1/2", winner={"slot": 3})
    code, _ = join(run)
    assert code == Exit.FOLDER
    said = capsys.readouterr().err
    first = next(Shard(1, 2).of_groups(PROMPTS, 3)).id
    assert f"1-of-1 and {run}/shards/1-of-2 have different results of prompt {first}" in said
    assert "search baseline: winner (None, {'slot': 3}). Shards" in said
    assert not (run / RECORDS).exists()


def test_equal_results_of_several_divisions_are_one(tmp_path: Path, run: Path) -> None:
    join(run)
    before = timeless(run)
    write(tmp_path, "3/7")
    write(tmp_path)  # one process, in the run's own folder
    assert join(run)[0] == 0
    assert timeless(run) == before


def test_runs_of_other_settings_are_refused_by_name(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {**IDENTITY, "settings": {"seed": 43, "verifier": "pmi"}}
    shard = write(tmp_path / "other", "1/2", identity=other)
    assert join(run, shard)[0] == Exit.FOLDER
    assert "runs with other settings: settings.seed (42, 43)" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["line", "manifest", "no manifest", "start"])
def test_a_damaged_shard_is_named(
    run: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = run / "shards" / "2-of-2"
    if damage == "line":
        with (shard / RECORDS).open("a") as file:
            file.write("nonsense\n")
    elif damage == "no manifest":
        (shard / MANIFEST).unlink()
    else:
        manifest = read_manifest(shard)
        manifest |= {"starts": []} if damage == "start" else {"hash": "0" * 64}
        (shard / MANIFEST).write_text(json.dumps(manifest))
    assert join(run)[0] == Exit.FOLDER
    assert str(shard) in capsys.readouterr().err


def test_a_line_that_is_being_written_is_left_out(run: Path) -> None:
    join(run)
    before = contents(run)
    with (run / "shards" / "1-of-2" / RECORDS).open("a") as file:
        file.write('{"kind":"search"')
    assert join(run)[0] == 0
    assert contents(run) == before


def test_compressed_records_are_joined_too(run: Path) -> None:
    join(run)
    before = contents(run)
    for folder in (run, run / "shards" / "1-of-2"):
        (folder / COMPRESSED).write_bytes(lzma.compress((folder / RECORDS).read_bytes()))
        (folder / RECORDS).unlink()
    assert join(run)[0] == 0
    assert contents(run) == before


def test_shards_from_elsewhere_are_joined_into_the_run(tmp_path: Path, run: Path) -> None:
    expected = write(tmp_path / "one")
    moved = Path(shutil.move(run / "shards" / "2-of-2", tmp_path / "mnt" / "shards" / "2-of-2"))
    assert join(run)[0] == 1
    assert join(run, moved)[0] == 0
    assert [r["prompt_id"] for r in read_records(run).values()] == [
        r["prompt_id"] for r in read_records(expected).values()
    ]
    assert join(run / "shards" / "1-of-2", moved)[0] == Exit.FOLDER  # into which?


def test_files_are_linked_kept_where_they_are_equal_and_refused_where_they_differ(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = run / "shards" / "1-of-2"
    file = next((shard / "tokens").iterdir())
    (file.parent / ".half.npy.x1").touch()  # of a write that was interrupted
    join(run)
    target = run / "tokens" / file.name
    assert target.samefile(file)
    assert not (run / "tokens" / ".half.npy.x1").exists()
    target.unlink()
    shutil.copy(file, target)
    assert join(run)[0] == 0
    target.write_bytes(b"other")
    assert join(run)[0] == Exit.FOLDER
    assert f"{file} and {target} differ" in capsys.readouterr().err


def test_where_a_file_cannot_be_linked_it_is_copied(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no")))
    assert join(run)[0] == 0
    file = next((run / "shards" / "1-of-2" / "tokens").iterdir())
    assert (run / "tokens" / file.name).read_bytes() == file.read_bytes()
    assert not (run / "tokens" / file.name).samefile(file)


def test_a_reference_heard_in_two_shards_may_differ_by_rounding_alone(run: Path) -> None:
    files = [run / f"shards/{i}-of-2/embeddings/msd/reference/p00.npy" for i in (1, 2)]
    for file, value in zip(files, (1.0, 1.00001), strict=True):
        file.parent.mkdir(parents=True)
        np.save(file, np.full((2, 3), value, np.float32))
    assert join(run)[0] == 0
    np.save(files[1], np.full((2, 3), 2.0, np.float32))
    assert join(run)[0] == Exit.FOLDER


def test_a_run_that_is_written_to_is_not_joined_meanwhile(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Lease(run):
        assert join(run)[0] == Exit.FOLDER
    assert "in use by another process" in capsys.readouterr().err
    assert join(run)[0] == 0


def test_the_joined_run_goes_on_as_one_process(tmp_path: Path, run: Path) -> None:
    join(run)
    write(tmp_path, keys=[*SEARCHES, search_key("waves")])
    assert len(read_records(run)) == 3 * 23
    assert join(run)[0] == 0
    assert timeless(run) == timeless(write(tmp_path / "one", keys=[*SEARCHES, search_key("waves")]))


def test_a_folder_without_shards_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="has no shards that have begun"):
        merge.find([tmp_path])


TINY = "--profile builtin --num_samples 5 --duration 0.6 --step_size 0.2 --max_rows 4"
TINY += " --log_level warning --judges msd_cosine kad_msd"
BENCHMARK = f"{TINY} --candidates 4 --beam_width 2 --verifier pmi"
BENCHMARK += " --method baseline sbs halving waves"
EXPERIMENT = f"{TINY} --pool_size 4 --budgets 1 2 4 --verifiers pmi perplexity --prefixes 0.2"


@contextmanager
def one_thread() -> Iterator[None]:
    """On a busy machine, threads that wait for one another cost more than they give."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def tables(folder: Path) -> dict[str, list[list[str]]]:
    """Of each CSV file the cells, but for seconds."""
    found = {}
    for path in folder.glob("*.csv"):
        rows = [line.split(",") for line in path.read_text().splitlines()]
        timed = [at for at, name in enumerate(rows[0]) if "seconds" in name]
        found[path.name] = [[c for at, c in enumerate(row) if at not in timed] for row in rows]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "args", "of"),
    [(benchmark, BENCHMARK, 3), (verifier_experiment, EXPERIMENT, 2)],
    ids=["a benchmark in 3", "a pool in 2"],
)
def test_shards_for_real_are_one_process_to_the_byte_and_to_the_table(
    tmp_path: Path, script: Any, args: str, of: int
) -> None:
    with redirect_stdout(io.StringIO()), one_thread():
        assert script.main([*args.split(), "--output", str(tmp_path / "one")]) == Exit.DONE
        (one,) = (tmp_path / "one").iterdir()
        assert reports.main([str(one)]) == Exit.DONE
        for index in range(1, of + 1):
            asked = ["--output", str(tmp_path / "parts"), "--shard", f"{index}/{of}"]
            assert script.main([*args.split(), *asked]) == Exit.DONE
        (run,) = (tmp_path / "parts").iterdir()
        assert join(run)[0] == 0
        assert timeless(run) == timeless(one)
        assert reports.main([str(run)]) == Exit.DONE
        assert tables(run) == tables(one)
        made = {*contents(run)}
        assert made == {*contents(one)}
        files = [name for name in made if name.startswith(merge.FILES)]
        assert len(files) > 6
        for name in files:
            assert (run / name).read_bytes() == (one / name).read_bytes()
        if script is benchmark:
            name = "sbs/builtin-03"
            assert np.array_equal(
                winner_of(f"{run}/{name}").given, winner_of(f"{one}/{name}").given
            )
        else:
            more = "--log_level warning --judges msd_kld --pool"
            assert script.main([*more.split(), str(run)]) == Exit.DONE
            assert "msd_kld" in load_pool(run).measures
