"""benchmark.py for real: its own process, the built-in model, the verifier server, tiny budgets."""

import csv
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from signal import SIGINT, SIGKILL

import pytest

from src.budget import Cost
from src.data.audio import read_audio
from src.judges.registry import all_three
from src.methods import METHODS
from src.runs.ending import Exit
from src.runs.local_server import local_server
from src.runs.records import RECORDS, key_of, read_manifest
from src.runs.settings import PROFILE_JUDGES
from tests.end_to_end import scripts
from tests.end_to_end.scripts import end, folder_of, lines, until_written, winners

# One prompt at a time, so that a run can be stopped between any two of its clips.
TINY = (
    *("--profile", "builtin", "--verifier", "tags", "--num_samples", "2", "--duration", "2"),
    *("--candidates", "4", "--beam_width", "2", "--step_size", "0.8", "--max_rows", "4"),
)
ALL = (*TINY, "--method", *METHODS)
ALL_CLIPS = len(METHODS) * 2


def start(output: Path, *args: str) -> scripts.Process:
    return scripts.start("benchmark.py", output, *args)


def run(output: Path, *args: str) -> tuple[int, str, str]:
    return scripts.run("benchmark.py", output, *args)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with local_server(["tags"]) as url:
        yield url


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of all methods that nothing disturbed, with a server of its own: its folder and
    stdout."""
    output = tmp_path_factory.mktemp("whole")
    code, out, err = run(output, *ALL, "--server", "auto")
    assert code == Exit.DONE, err
    return folder_of(output), out


@pytest.mark.slow
def test_all_methods_write_a_whole_run_at_exactly_their_cost(whole: tuple[Path, str]) -> None:
    folder, out = whole
    rows = [line.split()[0] for line in out.splitlines() if line.startswith(tuple(METHODS))]
    assert rows[: len(METHODS)] == list(METHODS)
    records = lines(folder)
    assert len(records) == ALL_CLIPS
    for record in records:
        method = METHODS[record["method"]]
        plan = method.make_plan(4, 2, 0.8, 50, {"beam_width": 2, "lookahead_k": 1})
        assert Cost(record["ledger"]["frames"], record["ledger"]["clips"]) == plan.expected()
        assert set(record["judges"]) == {*all_three(PROFILE_JUDGES["builtin"])}
        assert len(record["tree"]) == sum(plan.held)
        assert record["ledger"]["uploaded_bytes"] > 0
        clip = read_audio(folder / record["audio"])
        assert clip.seconds == pytest.approx(2.0, abs=0.02)
    assert {"benchmark.png", "manifest.json", "records.jsonl", "summary.csv"} <= {
        path.name for path in folder.iterdir()
    }
    manifest = read_manifest(folder)
    assert set(manifest["identity"]["checkpoints"]) >= {"generator", "tags", "msd_kld"}
    assert manifest["starts"][0]["versions"]["torch"]


@pytest.mark.slow
def test_an_interrupted_and_killed_run_ends_as_if_nothing_had_happened(
    whole: tuple[Path, str], server: str, tmp_path: Path
) -> None:
    command = (*ALL, "--server", server)
    interrupted = start(tmp_path, *command)
    until_written(interrupted, tmp_path, 1)
    err = end(interrupted, SIGINT)
    assert interrupted.returncode == Exit.INTERRUPTED, err
    assert f"of {ALL_CLIPS} searches are finished and kept in" in err
    assert "the same command goes on from there" in err
    assert "Traceback" not in err

    folder = folder_of(tmp_path)
    before = len(lines(folder))
    killed = start(tmp_path, *command)
    until_written(killed, tmp_path, before + 2)
    end(killed, SIGKILL)
    with (folder / RECORDS).open("a") as file:
        file.write('{"kind":"search","method":"sbs","prompt_id":"half a li')

    code, out, err = run(tmp_path, *command)
    assert code == Exit.DONE, err
    assert "dropping a last line that was cut short" in err
    assert set(Counter(map(key_of, lines(folder))).values()) == {1}
    assert {record["start"] for record in lines(folder)} == {0, 1, 2}
    assert folder.name == whole[0].name
    assert winners(folder) == winners(whole[0])
    assert out.splitlines()[0] == whole[1].splitlines()[0]


@pytest.mark.slow
def test_a_finished_run_is_reported_again_without_doing_anything(
    whole: tuple[Path, str], server: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whole[0], tmp_path / whole[0].name))
    before = (folder / RECORDS).read_bytes()
    code, out, err = run(tmp_path, *ALL, "--server", server)
    assert code == Exit.DONE, err
    assert (folder / RECORDS).read_bytes() == before
    assert out.splitlines()[:-1] == whole[1].splitlines()[:-1]


@pytest.mark.slow
def test_a_prompt_without_a_score_fails_alone_and_is_taken_up_again(
    server: str, tmp_path: Path
) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("id,caption\nodd,xyzzy plugh\nfine,a slow piano melody\n")
    command = (*TINY, "--prompts", str(table), "--server", server, "--method", "best_of_n")
    code, out, err = run(tmp_path, *command)
    assert code == Exit.PROMPTS_FAILED, err
    assert "Failed: 1" in out
    folder = folder_of(tmp_path)
    by_prompt = {record["prompt_id"]: record for record in lines(folder)}
    assert by_prompt["fine"]["status"] == "ok"
    assert by_prompt["odd"]["status"] == "failed"
    assert by_prompt["odd"]["verifier"] == "tags"
    with (folder / "summary.csv").open() as file:
        assert {row["prompts"] for row in csv.DictReader(file)} >= {"1"}

    code, _, err = run(tmp_path, *command)
    assert code == Exit.PROMPTS_FAILED, err
    assert Counter(r["prompt_id"] for r in lines(folder)) == {"odd": 2, "fine": 1}


def test_without_network_or_weights_everything_missing_is_said_within_seconds(
    tmp_path: Path,
) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    begin = time.monotonic()
    code, _, err = scripts.run(
        *("benchmark.py", tmp_path, "--method", "best_of_n", "--candidates", "16"),
        *("--verifier", "clap", "--server", "http://127.0.0.1:9"),
        environment=environment,
    )
    assert time.monotonic() - begin < 15
    assert code == Exit.MISSING
    for part in (
        *("6 things are missing", "musicgen-small", "t5-base", "MusicCaps", "clap", "server"),
        "kld_pq",
    ):
        assert part in err
