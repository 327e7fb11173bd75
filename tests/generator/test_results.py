"""The committed results: tables follow from the records beside them, figures show those records."""

import csv
import math
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from src.reports import benchmark, latency, sweep
from src.reports import pool as pool_report
from src.reports.benchmark_study import study_benchmark
from src.reports.figure import DIGEST_KEY
from src.reports.latency_study import study_latency
from src.reports.pool_study import study_pool
from src.reports.sweep import POOL_DIGEST_KEY
from src.reports.sweep_study import study_sweep
from src.runs.pool import Pool, load_pool
from src.runs.records import MANIFEST, read_manifest, read_records, records_digest

RESULTS = Path(__file__).resolve().parents[2] / "results" / "builtin"
RUNS = sorted(path.parent for path in RESULTS.glob(f"*/{MANIFEST}"))


@cache
def kind_of(folder: Path) -> str:
    return str(read_manifest(folder)["identity"]["script"])


@cache
def pool() -> Pool:
    """The committed pool, with the sums that its tables have."""
    (folder,) = (run for run in RUNS if kind_of(run) == "pool")
    selectors = dict.fromkeys(row["selector"] for row in rows(folder / "scaling.csv"))
    return load_pool(folder, [name for name in selectors if "+" in name])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def budgets(path: Path, source: str | None = None) -> list[int]:
    """The N of a table."""
    return sorted({int(r["n"]) for r in rows(path) if source in (None, r.get("source"))})


def rewrite_benchmark(folder: Path, output: Path) -> None:
    benchmark.write_tables(study_benchmark(folder), output)


def rewrite_pool(folder: Path, output: Path) -> None:
    pool_report.write_tables(study_pool(pool(), budgets(folder / "scaling.csv")), output)


def rewrite_sweep(folder: Path, output: Path) -> None:
    study = study_sweep(folder, pool(), budgets(folder / "cost.csv", "pool"))
    sweep.write_table(study, output)


def rewrite_latency(folder: Path, output: Path) -> None:
    latency.write_tables(study_latency(folder), output)


REWRITE: dict[str, Callable[[Path, Path], None]] = {
    "benchmark": rewrite_benchmark,
    "pool": rewrite_pool,
    "sweep": rewrite_sweep,
    "latency": rewrite_latency,
}


def alike(a: str, b: str) -> bool:
    """The same text, or the same number: another processor may round its last digit otherwise."""
    try:
        return a == b or math.isclose(float(a), float(b), rel_tol=2e-4, abs_tol=1e-7)
    except ValueError:
        return False


def test_every_kind_of_run_is_there() -> None:
    assert Counter(map(kind_of, RUNS)) == {"benchmark": 1, "latency": 1, "pool": 1, "sweep": 4}


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_the_committed_tables_follow_from_the_committed_records(run: Path, tmp_path: Path) -> None:
    REWRITE[kind_of(run)](run, tmp_path)
    committed = {path.name for path in run.glob("*.csv")}
    assert {path.name for path in tmp_path.glob("*.csv")} == committed
    assert committed
    for name in committed:
        found, expected = rows(tmp_path / name), rows(run / name)
        assert len(found) == len(expected) > 0, name
        for one, other in zip(found, expected, strict=True):
            assert one.keys() == other.keys()
            wrong = {key: (one[key], other[key]) for key in one if not alike(one[key], other[key])}
            assert not wrong, (name, other)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_the_committed_figures_were_drawn_from_the_committed_records(run: Path) -> None:
    figures = list(run.glob("*.png"))
    assert figures
    for path in figures:
        with Image.open(path) as image:
            marks = image.text  # type: ignore[attr-defined]
        assert marks[DIGEST_KEY] == records_digest(run), path.name
        if kind_of(run) == "sweep":
            assert marks[POOL_DIGEST_KEY] == records_digest(pool().folder)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_a_committed_run_says_by_which_command_and_commit_it_was_made(run: Path) -> None:
    for start in read_manifest(run)["starts"]:
        assert start["command"][0] in {
            *("benchmark.py", "verifier_experiment.py", "latency_experiment.py")
        }
        assert len(start["commit"]) == 40
        assert start["dirty"] is False
        assert not [part for part in start["command"] if Path(part).is_absolute()]


def test_the_committed_pool_has_all_candidates_and_the_searches_all_cells() -> None:
    found = pool()
    assert (len(found.prompts), found.size) == (64, 32)
    for prompt in found.prompts:
        assert found.tokens(prompt).shape == (32, 4, found.frames)
    searched = []
    for run in RUNS:
        if kind_of(run) == "sweep":
            records = read_records(run)
            assert {record["status"] for record in records.values()} == {"ok"}
            methods, prompts = {method for method, _ in records}, {prompt for _, prompt in records}
            assert len(records) == len(methods) * len(prompts)
            searched.append((len(prompts), len(methods)))
    assert sorted(searched) == [(16, 3 * 18), (64, 2), (64, 2), (64, 2)]
