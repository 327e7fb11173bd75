"""Who gets which piece of work, and what becomes of it when its generator dies. The generators are
actors without models (fakes.py); those with models are in test_driver.py."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

import pytest
import ray
from ray.cluster_utils import Cluster

from src.cluster import crew as crew_module
from src.cluster import runtime_env
from src.cluster.crew import Crew
from src.cluster.driver import shares_of
from src.decoding.device import OutOfMemory
from src.experiments.settings import BenchmarkSettings
from src.generator import GeneratorError
from src.runs.settings import UsageError, parse
from src.weights.files import WeightsError
from tests.cluster.fakes import FakeGenerator, Work

ENV = runtime_env(Path(sys.executable))
DONE = "a"  # what a fake generator's parts are made to be: its checkpoint


def create(*args: Any, cpus: float = 0.5, **named: Any) -> Any:
    kind = ray.remote(FakeGenerator).options(num_cpus=cpus, max_concurrency=2, runtime_env=ENV)
    return kind.remote(*args, **named)


@contextmanager
def crew_of(count: int, start: Callable[[], Any] = create) -> Iterator[Crew]:
    crew = Crew(count, 2, lambda max_rows: start())
    try:
        crew.start([])
        crew.ready()
        yield crew
    finally:
        crew.end()


@pytest.fixture(scope="module")
def pair(cluster: Cluster) -> Iterator[Crew]:
    with crew_of(2) as crew:
        yield crew


def groups(folder: Path, *prompts: str, **more: Any) -> list[Work]:
    return [Work(of, folder, **more) for of in prompts]


def made(crew: Crew, pieces: list[Work]) -> tuple[dict[str, str], Counter[str]]:
    """How each prompt ended; and how often each group was begun. None is lost or there twice."""
    work = crew.workers(attrgetter("checkpoint"))(iter(cast("Any", pieces)))
    ended = cast("list[tuple[str, str]]", list(work))
    assert sorted(name for name, _ in ended) == sorted(
        name for piece in pieces for name in piece.prompts
    )
    return dict(ended), Counter((pieces[0].folder / "tries").read_text().split())


def test_a_generator_never_has_more_pieces_than_its_groups_in_flight(
    cluster: Cluster, tmp_path: Path
) -> None:
    taken = done = most = 0

    def pieces() -> Iterator[Any]:
        nonlocal taken, most
        for piece in groups(tmp_path, *"abcdefgh"):
            taken += 1
            most = max(most, taken - done)
            yield piece

    with crew_of(1) as crew:
        for _ in crew.workers(attrgetter("checkpoint"))(pieces()):
            done += 1
    assert (taken, done, most) == (8, 8, 2)


def test_what_a_generator_had_when_it_died_is_done_again(pair: Crew, tmp_path: Path) -> None:
    ended, tries = made(pair, groups(tmp_path, "ab", "cd", "ef", "gh", "i", once="c"))
    assert set(ended.values()) == {DONE}
    assert tries["cd"] == 2
    assert 6 <= tries.total() <= 7  # the other piece that it had, too


def test_a_prompt_that_always_ends_its_generator_fails_alone(pair: Crew, tmp_path: Path) -> None:
    ended, tries = made(pair, groups(tmp_path, "ab", "cd", "ef", "g", "hi", "j", deadly="dg"))
    assert {name for name, how in ended.items() if how != DONE} == {"d", "g"}
    assert ended["d"].startswith("its generator was lost each time: The actor ")
    assert {name: tries[name] for name in ("cd", "c", "d", "g")} == {
        "cd": 2,
        "c": 1,
        "d": 1,
        "g": 2,
    }


def test_where_memory_is_not_enough_a_group_is_halved(pair: Crew, tmp_path: Path) -> None:
    ended, tries = made(pair, groups(tmp_path, "abc", "d", error=OutOfMemory("not enough")))
    assert set(ended.values()) == {DONE}
    assert tries == Counter(["abc", "ab", "a", "b", "c", "d"])


def test_another_error_ends_the_run_as_in_one_process(cluster: Cluster, tmp_path: Path) -> None:
    with crew_of(1) as crew, pytest.raises(WeightsError, match=r"^gone$"):
        made(crew, groups(tmp_path, "ab", error=WeightsError("gone")))


@pytest.mark.parametrize(
    ("starts", "error", "match"),
    [
        ([{"error": WeightsError("no model in x")}], WeightsError, "^no model in x$"),
        ([{"dies": True}] * 2, GeneratorError, "generators do not start: The actor "),
        ([{}, {"checkpoint": "b"}], GeneratorError, "differ in their checkpoint: [ab], [ab]"),
        ([{"cpus": 64}], UsageError, "no generator could be started: the cluster has 8 cores and "),
    ],
    ids=["cannot load", "dies on loading", "another model", "no room"],
)
def test_generators_that_cannot_start_say_why(
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    starts: list[dict[str, Any]],
    error: type[Exception],
    match: str,
) -> None:
    monkeypatch.setattr(crew_module, "STARTS", 2)
    monkeypatch.setattr(crew_module, "START_SECONDS", 1.0 if "cpus" in starts[0] else 60.0)
    left = iter(starts)
    count = 1 if "dies" in starts[0] else len(starts)
    with pytest.raises(error, match=match), crew_of(count, lambda: create(**next(left))):
        pass


def test_a_generator_that_dies_on_loading_is_started_again_and_one_without_room_ends_the_run(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[dict[str, Any]] = [{"dies": True}, {}, {"cpus": 64.0}]
    left = iter(starts)
    with crew_of(1, lambda: create(**next(left))) as crew:
        assert made(crew, groups(tmp_path, "ab"))[0] == {"a": DONE, "b": DONE}
        monkeypatch.setattr(crew_module, "START_SECONDS", 1.0)
        with pytest.raises(GeneratorError, match="no generator is left, and the cluster has no r"):
            made(crew, groups(tmp_path, "c", deadly="c"))


@pytest.mark.parametrize(
    ("gpus", "verifiers", "asked", "shares"),
    [  # generators, GPUs of each, GPUs of a verifier actor
        (0, 1, "", (1, 0, 0)),
        (1, 1, "", (1, 1, 0)),
        (1, 0, "--gpus_per_generator 0.5", (2, 0.5, 0)),
        (8, 0, "", (8, 1, 0)),
        (8, 2, "", (6, 1, 1)),
        (8, 1, "--gpus_per_verifier 0.5 --gpus_per_generator 0.5", (15, 0.5, 0.5)),
        (8, 1, "--generator_actors 3", (3, 1, 1)),
        (8, 1, "--device cpu", (1, 0, 0)),
    ],
)
def test_all_gpus_are_used_unless_it_is_said_how_many(
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    gpus: int,
    verifiers: int,
    asked: str,
    shares: tuple[int, float, float],
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 64.0, "GPU": float(gpus)})
    found = shares_of(parse(BenchmarkSettings, asked.split()), verifiers)
    assert (found.generators, found.generator["num_gpus"], found.verifier["num_gpus"]) == shares


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ("--generator_actors 20 --cpus_per_generator 1", r"take 21 cores, and the cluster has 8"),
        (
            "--gpus_per_generator 0.5",
            r"1 generators and 1 verifier actors take 0.5 GPUs, and .* 0:",
        ),
    ],
)
def test_more_than_the_cluster_has_is_refused(cluster: Cluster, asked: str, match: str) -> None:
    settings = parse(BenchmarkSettings, ["--cpus_per_verifier", "1", *asked.split()])
    with pytest.raises(UsageError, match=match):
        shares_of(settings, 1)


def test_a_generator_that_is_at_a_group_for_too_long_is_named_and_waited_for(
    pair: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert made(pair, groups(tmp_path, "a"))[0] == {"a": DONE}
    assert "If it hangs" not in caplog.text
    monkeypatch.setattr(crew_module, "SLOW_SECONDS", 1.0)
    assert made(pair, groups(tmp_path, "b", seconds=4))[0] == {"b": DONE}
    assert "at one group for more than 0 minutes: there. If it hangs, end it" in caplog.text
