"""A run that an earlier version began goes on in its folder: the committed runs, by the commands in
their manifests."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from src.data.prompts import Prompt, load_prompts
from src.experiments import benchmark, latency, pool_generation, sweep
from src.experiments.pool_scoring import list_scorers
from src.protocol import Checkpoint
from src.runs.build import Parts
from src.runs.records import CANDIDATES, MANIFEST, Run, read_manifest, records_digest, scores_key
from src.runs.settings import PROFILE_JUDGES, Settings, parse
from tests.generator.fake_judges import FakeJudge
from tests.generator.fake_search import FakeGenerator
from tests.generator.test_settings import SCRIPTS

RESULTS = Path(__file__).resolve().parents[2] / "results" / "builtin"
RUNS = sorted(path.parent for path in RESULTS.glob(f"*/{MANIFEST}"))
each_committed_run = pytest.mark.parametrize("committed", RUNS, ids=lambda run: run.name)


class Idle(FakeGenerator):
    """For what is finished already."""

    def begin(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("something is generated again")


@dataclass
class Again:
    """What a committed run's command opens, and what it then has left to do."""

    settings: Any
    prompts: list[Prompt]
    parts: Any
    script: str

    def open(self, output: Path) -> Run:
        settings = replace(self.settings, output=output)
        given: dict[str, Callable[[], Run]] = {
            "benchmark": lambda: benchmark.open_run(settings, self.prompts, self.parts),
            "latency": lambda: latency.open_run(settings, self.prompts, self.parts, (0, 0, 0)),
            "pool": lambda: pool_generation.open_pool(settings, self.prompts, self.parts.generator),
            "sweep": lambda: sweep.open_sweep(settings, self.prompts, self.parts),
        }
        return given[self.script]()

    def finish(self, run: Run) -> None:
        rest: dict[str, Callable[[], Any]] = {
            "benchmark": lambda: benchmark.search_methods(
                self.settings, self.prompts, run, self.parts
            ),
            "latency": lambda: latency.measure_all(
                self.settings, self.prompts, run, self.parts, lambda _: None
            ),
            "pool": lambda: pool_generation.generate(
                run, self.prompts, self.parts.generator, self.settings
            ),
            "sweep": lambda: sweep.search_cells(
                run, self.settings.cells()[0], self.prompts, self.parts, self.settings
            ),
        }
        rest[self.script]()


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


@pytest.fixture
def again(committed: Path, monkeypatch: pytest.MonkeyPatch) -> Again:
    manifest = read_manifest(committed)
    identity, settings = manifest["identity"], settings_of(manifest)
    machine = identity.get("machine", {})  # of latency runs: they go on where they were begun
    monkeypatch.setattr(latency, "machine", lambda: machine)
    here = {name: machine.get(name) for name in ("torch_threads", "gpus")}
    monkeypatch.setattr(latency, "torch_machine", lambda: here)
    prompts = load_prompts(str(settings.prompts), settings.selection(), settings.data_dir)
    return Again(settings, prompts, parts_of(identity, settings), identity["script"])


@each_committed_run
def test_the_same_command_has_the_same_identity_and_so_the_same_folder(
    committed: Path, again: Again, tmp_path: Path
) -> None:
    with again.open(tmp_path) as run:
        assert run.manifest["identity"] == read_manifest(committed)["identity"]
        assert run.folder.name == committed.name


@each_committed_run
def test_what_is_finished_is_found_and_not_done_again(
    committed: Path, again: Again, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(committed, tmp_path / committed.name))
    before = records_digest(copy)
    with again.open(tmp_path) as run:
        assert (run.folder, run.resumed) == (copy, True)
        again.finish(run)
    assert records_digest(copy) == before


def test_the_committed_pools_scores_still_stand(tmp_path: Path) -> None:
    (committed,) = (run for run in RUNS if run.name.startswith("pool"))
    settings: Any = settings_of(read_manifest(committed))
    with Run.reopen(Path(shutil.copytree(committed, tmp_path / "pool"))) as run:
        records = [r for r in run.records if r["kind"] != CANDIDATES["kind"]]
        weights = {r["measure"]: Checkpoint(**r["checkpoint"]) for r in records}
        judges = dict.fromkeys(settings.judges)
        verifiers = {name: weights[name] for name in weights if name not in judges}
        scorers = list_scorers(verifiers, judges, settings.prefix_seconds, "cpu")
        assert {scorer.name for scorer in scorers} == weights.keys()
        for record in records:
            (scorer,) = (s for s in scorers if s.name == record["measure"])
            latest = run.latest(scores_key(scorer.name), record["prompt_id"])
            assert scorer.lacks(latest) == (record["status"] == "failed")
