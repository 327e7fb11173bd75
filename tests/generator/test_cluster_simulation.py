"""The model of a run on many machines, against what can be said of it in closed form."""

import itertools
import json
import math
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from perf.cluster_costs import Costs, measured, reckoned, stages_of
from perf.cluster_simulation import PLACES, Setup, Simulation, Stage, bound, simulate
from src.data.files import ROOT
from src.methods import METHODS
from src.runs.records import read_records

KNOWN = tomllib.loads((ROOT / "perf/cluster.toml").read_text())
LATENCY = ROOT / "results/builtin/latency-builtin-tags-8481aab6"
COSTS = Costs(decode={1: 0.002, 16: 0.008, 64: 0.02}, render=4e-5, score=1e-4, request=0.01)


def searching(steps: int, generator: float, verifier: float) -> list[Stage]:
    """A search that generates and is scored so many times, with one clip each time."""
    scoring = [Stage("intake", 0), Stage("verifier", verifier / steps, 1)]
    return [Stage("generator", generator / steps), *scoring] * steps


def total(stages: list[Stage]) -> float:
    return sum(stage.seconds * max(1, stage.clips) for stage in stages)


def sbs(prompts: int = 1, costs: Costs = COSTS) -> list[Stage]:
    plan = METHODS["sbs"].make_plan(16, 10, 2, 50, {"beam_width": 4})
    return stages_of(plan, prompts, costs, KNOWN)


def test_one_group_in_flight_takes_the_sum_of_its_stages() -> None:
    assert simulate(Setup(1, 1, in_flight=1), sbs()).rate == pytest.approx(1 / total(sbs()))


@pytest.mark.parametrize(
    ("steps", "seconds", "scoring", "ideal"),
    [(1, 8.0, 0.86, 1.12), (5, 11.3, 3.2, 1.39), (5, 17.6, 3.74, 1.27)],
    ids=["best_of_n", "sbs", "lookahead"],
)
def test_a_second_group_gains_what_overlap_can(
    steps: int, seconds: float, scoring: float, ideal: float
) -> None:
    """The built-in model's seconds of a search of 10 s with tags, and of its scoring."""
    stages = searching(steps, seconds - scoring, scoring)
    one, two = (simulate(Setup(1, 1, in_flight), stages).rate for in_flight in (1, 2))
    assert two / one == pytest.approx(ideal, rel=0.005)


def test_on_one_core_overlap_gains_nothing_and_on_two_it_gains_what_it_can() -> None:
    stages = searching(5, 8.0, 4.0)
    rates = {cores: simulate(Setup(1, 1, 2, cores=cores), stages).rate for cores in (1, 2)}
    assert rates[1] == pytest.approx(1 / 12)
    assert rates[2] == pytest.approx(1 / 8, rel=0.005)


def test_two_generators_on_two_cores_are_no_faster_than_their_work_allows() -> None:
    stages = searching(4, 8.0, 4.0)
    rate = simulate(Setup(2, 1, 2, cores=2), stages).rate
    assert 0.9 * 2 / 12 < rate <= 2 / 12 * (1 + 1e-9)


def test_three_jobs_on_two_cores_go_at_two_thirds_of_their_pace() -> None:
    simulation = Simulation(Setup(3, 1, 1, cores=2), [Stage("generator", 2.0)], 15)
    assert simulation.run().rate == pytest.approx(1.0)  # 3 groups in 3 s


@pytest.mark.parametrize(
    "setup", [Setup(5, 2, 3), Setup(5, 2, 3, balanced=True), Setup(2, 3, 1, cores=2)]
)
def test_every_group_is_finished_once_and_nothing_is_worked_on_twice(setup: Setup) -> None:
    simulation = Simulation(setup, sbs(prompts=3), 60)
    simulation.run()
    assert (simulation.finished, simulation.held.level) == (60, 0)
    assert not any(server.queue for own in simulation.servers.values() for server in own)
    if setup.cores == math.inf:
        for place in PLACES:
            own = total([stage for stage in sbs(prompts=3) if stage.place == place])
            assert simulation.work()[place] == pytest.approx(60 * own)


def test_littles_law_holds_over_a_whole_run() -> None:
    """Groups held on average = groups a second * seconds that each is held."""
    simulation = Simulation(Setup(4, 1, 2, spread=0.2), sbs(), 100)
    simulation.run()
    elapsed = simulation.clock.now
    average = simulation.held.read() / elapsed
    assert average == pytest.approx(100 / elapsed * simulation.sojourns / 100)
    assert average == pytest.approx(8, rel=0.1)  # but for the last groups, places are taken


def test_no_schedule_is_faster_than_its_bound_and_more_of_anything_makes_none_slower() -> None:
    """But for 2%: stages of equal length can lock in step, in any queue (Graham's anomalies)."""
    rates = {}
    for generators, verifiers, in_flight in itertools.product((1, 2, 4), (1, 2), (1, 2, 3)):
        setup = Setup(generators, verifiers, in_flight, batch_seconds=0.05)
        rates[generators, verifiers, in_flight] = rate = simulate(setup, sbs(4)).rate
        assert 0.5 * bound(setup, sbs(4)) < rate <= bound(setup, sbs(4)) * (1 + 1e-9)
    for (generators, verifiers, in_flight), rate in rates.items():
        for more in (
            (2 * generators, verifiers, in_flight),
            (generators, 2 * verifiers, in_flight),
            (generators, verifiers, in_flight + 1),
        ):
            assert rates.get(more, math.inf) > 0.98 * rate, (more, rate)
        assert rate >= rates[generators, verifiers, 1], "a second group in flight never costs"


def test_what_takes_longest_for_its_servers_saturates_first() -> None:
    slow_disk = {**KNOWN, "cluster": {**KNOWN["cluster"], "fsync_ms": 20_000}}
    plan = METHODS["sbs"].make_plan(16, 10, 2, 50, {})
    assert simulate(Setup(1, 4), sbs()).first == "generator"
    assert simulate(Setup(8, 1), sbs(costs=replace(COSTS, score=0.01))).first == "verifier"
    assert simulate(Setup(8, 8), stages_of(plan, 1, COSTS, slow_disk)).first == "driver"


@pytest.mark.parametrize("method", METHODS)
def test_stages_follow_from_the_plan(method: str) -> None:
    plan = METHODS[method].make_plan(16, 10, 2, 50, {})
    stages = stages_of(plan, 2, COSTS, KNOWN)
    assert sum(stage.clips for stage in stages) == 2 * plan.expected().clips
    silent = stages_of(plan, 2, replace(COSTS, score=None), KNOWN)
    assert {stage.place for stage in silent} == {"generator", "store", "driver"}


def test_measured_costs_give_back_the_seconds_they_were_read_from() -> None:
    """Of searches of one prompt, N = 16, one after the other; writing apart."""
    walls: dict[str, list[float]] = {}
    for record in read_records(LATENCY).values():
        if record["cell"]["candidates"] in (1, 16):
            walls.setdefault(record["method"], []).append(record["wall_seconds"])
    for method, seconds in walls.items():
        costs = measured(LATENCY, method, "tags", 5.0, KNOWN)
        stages = stages_of(METHODS[method].make_plan(16, 5, 2, 50, {}), 1, costs, KNOWN)
        own = [stage for stage in stages if stage.place not in ("driver", "store")]
        assert total(own) == pytest.approx(sum(seconds) / len(seconds), rel=0.05), method


def test_a_gpus_steps_lie_between_their_floor_and_the_eager_ones() -> None:
    floor = reckoned("small", "clap", True, COSTS, False, KNOWN)
    timed = reckoned("small", "clap", False, COSTS, False, KNOWN)
    for rows in (1, 16, 64):
        assert floor.step(rows) < timed.step(rows) < 0.0115


def test_points_that_were_measured_stand_beside_simulated_ones(tmp_path: Path) -> None:
    point = {"costs": "measured", "method": "sbs", "verifier": "tags", "duration": 5}
    point |= {"max_rows": 16, "in_flight": 1, "prompts_per_minute": 15.9}
    (tmp_path / "points.json").write_text(json.dumps([point]))
    command = ["perf/cluster.py", "--check", tmp_path / "points.json", "--output", tmp_path]
    subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, check=True)
    header, row = (tmp_path / "check.csv").read_text().splitlines()
    found = dict(zip(header.split(","), row.split(","), strict=True))
    assert float(found["ratio"]) == pytest.approx(float(found["simulated"]) / 15.9, rel=1e-3)
    assert float(found["ratio"]) == pytest.approx(1, rel=0.05)  # the run that it was read from
