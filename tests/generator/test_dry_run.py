"""What a run will cost is known before it is begun, by each script, with the built-in model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import benchmark
import latency_experiment
import verifier_experiment
from src.experiments import calibration
from src.experiments.settings import BenchmarkSettings
from src.experiments.trial import SOURCE
from src.methods import METHODS
from src.runs.ending import Exit
from src.runs.records import read_records
from src.runs.settings import parse
from tests.generator.test_estimate import plan_of, row

TINY = (
    *("--profile", "builtin", "--num_samples", "3", "--duration", "1", "--step_size", "0.4"),
    *("--log_level", "warning"),
)
SEARCHES = (
    *("--method", *METHODS, "--candidates", "4", "--beam_width", "2", "--max_rows", "8"),
    *("--judges", "none"),
)


def test_a_dry_run_of_a_benchmark_is_exact_before_it_is_begun_and_after_a_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = (*TINY, *SEARCHES, "--output", str(tmp_path / "runs"))
    assert benchmark.main([*ask, "--dry_run"]) == Exit.DONE
    text = capsys.readouterr().out
    assert not (tmp_path / "runs").exists()
    assert f"Rates: {SOURCE}." in text
    assert "not begun" in text
    for method in METHODS:
        cost = plan_of(method).expected()
        assert row(text, method)[:3] == ["3", str(3 * cost.frames), str(3 * cost.clips)]

    assert benchmark.main(ask) == Exit.DONE
    (folder,) = (tmp_path / "runs").iterdir()
    capsys.readouterr()
    before = sorted(path.stat().st_mtime_ns for path in folder.rglob("*"))
    assert benchmark.main([*ask, "--dry_run"]) == Exit.DONE
    text = capsys.readouterr().out
    assert f"{folder}: 12 finished, not counted" in text.replace("\n    ", " ")
    assert row(text, "in all")[:3] == ["0", "0", "0"]

    more = (*ask, "--num_samples", "4", "--dry_run")
    assert benchmark.main(more) == Exit.DONE
    text = capsys.readouterr().out
    assert f"Rates: {folder.name} of " in text
    assert row(text, "in all")[0] == "16"
    assert sorted(path.stat().st_mtime_ns for path in folder.rglob("*")) == before

    ledgers = [record["ledger"] for record in read_records(folder).values()]
    seconds = sum(sum(ledger["seconds"].values()) for ledger in ledgers)
    saved = sum(path.stat().st_size for path in folder.rglob("*.wav"))
    number, unit = row(text, "in all")[3:5]
    told = float(number) * {"s": 1, "min": 60}[unit]
    assert told == pytest.approx(seconds * 4 / 3, rel=0.05)
    disk = float(row(text, "in all")[7]) * 1e6
    assert saved * 4 / 3 < disk < saved * 4 / 3 + 2e5


@pytest.mark.parametrize(
    ("main", "args", "rows"),
    [
        (
            verifier_experiment.main,
            (
                *("--verifiers", "perplexity", "--judges", "msd_kld", "--budgets", "1", "4"),
                *("--method", "sbs", "--beam_widths", "2", "--seeds", "1", "2"),
            ),
            {
                "pool of 8": ["3", str(3 * 8 * 50), "0"],
                "scores by msd_kld": ["3", "0", "24"],
                "sbs N=4 M=2": ["6", str(6 * 4 * 50), str(6 * 12)],
            },
        ),
        (
            latency_experiment.main,
            ("--budgets", "4", "--repetitions", "2", "--method", "best_of_n", "sbs"),
            {
                # untimed: a search of the cell at first, later one of a step
                "best_of_n N=4": ["6", str(4 * (6 * 50 + 50 + 20)), str(4 * 8)],
                "sbs N=4 M=4": ["6", str(4 * (6 * 50 + 50 + 20)), str(4 * (6 * 3 + 3 + 1))],
            },
        ),
        (
            calibration.main,
            ("--verifiers", "perplexity", "pmi", "--candidates", "4"),
            {"pools": ["3", str(3 * 4 * 50), "12"]},
        ),
    ],
)
def test_dry_runs_of_the_other_scripts_write_nothing(
    main: Any,
    args: Sequence[str],
    rows: dict[str, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*TINY, *args, "--output", str(tmp_path / "runs"), "--dry_run"]) == Exit.DONE
    text = capsys.readouterr().out
    for name, cells in rows.items():
        assert row(text, name)[:3] == cells
    assert not (tmp_path / "runs").exists()


def test_what_is_missing_is_listed_for_a_dry_run_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ("--profile", "builtin", "--model", str(tmp_path), "--server", "http://127.0.0.1:9")
    assert benchmark.main([*ask, "--verifier", "tags", "--dry_run"]) == Exit.MISSING
    assert "Nothing was started" in capsys.readouterr().err


def test_a_dry_run_is_no_part_of_a_runs_identity() -> None:
    ask = ("--profile", "builtin")
    plain, dry = (parse(BenchmarkSettings, [*ask, *more]) for more in ((), ("--dry_run",)))
    assert dry.dry_run
    assert plain.decisive() == dry.decisive()
