"""latency_experiment.py for real: its own process, the built-in model, a verifier server. No number
that it measures here is held against anything: other things run on the machine."""

import csv
from collections import defaultdict
from itertools import product
from pathlib import Path

import pytest
from PIL import Image

from src.budget import Cost
from src.cells import SearchCell
from src.reports.figure import DIGEST_KEY
from src.runs.ending import Exit
from src.runs.records import read_manifest, records_digest
from tests.end_to_end import scripts
from tests.end_to_end.scripts import folder_of, lines

TINY = (
    *("--profile", "builtin", "--num_samples", "1", "--duration", "1", "--step_size", "0.5"),
    *("--beam_width", "2", "--repetitions", "2"),
)
WRITTEN = {
    *("manifest.json", "records.jsonl", "summary.csv", "costs.csv", "lines.csv"),
    *("latency.png", "cost.png"),
}


def run(output: Path, *args: str) -> tuple[int, str, str]:
    return scripts.run("latency_experiment.py", output, *TINY, *args)


@pytest.mark.slow
def test_every_cell_is_measured_with_its_stages_bytes_and_memory(tmp_path: Path) -> None:
    code, out, err = run(
        tmp_path, *("--budgets", "2", "3"), *("--verifier", "tags", "--server", "auto")
    )
    assert code == Exit.DONE, err
    folder = folder_of(tmp_path, "latency")
    records = lines(folder)
    measured = {(SearchCell.from_record(r["cell"]).name, r["repetition"]) for r in records}
    names = ("baseline", "best_of_n N=2", "best_of_n N=3", "sbs N=2 M=2", "lookahead N=2 M=2 k=1")
    assert measured == set(product(names, (1, 2)))
    assert len(records) == 10
    found: dict[SearchCell, set[str]] = defaultdict(set)
    for record in records:
        cell, ledger = SearchCell.from_record(record["cell"]), record["ledger"]
        found[cell].add(record["winner"]["tokens_sha256"])
        assert Cost(ledger["frames"], ledger["clips"]) == cell.plan(1.0, 0.5, 50).expected()
        stages = ledger["seconds"]
        assert stages["conditions"] > 0.001  # the text was encoded, not remembered
        assert all(stages[stage] > 0 for stage in ("render", "wav", "http", "compute"))
        assert 0.7 * record["wall_seconds"] < sum(stages.values()) <= record["wall_seconds"] + 0.01
        assert ledger["uploaded_bytes"] > 30_000 * ledger["clips"]
        assert record["memory"]["resident"] > 100e6
        assert record["memory"]["server"] > 100e6
    # Each repetition is of audio that the server has not heard before.
    assert {len(hashes) for hashes in found.values()} == {2}

    assert "M does not divide N: sbs N=3 M=2, lookahead N=3 M=2 k=1" in out
    assert "compute" in out.split("seconds by stage")[1].splitlines()[0]
    assert {path.name for path in folder.iterdir() if path.name[0] != "."} == WRITTEN
    with (folder / "costs.csv").open() as file:
        frames = {row["method"]: row["frames"] for row in csv.DictReader(file)}
    assert (frames["sbs"], frames["lookahead"]) == ("1", "1.5")
    for name in ("latency.png", "cost.png"):
        with Image.open(folder / name) as image:
            assert image.text[DIGEST_KEY] == records_digest(folder)  # type: ignore[attr-defined]
    manifest = read_manifest(folder)
    (start,) = manifest["starts"]
    assert len(start["load_average"]) == 3
    assert manifest["identity"]["settings"]["server"] == "auto"


def test_what_is_missing_is_said_and_nothing_is_started(tmp_path: Path) -> None:
    asked = ("--prompts", str(tmp_path / "no.csv"), "--server", "auto", "--verifier", "clap")
    code, _, err = run(tmp_path, *asked)
    assert code == Exit.MISSING
    assert "no.csv" in err
    assert "python latency_experiment.py --profile builtin" in err
    assert list(tmp_path.iterdir()) == []
