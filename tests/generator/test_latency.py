"""Measuring: the order of cells, untimed runs, clocks, stages, memory, going on after a stop."""

import json
import logging
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from src import budget
from src.budget import Cost
from src.cells import SearchCell
from src.data.audio import Clip
from src.data.prompts import Prompt
from src.experiments import latency
from src.experiments.latency import forget_peaks, measure_all, peaks, visits, warn_if_busy
from src.experiments.settings import LatencySettings
from src.protocol import Score
from src.runs.build import Parts
from src.runs.records import RECORDS, key_of
from src.runs.run import Run
from src.scoring import ScoreInput
from tests.generator.fake_pool import without_clock
from tests.generator.fake_search import FakeCandidates, FakeGenerator, FakeVerifier

PROMPTS = tuple(Prompt(id=name, text=name, key=name) for name in ("a", "b", "c"))
SETTINGS = LatencySettings(
    profile="builtin",
    budgets=(2, 4),
    beam_width=2,  # type: ignore[call-arg]
    duration=1.0,
    step_size=0.5,
    repetitions=3,
)
CELLS, _ = SETTINGS.cells()


class TimedGenerator(FakeGenerator):
    """A clock that goes on by what a search does: half a second to encode a text, none to remember
    it; a millisecond a frame; 10 ms a prune; 0.1 s to render a clip."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.known: set[str] = set()
        self.seeds: list[int] = []

    def begin(
        self,
        prompts: Sequence[str],
        keys: Sequence[str],
        candidates: int,
        frames: int,
        seed: int,
        first: int = 0,
        given: Any = None,
    ) -> FakeCandidates:
        super().begin(prompts, keys, candidates, frames, seed, first, given)
        self.seeds.append(seed)
        self.now += 0.5 * len(set(prompts) - self.known)
        self.known |= set(prompts)
        generator = self

        class Timed(FakeCandidates):
            def advance(self, frames: int, greedy: bool = False) -> None:
                super().advance(frames, greedy)
                generator.now += 0.001 * frames * self.rows

            def select(self, rows: Sequence[int]) -> None:
                super().select(rows)
                generator.now += 0.01

        return Timed(keys, candidates, frames, seed, first)

    def forget_conditions(self) -> None:
        self.known.clear()

    def render(self, tokens: torch.Tensor) -> list[Clip]:
        self.now += 0.1 * len(tokens)
        return super().render(tokens)


class Bench:
    """Measures `SETTINGS` in a folder. A verifier's request takes a second; the one after
    `fail_after` is interrupted."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.folder, self.fail_after = folder, 10**9
        self.generator, self.verifier = TimedGenerator(), FakeVerifier(**options)
        clock = SimpleNamespace(perf_counter=lambda: self.generator.now)
        monkeypatch.setattr(budget, "time", clock)
        monkeypatch.setattr(latency, "time", clock)
        monkeypatch.setattr(self.verifier, "score", self.score)
        self.advanced: list[int] = []

    def score(self, inputs: Sequence[ScoreInput]) -> list[Score]:
        self.fail_after -= 1
        if self.fail_after < 0:
            raise KeyboardInterrupt
        scores = FakeVerifier.score(self.verifier, inputs)
        self.generator.now += 1.0
        return scores

    def measure(self, settings: LatencySettings = SETTINGS) -> list[dict[str, Any]]:
        """Returns the run's lines."""
        parts = Parts(self.generator, self.verifier, ())  # type: ignore[arg-type]
        with Run(self.folder, "latency", settings.decisive(), {}) as run:
            measure_all(settings, PROMPTS, run, parts, self.advanced.append)
        return lines(run.folder)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / RECORDS).open()]


def cell_of(record: dict[str, Any]) -> SearchCell:
    return SearchCell.from_record(record["cell"])


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_every_cell_comes_once_a_repetition_in_an_order_drawn_anew() -> None:
    order = list(visits(CELLS, 4, seed=1))
    by_repetition = [[cell for r, cell in order if r == repetition] for repetition in range(1, 5)]
    assert [r for r, _ in order] == sorted(r for r, _ in order)
    for shuffled in by_repetition:
        assert sorted(shuffled, key=str) == sorted(CELLS, key=str)
    assert len({tuple(shuffled) for shuffled in by_repetition}) == 4
    assert order == list(visits(CELLS, 4, seed=1))
    assert order != list(visits(CELLS, 4, seed=2))
    assert order[: 2 * len(CELLS)] == list(visits(CELLS, 2, seed=1))


def test_no_two_visits_and_no_warm_up_have_audio_in_common_that_a_server_could_remember(
    bench: Bench,
) -> None:
    bench.measure()
    visits_of = [bench.generator.seeds[at : at + 4] for at in range(0, 4 * 7 * 3, 4)]
    for untimed, *timed in visits_of:
        assert (untimed, len(set(timed))) == (0, 1)
    assert len({timed for _, timed, *_ in visits_of} | {0}) == 7 * 3 + 1


def test_clock_stages_and_ledger_tell_what_a_search_took(bench: Bench) -> None:
    for record in bench.measure():
        cell = cell_of(record)
        cost = cell.plan(1.0, 0.5, 50).expected()
        steps = 2 if cell.prunes else 1
        seconds = record["ledger"]["seconds"]
        assert Cost(record["ledger"]["frames"], record["ledger"]["clips"]) == cost
        assert seconds["conditions"] == pytest.approx(0.5)  # of a text that was encoded before too
        assert seconds["decode"] == pytest.approx(0.001 * cost.frames)
        assert seconds["render"] == pytest.approx(0.1 * cost.clips)
        assert seconds["http"] == pytest.approx(1.0 * steps)
        assert seconds["selection"] == pytest.approx(0.01 * (steps - 1))
        assert record["wall_seconds"] == pytest.approx(sum(seconds.values()))


def test_each_visit_begins_untimed_whole_at_first_and_with_one_step_later(bench: Bench) -> None:
    found = bench.measure()
    assert sum(bench.advanced) == len(found) == 7 * 3 * 3
    visited: list[SearchCell] = []
    begun = iter(bench.generator.begun)
    for repetition, cell in visits(CELLS, 3, SETTINGS.seed):
        first = 3 * len(visited)
        assert [
            (r["repetition"], cell_of(r), r["prompt_id"]) for r in found[first : first + 3]
        ] == [(repetition, cell, prompt.id) for prompt in PROMPTS]
        untimed = (("a",), cell.candidates, 25 if cell in visited else 50)
        timed = [((prompt.text,), cell.candidates, 50) for prompt in PROMPTS]
        assert [next(begun) for _ in range(4)] == [untimed, *timed]
        visited.append(cell)
    assert next(begun, None) is None


def test_an_interrupted_run_goes_on_where_it_stopped_and_does_nothing_twice(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.fail_after = 40
    with pytest.raises(KeyboardInterrupt):
        bench.measure()
    before = lines(next(tmp_path.glob("latency-*")))
    assert 0 < len(before) < 63

    again = Bench(tmp_path, monkeypatch)
    found = again.measure()
    assert found[: len(before)] == before
    assert set(Counter(map(key_of, found)).values()) == {1}
    assert sum(again.advanced) == len(found) == 63
    whole = Bench(tmp_path / "whole", monkeypatch).measure()
    assert without_clock(found) == without_clock(whole)


def test_a_prompt_that_is_refused_fails_alone_and_warms_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(item: ScoreInput) -> str | None:
        return "no such tag" if item.prompt == "a" else None

    bench = Bench(tmp_path, monkeypatch, refuses=refuses)
    found = bench.measure(replace(SETTINGS, method=("best_of_n",), repetitions=1))
    assert {r["prompt_id"]: r["status"] for r in found} == {"a": "failed", "b": "ok", "c": "ok"}
    assert found[0]["reason"] == "no such tag"
    assert [texts for texts, *_ in bench.generator.begun[:3]] == [("a",), ("b",), ("a",)]


def test_prompts_side_by_side_share_their_groups_time(bench: Bench) -> None:
    found = bench.measure(replace(SETTINGS, method=("best_of_n",), budgets=(2,), batch=2))
    assert [r["group"] for r in found[:3]] == [2, 2, 1]
    together, _, alone = (r["wall_seconds"] for r in found[:3])
    assert alone == pytest.approx(0.5 + 0.1 + 0.2 + 1)
    assert together == pytest.approx(2 * (0.5 + 0.1 + 0.2) + 1)
    for record in found:
        total = sum(record["ledger"]["seconds"].values())
        assert total == pytest.approx(record["wall_seconds"] / record["group"])
    untimed = [texts for texts, *_ in bench.generator.begun[:2]]
    assert untimed == [("a", "b"), ("c",)]  # a group of each size


def test_the_peak_of_memory_is_that_since_the_reset() -> None:
    forget_peaks()
    before = peaks()["resident"] or 0
    block = np.ones(20_000_000)  # 160 MB
    del block
    assert (peaks()["resident"] or 0) - before > 100e6
    forget_peaks()
    if (peaks()["resident"] or 0) - before > 100e6:
        pytest.skip("this system does not let a process forget its peak")
    assert peaks()["gpu"] is None


def test_the_memory_of_a_started_process_is_told_apart() -> None:
    forget_peaks()
    alone = peaks()["server"] or 0
    code = "x = bytearray(60_000_000); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert (peaks()["server"] or 0) - alone > 50e6
        process.communicate(b"\n")


def test_a_servers_memory_of_a_gpu_is_what_is_neither_free_nor_our_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (30, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 50)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda gpu: 40)
    monkeypatch.setattr(latency, "_gpus", lambda: range(1))
    monkeypatch.setattr(latency, "_started", list)
    assert peaks()["server_gpu"] is None
    monkeypatch.setattr(latency, "_started", lambda: ["self"])
    assert (peaks()["gpu"], peaks()["server_gpu"]) == (40, 20)


def test_a_busy_machine_is_warned_of_before_the_run(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_if_busy((0.1, 3.0, 3.0))
        assert caplog.text == ""
        warn_if_busy((0.9, 0.1, 0.1))
    assert "load average 0.90 before this run did anything" in caplog.text
