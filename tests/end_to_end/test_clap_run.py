"""benchmark.py with the verifier `clap`: the real library over HTTP, its weights random.

The built-in generator makes the clips. The weights are made in the verifier environment, and reach
the server that the run starts through CURATOR_WEIGHTS.
"""

import hashlib
import math
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.client.local_server import PYTHON
from src.runs.ending import Exit
from src.runs.records import read_manifest
from tests.end_to_end import scripts
from tests.end_to_end.scripts import ROOT, folder_of, lines

CHECKPOINT = "music_audioset_epoch_15_esc_90.14.pt"
COMMAND = (
    *("--profile", "builtin", "--verifier", "clap", "--server", "auto"),
    *("--method", "best_of_n", "--candidates", "2", "--beam_width", "1"),
    *("--num_samples", "2", "--duration", "2"),
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("clap")
    made = subprocess.run(
        [str(PYTHON), "-m", "tests.verifier.clap_weights", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert made.returncode == 0, made.stderr
    yield folder / "weights"
    for checkpoint in folder.rglob(CHECKPOINT):  # 320 MB each
        checkpoint.unlink()


def run(output: Path, weights: Path | None) -> tuple[int, str]:
    """Exit code and stderr, on a machine whose hub cache is empty."""
    environment = os.environ | {
        "HF_HOME": str(output / "empty hub"),
        "HF_HUB_OFFLINE": "1",
        "XDG_CACHE_HOME": str(output / "cache"),
        "CURATOR_WEIGHTS": str(weights or ""),
    }
    environment.pop("HF_HUB_CACHE", None)
    code, _, err = scripts.run("benchmark.py", output, *COMMAND, environment=environment)
    return code, err


@pytest.mark.slow
def test_a_run_with_clap_is_whole_and_a_second_start_does_nothing_twice(
    weights: Path, tmp_path: Path
) -> None:
    code, err = run(tmp_path, weights)
    assert code == Exit.DONE, err
    folder = folder_of(tmp_path)
    records = lines(folder)
    assert len(records) == 2
    loaded = hashlib.sha256((weights / CHECKPOINT).read_bytes()).hexdigest()
    for record in records:
        scores = [node["score"]["value"] for node in record["tree"]]
        assert len(scores) == 2
        assert all(math.isfinite(value) and -1 <= value <= 1 for value in scores)
        assert len(set(scores)) == 2
        assert record["winner"]["score"]["value"] == max(scores)
        assert record["ledger"]["clips"] == 2
        assert (folder / record["audio"]).is_file()
    checkpoint = read_manifest(folder)["identity"]["checkpoints"]["clap"]
    assert checkpoint == {"name": CHECKPOINT, "sha256": loaded}

    code, err = run(tmp_path, weights)
    assert code == Exit.DONE, err
    assert lines(folder) == records
    assert len(read_manifest(folder)["starts"]) == 2


def test_without_weights_the_run_says_so_before_it_starts_anything(tmp_path: Path) -> None:
    code, err = run(tmp_path, None)
    assert code == Exit.MISSING
    for part in (CHECKPOINT, "vocab.json", "--fetch clap"):
        assert part in err
    assert not list(tmp_path.glob("benchmark-*"))
