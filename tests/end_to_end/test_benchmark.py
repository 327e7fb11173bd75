"""benchmark.py for real: its own process, the built-in model, the verifier server, tiny budgets."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from src.budget import Cost, make_plan
from src.client.local_server import local_server
from src.data.audio import read_audio
from src.runs.ending import Exit
from src.runs.records import read_manifest, read_records

ROOT = Path(__file__).parents[2]
METHODS = ("baseline", "best_of_n", "sbs", "lookahead")
# One prompt at a time, so that a run can be stopped between any two of its clips.
TINY = (
    *("--profile", "builtin", "--verifier", "tags", "--num_samples", "2", "--duration", "2"),
    *("--candidates", "4", "--beam_width", "2", "--step_size", "0.8", "--max_rows", "4"),
)
FOUR = (*TINY, "--method", *METHODS)
ALL_CLIPS = len(METHODS) * 2


def start(output: Path, *args: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "benchmark.py", *args, "--output", str(output)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(output: Path, *args: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    process = start(output, *args)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def the_run(output: Path) -> Path:
    (folder,) = output.glob("benchmark-*")
    return folder


def lines(output: Path) -> list[dict]:
    return [json.loads(line) for line in (the_run(output) / "records.jsonl").open()]


def until_finished(process: "subprocess.Popen[str]", output: Path, clips: int) -> None:
    """Wait for that many records, while the process runs."""
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None:
        files = list(output.glob("benchmark-*/records.jsonl"))
        if files and files[0].read_bytes().count(b"\n") >= clips:
            return
        time.sleep(0.02)
    process.kill()
    pytest.fail(f"no {clips} records came: {process.communicate()[1][-2000:]}")


def winners(output: Path) -> dict[tuple[str, str], str]:
    """The winner's tokens, as a hash, of each method and prompt."""
    records = read_records(the_run(output))
    return {key: record["winner"]["tokens_sha256"] for key, record in records.items()}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with local_server(["tags"]) as url:
        yield url


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of all four methods that nothing disturbed, with a server of its own; its stdout."""
    output = tmp_path_factory.mktemp("whole")
    code, out, err = run(output, *FOUR, "--server", "auto")
    assert code == Exit.DONE, err
    return output, out


@pytest.mark.slow
def test_four_methods_write_a_whole_run_at_exactly_their_cost(whole: tuple[Path, str]) -> None:
    output, _ = whole
    folder = the_run(output)
    records = lines(output)
    assert len(records) == ALL_CLIPS
    for record in records:
        plan = make_plan(
            record["method"],
            candidates=4,
            beam_width=2,
            lookahead_k=1,
            duration=2,
            step_size=0.8,
            frame_rate=50,
        )
        assert Cost(record["ledger"]["frames"], record["ledger"]["clips"]) == plan.expected()
        assert set(record["judges"]) == {"msd_kld", "mtt_vgg", "msd_vgg_kld"}
        assert len(record["tree"]) == plan.candidates * len(plan.steps)
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
def test_the_table_tells_selector_and_judges_apart(whole: tuple[Path, str]) -> None:
    _, out = whole
    assert "tags ↑" in out
    assert "own verifier (selector)" in out
    assert "msd_kld ↓" in out
    assert "primary judge" in out
    assert "mtt_vgg: not independent of tags" in out
    rows = [line.split()[0] for line in out.splitlines() if line.startswith(METHODS)]
    assert rows[:4] == list(METHODS)


@pytest.mark.slow
def test_the_baseline_is_in_best_of_ns_pool_and_never_beats_it(whole: tuple[Path, str]) -> None:
    records = read_records(the_run(whole[0]))
    for (method, prompt), record in records.items():
        if method == "baseline":
            pool = records["best_of_n", prompt]
            assert pool["tree"][0]["score"]["value"] == pytest.approx(
                record["winner"]["score"]["value"], abs=1e-3
            )
            assert pool["winner"]["score"]["value"] == max(
                node["score"]["value"] for node in pool["tree"]
            )


@pytest.mark.slow
def test_an_interrupted_and_killed_run_ends_as_if_nothing_had_happened(
    whole: tuple[Path, str], server: str, tmp_path: Path
) -> None:
    command = (*FOUR, "--server", server)
    interrupted = start(tmp_path, *command)
    until_finished(interrupted, tmp_path, 1)
    interrupted.send_signal(signal.SIGINT)
    _, err = interrupted.communicate(timeout=60)
    assert interrupted.returncode == Exit.INTERRUPTED, err
    assert "the same command goes on from there" in err
    assert "Traceback" not in err

    before = len(lines(tmp_path))
    killed = start(tmp_path, *command)
    until_finished(killed, tmp_path, before + 2)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    with (the_run(tmp_path) / "records.jsonl").open("a") as file:
        file.write('{"method":"sbs","prompt_id":"half a li')

    code, out, err = run(tmp_path, *command)
    assert code == Exit.DONE, err
    assert "dropping a last line that was cut short" in err
    assert set(Counter((r["method"], r["prompt_id"]) for r in lines(tmp_path)).values()) == {1}
    assert {record["start"] for record in lines(tmp_path)} == {0, 1, 2}
    assert the_run(tmp_path).name == the_run(whole[0]).name
    assert winners(tmp_path) == winners(whole[0])
    assert out.splitlines()[0] == whole[1].splitlines()[0]


@pytest.mark.slow
def test_a_finished_run_is_reported_again_without_doing_anything(
    whole: tuple[Path, str], server: str, tmp_path: Path
) -> None:
    shutil.copytree(the_run(whole[0]), tmp_path / the_run(whole[0]).name)
    before = (the_run(tmp_path) / "records.jsonl").read_bytes()
    code, out, err = run(tmp_path, *FOUR, "--server", server)
    assert code == Exit.DONE, err
    assert (the_run(tmp_path) / "records.jsonl").read_bytes() == before
    assert out.splitlines()[:-1] == whole[1].splitlines()[:-1]


@pytest.mark.slow
def test_a_server_that_stops_in_the_middle_ends_the_run_and_loses_nothing(
    whole: tuple[Path, str], server: str, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        doomed = stack.enter_context(local_server(["tags"]))
        process = start(tmp_path, *FOUR, "--server", doomed)
        until_finished(process, tmp_path, 1)
        stack.close()
    _, err = process.communicate(timeout=100)
    assert process.returncode == Exit.SERVER, err
    assert "verifier_server.py" in err
    assert f"of {ALL_CLIPS} clips are finished and kept in" in err
    kept = lines(tmp_path)
    assert 1 <= len(kept) < ALL_CLIPS
    for record in kept:
        assert (the_run(tmp_path) / record["audio"]).is_file()

    code, _, err = run(tmp_path, *FOUR, "--server", server)
    assert code == Exit.DONE, err
    assert lines(tmp_path)[: len(kept)] == kept
    assert len(lines(tmp_path)) == ALL_CLIPS
    assert winners(tmp_path) == winners(whole[0])


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
    by_prompt = {record["prompt_id"]: record for record in lines(tmp_path)}
    assert by_prompt["fine"]["status"] == "ok"
    assert by_prompt["odd"]["status"] == "failed"
    assert by_prompt["odd"]["verifier"] == "tags"
    with (the_run(tmp_path) / "summary.csv").open() as file:
        assert {row["prompts"] for row in csv.DictReader(file)} >= {"1"}

    code, _, err = run(tmp_path, *command)
    assert code == Exit.PROMPTS_FAILED, err
    assert Counter(r["prompt_id"] for r in lines(tmp_path)) == {"odd": 2, "fine": 1}


def test_without_network_or_weights_everything_missing_is_said_within_seconds(
    tmp_path: Path,
) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    begin = time.monotonic()
    done = subprocess.run(
        [
            *(sys.executable, "benchmark.py", "--output", str(tmp_path)),
            *("--method", "best_of_n", "--candidates", "16", "--verifier", "clap"),
            *("--server", "http://127.0.0.1:9"),
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert time.monotonic() - begin < 15
    assert done.returncode == Exit.MISSING
    for part in (
        *("6 thing(s) missing", "musicgen-small", "t5-base", "MusicCaps", "clap", "server"),
        "kld_pq",
    ):
        assert part in done.stderr


def test_help_is_there() -> None:
    done = subprocess.run(
        [sys.executable, "benchmark.py", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "--lookahead_k" in done.stdout
