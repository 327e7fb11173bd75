"""The committed results: tables follow from the records beside them, figures show those records.

And a run that an earlier version began goes on in its folder, by the command in its manifest.
"""

import math
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from src.data.prompts import Selection, load_prompts
from src.experiments import benchmark, latency, scaling
from src.experiments.pool_generating import generate
from src.experiments.pool_outcome import Outcome
from src.experiments.pool_scoring import list_scorers
from src.protocol import Checkpoint
from src.reports import benchmark as benchmark_report
from src.reports import comparison, confirmation
from src.reports import latency as latency_report
from src.reports.benchmark_study import study_benchmark
from src.reports.figure import DIGEST_KEY, POOL_DIGEST_KEY
from src.reports.latency_study import study_latency
from src.reports.pool_study import study_pool
from src.reports.sweep_study import study_sweep
from src.reports.table import Row, write_tables
from src.runs.build import Parts
from src.runs.pool import Pool, load_pool
from src.runs.records import MANIFEST, read_manifest, read_records, records_digest, scores_key
from src.runs.run import Run
from src.runs.settings import Settings, parse
from tests.generator.fake_search import FakeGenerator, FakeJudge
from tests.generator.test_settings import SCRIPTS

RESULTS = Path(__file__).resolve().parents[2] / "results" / "builtin"
RUNS = sorted(path.parent for path in RESULTS.glob(f"*/{MANIFEST}"))
each_run = pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)


@cache
def kind_of(folder: Path) -> str:
    return str(read_manifest(folder)["identity"]["script"])


@cache
def read_pool(folder: Path) -> Pool:
    """A committed pool, with the sums that its tables have."""
    selectors = dict.fromkeys(columns(folder / "scaling.csv")["selector"])
    return load_pool(folder, [name for name in selectors if not name.isidentifier()])


def pool() -> Pool:
    """The pool that searches stand beside."""
    (folder,) = RESULTS.glob("pool-builtin-m32-*")
    return read_pool(folder)


def columns(path: Path) -> dict[str, list[str]]:
    """A table's values by column."""
    found = pd.read_csv(path, dtype=str, keep_default_na=False)
    return {name: list(found[name]) for name in found}


def budgets(path: Path) -> list[int]:
    """The N of a table; of a sweep's, those of the pool beside it."""
    table = columns(path)
    sources = table.get("source", ["pool"] * len(table["n"]))
    return sorted(
        {int(n) for n, source in zip(table["n"], sources, strict=True) if source == "pool"}
    )


TABLES: dict[str, Callable[[Path], Mapping[str, Sequence[Row]]]] = {
    "benchmark": lambda run: benchmark_report.tables(study_benchmark(run)),
    "latency": lambda run: latency_report.tables(study_latency(run)),
    "pool": lambda run: study_pool(read_pool(run), budgets(run / "scaling.csv")).tables,
    "sweep": lambda run: {"cost": study_sweep(run, pool(), budgets(run / "cost.csv")).rows},
}


def alike(a: str, b: str) -> bool:
    """The same text, or the same number: another processor may round its last digit otherwise."""
    try:
        return a == b or math.isclose(float(a), float(b), rel_tol=2e-4, abs_tol=1e-7)
    except ValueError:
        return False


def test_every_kind_of_run_is_there() -> None:
    assert Counter(map(kind_of, RUNS)) == {"benchmark": 1, "latency": 2, "pool": 7, "sweep": 2}


@each_run
def test_the_committed_tables_follow_from_the_committed_records(run: Path, tmp_path: Path) -> None:
    write_tables(tmp_path, TABLES[kind_of(run)](run))
    # Of several pools; and diversity.csv follows from embeddings, which are made again from tokens
    # and not committed.
    others = {
        "diversity.csv",
        "confirmation.csv",
        "confirmation-medoid.csv",
        "comparison.csv",
        "over_settings.csv",
    }
    committed = {path.name for path in run.glob("*.csv")} - others
    assert {path.name for path in tmp_path.glob("*.csv")} == committed
    assert committed
    for name in committed:
        found, expected = columns(tmp_path / name), columns(run / name)
        assert found.keys() == expected.keys(), name
        for column, values in expected.items():
            assert len(found[column]) == len(values) > 0, (name, column)
            wrong = [(a, b) for a, b in zip(found[column], values, strict=True) if not alike(a, b)]
            assert not wrong, (name, column)


def test_the_confirmation_is_that_of_its_protocol_which_is_older_than_its_pool(
    tmp_path: Path,
) -> None:
    (run,) = RESULTS.glob("pool-builtin-m16-*")
    copy = Path(shutil.copytree(run, tmp_path / run.name))
    (copy / "confirmation.csv").unlink()
    protocol = RESULTS / "confirmation.toml"
    confirmation.report(protocol, load_pool(copy))
    found, expected = columns(copy / "confirmation.csv"), columns(run / "confirmation.csv")
    for column, values in expected.items():
        assert all(map(alike, found[column], values)), column
    family = [row for row in found["verdict"] if row in ("better", "worse", "unclear")]
    assert len(family) == 3


def test_the_comparison_of_settings_follows_from_its_pools(tmp_path: Path) -> None:
    usual = Path(shutil.copytree(pool().folder, tmp_path / pool().folder.name))
    settings = [usual, *sorted(RESULTS.glob("pool-builtin-m4-*"))]
    comparison.main([*map(str, settings), "--selectors", "perplexity", "pmi", "tags", "tags+pmi"])
    for name in ("comparison.csv", "over_settings.csv"):
        found, expected = columns(usual / name), columns(pool().folder / name)
        assert len(found["measure"]) > 0
        for column, values in expected.items():
            assert all(map(alike, found[column], values)), (name, column)


@each_run
def test_the_committed_figures_were_drawn_from_the_committed_records(run: Path) -> None:
    figures = list(run.glob("*.png"))
    assert figures or run.name.startswith("pool-builtin-m4-")  # these stand in the m32's figure
    for path in figures:
        with Image.open(path) as image:
            marks = image.text  # type: ignore[attr-defined]
        assert marks[DIGEST_KEY] == records_digest(run), path.name
        if kind_of(run) == "sweep":
            assert marks[POOL_DIGEST_KEY] == records_digest(pool().folder)


@each_run
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
    for run in (run for run in RUNS if kind_of(run) == "sweep"):
        records = read_records(run)
        assert {record["status"] for record in records.values()} == {"ok"}
        cells = {str(record["cell"]) for record in records.values()}
        prompts = {record["prompt_id"] for record in records.values()}
        assert len(records) == len(cells) * len(prompts)
        searched.append((len(prompts), len(cells)))
    # three seeds of two searches; of five one by pmi and two by tags+pmi
    assert sorted(searched) == [(64, 3 * 2 + 5), (64, 3 * 2 + 2 * 5)]


class Idle(FakeGenerator):
    """For what is finished already."""

    def begin(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("something is generated again")


def settings_of(manifest: dict[str, Any]) -> Settings:
    """Of the command that began a run, with the judges that the preflight adds."""
    script, *args = manifest["starts"][0]["command"]
    settings = parse(SCRIPTS[script], args, prog=script)
    identity = manifest["identity"]
    judges = identity.get("judges") or identity.get("settings", {}).get("judges") or ()
    if getattr(settings, "judges", ()) is None:
        settings = replace(settings, judges=tuple(judges))  # type: ignore[call-arg]
    return settings


def parts_of(identity: dict[str, Any], settings: Any) -> Parts:
    """Nothing that runs, with the weights that the run had."""
    found = {name: Checkpoint(**one) for name, one in identity["checkpoints"].items()}
    generator = Idle()
    generator.checkpoint = found.pop("generator")
    judges = []
    for name in getattr(settings, "judges", ()):
        if name in found:
            judge = FakeJudge(name)
            judge.checkpoint = found.pop(name)  # type: ignore[misc]
            judge.unread = lambda prompt: 0  # type: ignore[method-assign]
            judges.append(judge)
    verifier = SimpleNamespace(
        name=identity.get("verifier") or getattr(settings, "verifier", ""), checkpoints=found
    )
    return Parts(generator, verifier, judges)  # type: ignore[arg-type]


# How a run of each script is opened and finished, from its settings, prompts and parts.
OPEN: dict[str, Callable[..., Run]] = {
    "benchmark": benchmark.open_run,
    "latency": lambda s, prompts, parts: latency.open_run(s, prompts, parts, (0, 0, 0)),
    "pool": lambda s, prompts, parts: scaling.open_pool(s, prompts, parts.generator),
    "sweep": scaling.open_sweep,
}
FINISH: dict[str, Callable[..., Any]] = {
    "benchmark": lambda run, s, prompts, parts: benchmark.search_methods(s, prompts, run, parts),
    "latency": lambda run, s, prompts, parts: latency.measure_all(
        s, prompts, run, parts, lambda _: None
    ),
    "pool": lambda run, s, prompts, parts: generate(run, prompts, parts.generator, s),
    "sweep": lambda run, s, prompts, parts: scaling.search_cells(
        run, s.cells()[0], prompts, parts, s
    ),
}


@each_run
def test_the_same_command_finds_its_folder_and_does_nothing_again(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / run.name))
    before, manifest = records_digest(copy), read_manifest(run)
    identity, settings = manifest["identity"], settings_of(manifest)
    machine = identity.get("machine", {})  # of latency runs: they go on where they were begun
    monkeypatch.setattr(latency, "machine", lambda: machine)
    prompts = load_prompts(str(settings.prompts), settings.selection(), settings.data_dir)
    asked = (replace(settings, output=tmp_path), prompts, parts_of(identity, settings))
    with OPEN[identity["script"]](*asked) as again:
        assert (again.folder, again.resumed) == (copy, True)
        FINISH[identity["script"]](again, *asked)
    assert records_digest(copy) == before


def test_the_committed_pools_scores_still_stand(tmp_path: Path) -> None:
    committed = pool().folder
    settings: Any = settings_of(read_manifest(committed))
    with Run.reopen(Path(shutil.copytree(committed, tmp_path / "pool"))) as run:
        records = [r for r in run.records.values() if r["kind"] == "scores"]
        weights = {r["measure"]: Checkpoint(**r["checkpoint"]) for r in records}
        judges = list(dict.fromkeys(r["measure"] for r in records if r["role"] == "judge"))
        verifiers = [name for name in weights if name not in judges]
        codec: Any = SimpleNamespace(device="cpu")
        scorers = list_scorers(verifiers, judges, weights, settings.prefix_seconds, codec)
        assert {scorer.name for scorer in scorers} == weights.keys()
        prompts = {p.id: p for p in load_prompts("builtin", Selection(limit=None), Path())}
        for record in records:
            (scorer,) = (s for s in scorers if s.name == record["measure"])
            latest = run.latest(scores_key(scorer.name), record["prompt_id"])
            outcome = Outcome(scorer, prompts[record["prompt_id"]], latest)
            changed = record["definition"] != scorer.measure.definition
            assert outcome.is_lacking == (record["status"] == "failed" or changed)
