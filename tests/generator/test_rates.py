"""What a unit of work takes: by the records of a comparable run, or by a trial."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from src.budget import STAGES, Plan
from src.decoding.decoder import Decoder
from src.experiments.rates import (
    Known,
    Rates,
    here,
    past_runs,
    score_rates,
    search_rates,
    work_of,
)
from src.experiments.scaling_dry_run import scoring_jobs
from src.experiments.trial import Trial
from src.methods import METHODS
from src.protocol import Checkpoint
from src.runs.records import Run, search_key
from tests.generator.fake_pool import (
    OTHER_WEIGHTS,
    FakeClient,
    hears,
    made_pool,
    settings_for,
    verifier,
)
from tests.generator.fake_pool import PROMPTS as POOL
from tests.generator.fake_search import RATE
from tests.generator.random_models import condition, random_lm
from tests.generator.test_estimate import PARAMETERS, PROMPTS, plan_of

WEIGHTS = {name: Checkpoint(name=name, sha256=name[0] * 64) for name in ("generator", "tags")}
KNOWN = Known(WEIGHTS, "cpu", "float32", True, RATE, "tags", ["ear"])
SETTINGS = {
    **{"duration": 1.0, "step_size": 0.4, "guidance": 3.0, "device": "cpu", "dtype": "float32"},
    **{"verifier": "tags", "candidates": 4, "judges": ["ear"], **PARAMETERS},
}
SPENT = dict(zip(STAGES, (3.0, 40.0, 5.0, 1.0, 2.0, 3.0, 4.0, 2.0, 7.0), strict=True))


def earlier(
    output: Path, methods: Sequence[str] = ("sbs",), scale: float = 1.0, **changed: Any
) -> Path:
    """A run whose searches took SPENT each, or a multiple."""
    weights = {name: checkpoint.model_dump() for name, checkpoint in WEIGHTS.items()}
    settings = SETTINGS | changed
    prompts = {"count": 3}
    identity = {"script": "benchmark", "settings": settings, "checkpoints": weights}
    with Run(output, "run", identity | {"prompts": prompts}, {}, {"max_rows": 64}) as run:
        for method, prompt in itertools.product(methods, PROMPTS):
            seconds = {stage: scale * spent for stage, spent in SPENT.items()}
            ledger = {"frames": 1, "clips": 1, "seconds": seconds}
            record = {"prompt_id": prompt.id, "status": "ok", "ledger": ledger}
            run.append(search_key(method) | record)
    return run.folder


def found(output: Path, method: str = "sbs", rows: int = 12, known: Known = KNOWN) -> Rates | None:
    return search_rates(plan_of(method), rows, True, past_runs(output), known)


def test_an_earlier_runs_rates_give_its_own_seconds_back(tmp_path: Path) -> None:
    folder = earlier(tmp_path)
    rates = found(tmp_path)
    assert rates is not None
    one = replace(work_of(plan_of("sbs"), True), judged=1)
    assert rates.seconds(one) == pytest.approx(sum(SPENT.values()))
    assert rates.source.startswith(folder.name)
    written = sum(len(line) for line in (folder / "records.jsonl").open())
    assert rates.record_bytes * one.clips * 3 == pytest.approx(written, rel=0.02)


def test_a_method_that_was_not_run_has_the_rates_of_one_that_decodes_alike(tmp_path: Path) -> None:
    earlier(tmp_path, ["sbs"])
    assert found(tmp_path, "lookahead") == found(tmp_path, "sbs")
    assert found(tmp_path, "best_of_n") is None
    earlier(tmp_path / "both", ["lookahead", "sbs"], seed=1)
    assert found(tmp_path / "both", "lookahead") != found(tmp_path / "both", "sbs")


@pytest.mark.parametrize(
    "changed",
    [
        *({"device": "cuda"}, {"dtype": "bfloat16"}, {"verifier": "clap"}, {"judges": ["nose"]}),
        *({"guidance": 1.0}, {"duration": 3.0}, {"candidates": 16}),
    ],
)
def test_runs_of_another_kind_tell_nothing(changed: dict[str, Any], tmp_path: Path) -> None:
    earlier(tmp_path, **changed)
    assert found(tmp_path) is None


def test_runs_of_other_weights_or_machines_tell_nothing(tmp_path: Path) -> None:
    earlier(tmp_path)
    other = {**WEIGHTS, "tags": Checkpoint(name="tags", sha256="f" * 64)}
    assert found(tmp_path, known=replace(KNOWN, checkpoints=other)) is None
    elsewhere = {**here(), "cpu": "another"}
    assert found(tmp_path, known=replace(KNOWN, here=elsewhere)) is None
    assert found(tmp_path, rows=1) is None
    assert found(tmp_path, known=replace(KNOWN, verifier=None, judges=())) is not None


def test_the_newest_run_that_is_comparable_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {"01": {"scale": 5.0, "seed": 1}, "02": {"seed": 2}, "03": {"duration": 9.0}}
    for day, kind in kinds.items():
        now = f"2026-01-{day}T00:00:00+00:00"
        monkeypatch.setattr("src.runs.records._now", lambda now=now: now)
        earlier(tmp_path, **kind)  # type: ignore[arg-type]
    rates = found(tmp_path)
    assert rates is not None
    assert rates.source.endswith("of 2026-01-02")
    assert rates.judged == SPENT["judge"]


def test_folders_that_are_no_runs_are_passed_over(tmp_path: Path) -> None:
    earlier(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text("{}")
    assert len(past_runs(tmp_path)) == 1
    assert past_runs(tmp_path / "nowhere") == []


def test_earlier_pools_tell_what_scoring_takes(tmp_path: Path) -> None:
    scorers, client = [verifier("tags")], FakeClient()
    with made_pool(tmp_path) as run:
        (job,) = scoring_jobs(settings_for(tmp_path), POOL, scorers, run.folder, RATE)
        hears(run, scorers, client)
    known = Known({}, "cpu", "float32", True, RATE)
    runs = past_runs(tmp_path)
    rates = score_rates("tags", client.checkpoint, runs, known)
    assert rates is not None
    # of each request 2 s in the server and 4 s of sending, for 4 clips
    assert rates.heard * job.work.heard == pytest.approx(6 * len(client.asked), rel=0.05)
    assert score_rates("tags", OTHER_WEIGHTS, runs, known) is None
    assert score_rates("clap", client.checkpoint, runs, known) is None


class TinyGenerator:
    """A real decoder on a random language model."""

    def __init__(self) -> None:
        self.lm = random_lm()

    def begin(self, prompts, keys, candidates, frames, seed):  # type: ignore[no-untyped-def]
        conditions = [condition(self.lm, prompt) for prompt in prompts]
        return Decoder(self.lm).begin(conditions, candidates, frames, keys, seed)

    def synchronize(self) -> None:
        pass


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("duration", "step"), [(0.02, 0.02), (0.04, 0.02), (0.5, 0.2)])
def test_a_step_is_timed_in_clips_of_any_length(method: str, duration: float, step: float) -> None:
    plan = plan_of(method, duration=duration, step=step)
    trial = Trial(PROMPTS, 0.01)
    assert 0 < trial.step(TinyGenerator(), plan, 2 * plan.candidates) < 1  # type: ignore[arg-type]


def test_between_the_fewest_and_the_most_rows_a_steps_seconds_are_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timed: list[tuple[str, int]] = []

    def step(self: Trial, generator: object, plan: Plan, rows: int) -> float:
        timed.append((plan.method.name, rows))
        return 1.0 + rows + 100 * plan.method.prunes

    monkeypatch.setattr(Trial, "step", step)
    shapes = [(plan_of("best_of_n"), 8), (plan_of("baseline"), 2), (plan_of("best_of_n"), 32)]
    shapes += [(plan_of("sbs"), 4)]
    rate = Trial(PROMPTS, 1.0).decoding(None, shapes)  # type: ignore[arg-type]
    assert timed == [("baseline", 2), ("best_of_n", 32), ("sbs", 4)]
    assert [rate(plan, rows) * rows for plan, rows in shapes] == [9.0, 3.0, 33.0, 105.0]
