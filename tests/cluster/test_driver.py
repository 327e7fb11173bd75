"""A run whose generators and verifiers are actors has the results of one process, whatever dies.

One set of actors, of two generators and two verifiers, serves all runs but those whose driver is
ended; `main` does everything else as it does for a user.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

import benchmark
import verifier_experiment
from src.cluster import verifiers as verifiers_module
from src.cluster.driver import ClusterModels, open_models
from src.connection import Refused
from src.data.files import ROOT
from src.experiments import benchmark as benchmark_module
from src.experiments import scaling, searching
from src.experiments.searching import Searching
from src.experiments.settings import BenchmarkSettings
from src.runs import preflight
from src.runs.ending import Exit
from src.runs.local_server import local_server
from src.runs.merge import differing, results_of
from src.runs.records import key_of
from src.runs.settings import parse
from tests.cluster.conftest import NODE

pytestmark = pytest.mark.slow

TINY = "--profile builtin --duration 0.4 --step_size 0.2 --num_samples 4 --max_rows 8 --device cpu"
SEARCH = f"{TINY} --candidates 4 --beam_width 2 --verifier tags+pmi --judges msd_kld kad_msd"
ALL = f"{SEARCH} --method baseline best_of_n sbs waves halving"
TWO = f"{SEARCH} --method best_of_n sbs"
POOL = (
    f"{TINY} --budgets 1 2 --verifiers perplexity pmi tags medoid(tags)"
    " --judges msd_kld spread_msd --method sbs --sweep_verifiers tags --beam_widths 2"
)
RAY = "--server auto --cpus_per_verifier 1 --cpus_per_generator"
OF_GENERATOR = 3  # of a node's four cores: no node has both
KEPT = ("tokens", "audio", "embeddings")

Results = tuple[Mapping[Any, Any], Mapping[str, bytes]]
Main = Callable[[list[str]], int]


def lines(output: Path) -> list[dict[str, Any]]:
    """All that has been recorded, in every folder; a line that is being written is left out."""
    found = [path.read_text() for path in sorted(output.glob("*/records.jsonl"))]
    return [json.loads(line) for text in found for line in text.split("\n")[:-1]]


def results(output: Path) -> Results:
    """Records by key, none of them there twice, and the bytes of what belongs to them."""
    records = lines(output)
    by_key = {key_of(record): results_of(record) for record in records}
    assert len(by_key) == len(records)
    files: dict[str, bytes] = {}
    for folder in output.iterdir():
        every = [path for name in KEPT for path in folder.glob(f"{name}/**/*") if path.is_file()]
        files |= {path.relative_to(folder).as_posix(): path.read_bytes() for path in every}
    return by_key, files


def assert_same(found: Results, wanted: Results) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert list(differing(one, other)) == []


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Results]:
    """What one process without Ray makes of the commands."""
    made: dict[str, Results] = {}
    with local_server(["tags"]) as url:
        for main, command in ((benchmark.main, ALL), (verifier_experiment.main, POOL)):
            output = tmp_path_factory.mktemp("alone")
            assert main([*command.split(), "--server", url, "--output", str(output)]) == Exit.DONE
            made[command] = results(output)
    records, files = made[ALL]
    left_out = "baseline", "waves", "halving"
    made[TWO] = (
        {key: record for key, record in records.items() if record["method"] not in left_out},
        {p: content for p, content in files.items() if not {*left_out} & {*Path(p).parts}},
    )
    return made


@dataclass
class Actors:
    models: ClusterModels
    verifiers: list[Any]


@pytest.fixture(scope="module")
def actors(cluster: Cluster) -> Iterator[Actors]:
    asked = f"{ALL} {RAY} {OF_GENERATOR} --generator_actors 2 --verifier_actors 2"
    asked += f" --ray {cluster.address}"
    settings = parse(BenchmarkSettings, asked.split())
    prompts = preflight.look(settings, (settings.verifier,), settings.judges).prompts
    handles: list[Any] = []

    def noted(*args: Any, **named: Any) -> list[Any]:
        handles.extend(start(*args, **named))
        return handles

    start = verifiers_module.start_verifiers
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr(verifiers_module, "start_verifiers", noted)
        models = open_models(settings, ["tags"], [prompt.text for prompt in prompts], stack)
        assert isinstance(models, ClusterModels)
        yield Actors(models, handles)


@pytest.fixture
def spread(actors: Actors, monkeypatch: pytest.MonkeyPatch) -> Actors:
    """Have this process's runs done by the actors."""
    for module in (benchmark_module, scaling):
        monkeypatch.setattr(module, "open_models", lambda *_, **__: actors.models)
    return actors


def trouble(
    patch: pytest.MonkeyPatch, actors: Actors, act: Callable[[], object], after: int = 2
) -> None:
    """Have something happen once so many prompts are finished and others are being done."""
    crew = actors.models.crew
    workers = crew.workers

    def troubled(make: Any) -> Any:
        work = workers(make)

        def done(pieces: Any) -> Iterator[Any]:
            for number, finished in enumerate(work(pieces), start=1):
                yield finished
                if number == after:
                    assert crew.tasks
                    act()

        return done

    patch.setattr(crew, "workers", troubled)


def answers(actor: Any) -> bool:
    try:
        ray.get(actor.__ray_ready__.remote(), timeout=60)
    except ray.exceptions.RayError:
        return False
    return True


def run(main: Main, command: str, output: Path) -> int:
    return main([*command.split(), "--server", "auto", "--output", str(output)])


@pytest.mark.parametrize(
    ("main", "command"),
    [(benchmark.main, ALL), (verifier_experiment.main, POOL)],
    ids=["benchmark", "pool and sweep"],
)
def test_results_are_those_of_one_process(
    alone: dict[str, Results], spread: Actors, main: Main, command: str, tmp_path: Path
) -> None:
    assert run(main, command, tmp_path) == Exit.DONE
    assert_same(results(tmp_path), alone[command])
    for manifest in tmp_path.glob("*/manifest.json"):
        start = json.loads(manifest.read_text())["starts"][-1]
        assert len(start["generators"]) == len(start["verifiers"]) == 2


def test_a_run_goes_on_when_a_node_is_gone(
    alone: dict[str, Results],
    spread: Actors,
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    before = list(spread.models.crew.seats)
    (node,) = cluster.worker_nodes
    trouble(monkeypatch, spread, lambda: cluster.remove_node(node, allow_graceful=False))
    try:
        assert run(benchmark.main, TWO, tmp_path) == Exit.DONE
    finally:
        cluster.add_node(**NODE)
    assert_same(results(tmp_path), alone[TWO])
    # The crew may not have missed it: the generator there may have done its part.
    assert [answers(seat.actor) for seat in before].count(False) == 1


def test_a_run_goes_on_when_a_generator_and_all_verifiers_are_killed(
    alone: dict[str, Results], spread: Actors, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    crew = spread.models.crew
    lost = []

    def kill() -> None:
        lost.append(next(seat for _, seat in crew.tasks.values()))
        ray.kill(lost[0].actor)
        for verifier in spread.verifiers:
            ray.kill(verifier, no_restart=False)

    trouble(monkeypatch, spread, kill)
    assert run(benchmark.main, TWO, tmp_path) == Exit.DONE
    assert_same(results(tmp_path), alone[TWO])
    assert lost[0] not in crew.seats


DEADLY, BESIDE = "builtin-02", "builtin-03"  # one group


class Deadly(Searching):
    """Ends its generator where a certain prompt is to be searched."""

    def do(self, parts: Any) -> Iterator[Any]:
        if any(prompt.id == DEADLY for prompt in self.prompts):
            os._exit(1)
        yield from super().do(parts)


def test_a_prompt_that_always_ends_its_generator_fails_alone_and_is_taken_up_again(
    alone: dict[str, Results], spread: Actors, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = f"{SEARCH} --method best_of_n"
    records, files = alone[TWO]
    wanted = {r["prompt_id"]: r for r in records.values() if r["method"] == "best_of_n"}
    beside = wanted.pop(BESIDE)
    with monkeypatch.context() as patch:
        patch.setattr(searching, "Searching", Deadly)
        assert run(benchmark.main, command, tmp_path) == Exit.PROMPTS_FAILED
    made, tokens = results(tmp_path)
    found = {record["prompt_id"]: record for record in made.values()}
    # It was decoded alone, a shape in which sums are rounded otherwise.
    own = found.pop(BESIDE)
    assert own["winner"]["score"]["value"] == pytest.approx(
        beside["winner"]["score"]["value"], 1e-4
    )
    path = f"tokens/best_of_n/{BESIDE}.npy"
    assert tokens[path] == files[path]
    failed = found.pop(DEADLY)
    assert failed["status"] == "failed"
    assert failed["reason"].startswith("its generator was lost each time: The actor ")
    assert list(differing(found, {k: r for k, r in wanted.items() if k != DEADLY})) == []
    assert run(benchmark.main, command, tmp_path) == Exit.DONE
    again = {record["prompt_id"]: results_of(record) for record in lines(tmp_path)}
    assert list(differing(again, wanted | {BESIDE: own})) == []


@pytest.fixture
def node(cluster: Cluster) -> Iterator[None]:
    """One more, which has room for what other drivers start."""
    added = cluster.add_node(**NODE)
    yield
    cluster.remove_node(added)


def all_is_free_on_it() -> bool:
    return bool(ray.available_resources().get("CPU", 0.0) == NODE["num_cpus"])


def wait_for(what: Callable[[], object], seconds: float = 100.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_driver_that_is_ended_leaves_no_actors_and_the_same_command_goes_on(
    alone: dict[str, Results], spread: Actors, cluster: Cluster, node: None, tmp_path: Path
) -> None:
    wait_for(all_is_free_on_it)
    # What is interrupted needs no verifier actors to be so.
    asked = {signal.SIGINT: TWO.replace("tags+pmi", "pmi"), signal.SIGKILL: TWO}
    ends = {signal.SIGINT: Exit.INTERRUPTED, signal.SIGKILL: -signal.SIGKILL}
    with ExitStack() as stack:
        drivers = {}
        for how, what in asked.items():
            command = [sys.executable, "benchmark.py", *f"{what} {RAY} 1 --in_flight 1".split()]
            command += ["--ray", cluster.address, "--output", str(tmp_path / how.name)]
            kind = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
            drivers[how] = stack.enter_context(kind)
            stack.callback(kind.kill)
        for how, driver in drivers.items():
            while driver.poll() is None and len(lines(tmp_path / how.name)) < 2:
                time.sleep(0.1)
            assert not all_is_free_on_it()
            driver.send_signal(how)
            _, said = driver.communicate(timeout=30)
            assert driver.returncode == ends[how], said
            assert 2 <= len(lines(tmp_path / how.name)) < 8
            assert how != signal.SIGINT or "of 8 searches are finished and kept in " in said
    wait_for(all_is_free_on_it)
    output = tmp_path / signal.SIGKILL.name
    assert run(benchmark.main, TWO, output) == Exit.DONE
    assert_same(results(output), alone[TWO])


def test_an_error_that_a_generator_sends_arrives_as_it_was() -> None:
    error = pickle.loads(pickle.dumps(Refused("too long", {(0, None): "too long"})))
    assert (str(error), error.by("tags")) == ("too long", {0: "too long"})
