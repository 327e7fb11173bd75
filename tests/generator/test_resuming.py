"""A run that an earlier version began goes on in its folder: the committed runs, by the commands in
their manifests."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from src.data.prompts import Selection, load_prompts
from src.experiments import benchmark, latency, scaling
from src.experiments.pool_scoring import Outcome, list_scorers
from src.protocol import Checkpoint
from src.runs.build import Parts
from src.runs.records import CANDIDATES, MANIFEST, Run, read_manifest, records_digest, scores_key
from src.runs.settings import PROFILE_JUDGES, Settings, parse
from tests.generator.fake_judges import FakeJudge
from tests.generator.fake_search import FakeGenerator
from tests.generator.test_settings import SCRIPTS

RESULTS = Path(__file__).resolve().parents[2] / "results" / "builtin"
RUNS = sorted(path.parent for path in RESULTS.glob(f"*/{MANIFEST}"))


class Idle(FakeGenerator):
    """For what is finished already."""

    def begin(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("something is generated again")


def settings_of(manifest: dict[str, Any]) -> Settings:
    """Of the command that began a run, with the judges that the preflight adds."""
    script, *args = manifest["starts"][0]["command"]
    settings = parse(SCRIPTS[script], args, prog=script)
    if getattr(settings, "judges", ()) is None:
        settings = replace(settings, judges=PROFILE_JUDGES[settings.profile])  # type: ignore[call-arg]
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


@pytest.fixture(params=RUNS, ids=lambda run: run.name)
def committed(request: pytest.FixtureRequest) -> Path:
    return request.param


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
    "pool": lambda run, s, prompts, parts: scaling.generate(run, prompts, parts.generator, s),
    "sweep": lambda run, s, prompts, parts: scaling.search_cells(
        run, s.cells()[0], prompts, parts, s
    ),
}


def test_the_same_command_finds_its_folder_and_does_nothing_again(
    committed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(committed, tmp_path / committed.name))
    before, manifest = records_digest(copy), read_manifest(committed)
    identity, settings = manifest["identity"], settings_of(manifest)
    machine = identity.get("machine", {})  # of latency runs: they go on where they were begun
    monkeypatch.setattr(latency, "machine", lambda: machine)
    prompts = load_prompts(str(settings.prompts), settings.selection(), settings.data_dir)
    asked = (replace(settings, output=tmp_path), prompts, parts_of(identity, settings))
    with OPEN[identity["script"]](*asked) as run:
        assert (run.folder, run.resumed) == (copy, True)
        FINISH[identity["script"]](run, *asked)
    assert records_digest(copy) == before


def test_the_committed_pools_scores_still_stand(tmp_path: Path) -> None:
    (committed,) = (run for run in RUNS if run.name.startswith("pool"))
    settings: Any = settings_of(read_manifest(committed))
    with Run.reopen(Path(shutil.copytree(committed, tmp_path / "pool"))) as run:
        records = [r for r in run.records if r["kind"] != CANDIDATES["kind"]]
        weights = {r["measure"]: Checkpoint(**r["checkpoint"]) for r in records}
        verifiers = [name for name in weights if name not in settings.judges]
        ask = (verifiers, settings.judges, weights, settings.prefix_seconds)
        scorers = list_scorers(*ask, "cpu")
        assert {scorer.name for scorer in scorers} == weights.keys()
        prompts = {p.id: p for p in load_prompts("builtin", Selection(limit=None), Path())}
        for record in records:
            (scorer,) = (s for s in scorers if s.name == record["measure"])
            latest = run.latest(scores_key(scorer.name), record["prompt_id"])
            outcome = Outcome(scorer, prompts[record["prompt_id"]], latest)
            assert outcome.is_lacking == (record["status"] == "failed")
