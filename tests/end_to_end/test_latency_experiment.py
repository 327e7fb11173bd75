"""latency_experiment.py for real: its own process, the built-in model, a verifier server. No number
that it measures here is held against anything: other things run on the machine."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from src.budget import Cost
from src.experiments.latency_settings import Cell
from src.reports.benchmark_figure import DIGEST_KEY
from src.runs.ending import Exit
from src.runs.records import read_manifest, records_digest

ROOT = Path(__file__).parents[2]
TINY = (
    *("--profile", "builtin", "--num_samples", "1", "--duration", "1", "--step_size", "0.5"),
    *("--beam_width", "2", "--repetitions", "2"),
)
WRITTEN = {
    *("manifest.json", "records.jsonl", "summary.csv", "costs.csv", "lines.csv"),
    *("latency.png", "cost.png"),
}


def run(*args: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "latency_experiment.py", *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=150,
    )
    return done.returncode, done.stdout, done.stderr


def results(output: Path) -> tuple[Path, list[dict[str, Any]]]:
    (folder,) = output.glob("latency-*")
    return folder, [json.loads(line) for line in (folder / "records.jsonl").open()]


def check_costs_and_clocks(folder: Path, records: list[dict[str, Any]]) -> None:
    for record in records:
        spent = Cost(record["ledger"]["frames"], record["ledger"]["clips"])
        assert spent == Cell(**record["cell"]).plan(1.0, 0.5, 50).expected()
        stages = record["ledger"]["seconds"]
        assert stages["conditions"] > 0.001  # the text was encoded, not remembered
        assert 0.7 * record["wall_seconds"] < sum(stages.values()) <= record["wall_seconds"] + 0.01
        assert record["memory"]["resident"] > 100e6
    winners = {(r["cell"]["method"], r["cell"]["candidates"]): set() for r in records}
    for r in records:
        winners[r["cell"]["method"], r["cell"]["candidates"]].add(r["winner"]["tokens_sha256"])
    assert {len(hashes) for hashes in winners.values()} == {1}
    assert {path.name for path in folder.iterdir() if path.name[0] != "."} == WRITTEN
    for name in ("latency.png", "cost.png"):
        with Image.open(folder / name) as image:
            assert image.text[DIGEST_KEY] == records_digest(folder)  # type: ignore[attr-defined]
    (start,) = read_manifest(folder)["starts"]
    assert len(start["load_average"]) == len(start["load_average_at_end"]) == 3


@pytest.mark.slow
def test_perplexity_is_measured_in_every_cell_and_repetition(tmp_path: Path) -> None:
    code, out, err = run(*TINY, "--budgets", "2", "3", "--output", str(tmp_path))
    assert code == Exit.DONE, err
    folder, records = results(tmp_path)
    names = {"baseline", "best_of_n n=2", "best_of_n n=3", "sbs n=2 m=2", "lookahead n=2 m=2 k=1"}
    assert {r["method"] for r in records} == {f"{n} rep={i}" for n in names for i in (1, 2)}
    assert len(records) == 10
    check_costs_and_clocks(folder, records)
    assert all(r["ledger"]["uploaded_bytes"] == 0 for r in records)
    assert "a defect" not in out
    assert "M does not divide N: sbs n=3 m=2, lookahead n=3 m=2 k=1" in out
    with (folder / "costs.csv").open() as file:
        frames = {row["method"]: row["frames"] for row in csv.DictReader(file)}
    assert (frames["sbs"], frames["lookahead"]) == ("1", "1.5")


@pytest.mark.slow
def test_a_server_of_its_own_adds_its_stages_bytes_and_memory(tmp_path: Path) -> None:
    code, out, err = run(
        *(*TINY, "--verifier", "tags", "--server", "auto", "--method", "best_of_n", "sbs"),
        *("--budgets", "2", "--output", str(tmp_path)),
    )
    assert code == Exit.DONE, err
    folder, records = results(tmp_path)
    assert len(records) == 4
    check_costs_and_clocks(folder, records)
    for record in records:
        stages = record["ledger"]["seconds"]
        assert all(stages[stage] > 0 for stage in ("render", "wav", "http", "compute"))
        assert record["ledger"]["uploaded_bytes"] > 30_000 * record["ledger"]["clips"]
        assert record["memory"]["server"] > 100e6
    assert "compute" in out.split("seconds by stage")[1].splitlines()[0]
    assert read_manifest(folder)["identity"]["settings"]["server"] == "auto"


def test_what_is_missing_is_said_and_nothing_is_started(tmp_path: Path) -> None:
    code, _, err = run(*TINY, "--prompts", str(tmp_path / "no.csv"), "--output", str(tmp_path))
    assert code == Exit.MISSING
    assert "no.csv" in err
    assert "python latency_experiment.py --profile builtin" in err
    assert list(tmp_path.iterdir()) == []


def test_help_teaches() -> None:
    code, out, _ = run("--help")
    assert code == Exit.DONE
    for words in ("Examples:", "--budgets", "--repetitions", "--batch", "Exit codes"):
        assert words in out
