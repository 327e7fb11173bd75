"""What a run will cost is known before it is begun: exactly what is left, and about how long."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import benchmark
import latency_experiment
import verifier_experiment
from src.budget import Plan, Span
from src.connection import ServerUnreachable
from src.data.audio import Clip
from src.data.prompts import Prompt
from src.decoding.decoder import Decoder, Decoding
from src.decoding.windows import Windows
from src.experiments import calibration, dry_run
from src.experiments.dry_run import Row, Trial, as_size, as_time, search_row
from src.experiments.scaling_dry_run import score_rows
from src.experiments.searching import search_what_is_left
from src.experiments.settings import BenchmarkSettings
from src.methods import METHODS
from src.protocol import Score
from src.runs.build import Parts
from src.runs.ending import Exit
from src.runs.records import search_key
from src.runs.run import Run
from src.runs.settings import parse
from src.scoring import ScoreInput
from src.search import search
from src.tree.node import children, copies
from tests.generator import fake_pool
from tests.generator.fake_pool import PROMPTS
from tests.generator.fake_search import RATE, FakeGenerator, FakeVerifier, Narrow
from tests.generator.random_models import condition, random_lm

TINY = "--profile builtin --num_samples 3 --duration 1 --step_size 0.4 --log_level warning"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "SECONDS", 0.0)


def plan_of(method: str, candidates: int = 4, duration: float = 1.0, step: float = 0.4) -> Plan:
    parameters = {"beam_width": 2, "lookahead_k": 1}
    return METHODS[method].make_plan(candidates, duration, step, RATE, parameters)


def parts_of(generator: FakeGenerator, verifier: FakeVerifier | None = None) -> Parts:
    return Parts(generator, verifier or FakeVerifier(), ())  # type: ignore[arg-type]


def cells(text: str, name: str) -> list[str]:
    """The first cells of a row: left, frames, clips."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"{name}  "))
    return line[len(name) :].replace(",", "").split()[:3]


class MadeUp(Trial):
    """Seconds are frames decoded, 10^3 times those rendered, and 10^6 times those heard."""

    rendering = 1000.0 * 50  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__(FakeGenerator(), PROMPTS, frames=50)  # type: ignore[arg-type]

    def step(self, generator: object, plan: Plan, rows: int) -> float:
        return float(rows)

    def scoring(self, verifier: object) -> float:
        return 1e6 * 50

    def judging(self, judges: Sequence[object], again: bool = False) -> float:
        return 0.0


class CountingGenerator(FakeGenerator):
    frames_rendered = 0

    def render(self, tokens: torch.Tensor) -> list[Clip]:
        self.frames_rendered += tokens.shape[0] * tokens.shape[-1]
        return super().render(tokens)


class CountingVerifier(FakeVerifier):
    """One that hears nothing scores by likelihood."""

    def __init__(self, needs_audio: bool) -> None:
        super().__init__()
        self.needs_audio, self.frames_heard = needs_audio, 0

    def score(self, inputs: Sequence[ScoreInput]) -> list[Score]:
        if not self.needs_audio:
            return [Score(value=item.log_prob) for item in inputs]
        self.frames_heard += sum(i.clip.samples.shape[-1] for i in inputs if i.clip is not None)
        return super().score(inputs)


@pytest.mark.parametrize("audio", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_what_is_decoded_rendered_and_heard_is_what_a_search_does(method: str, audio: bool) -> None:
    generator, verifier, plan = CountingGenerator(), CountingVerifier(audio), plan_of(method)
    results = search(plan, PROMPTS[:1], generator, verifier, seed=1)
    done = results[0].ledger.frames + 1e3 * generator.frames_rendered + 1e6 * verifier.frames_heard
    assert MadeUp().search(plan, 8, parts_of(generator, verifier)) == pytest.approx(done)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_left_of_a_run_is_what_the_same_command_then_does(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_run, "memory_of", lambda generator, plan, rows: 0)
    plan, key, identity = plan_of(method), search_key(method), {"script": "benchmark"}

    def row() -> Row:
        run = Run(tmp_path, "run", identity, {}, dry=True)
        todo = {p.id for p in PROMPTS if not run.is_done(key, p.id)}
        return search_row(method, plan, [todo], parts_of(Narrow()), MadeUp())

    def frames_of(prompts: Sequence[Prompt]) -> int:
        generator = Narrow()
        with Run(tmp_path, "run", identity, {}) as run:
            search_what_is_left(run, [(key, plan, 1)], prompts, parts_of(generator))
        return sum(len(keys) for keys, *_ in generator.begun) * plan.expected().frames

    assert row().left == 3
    assert not list(tmp_path.iterdir())
    frames_of(PROMPTS[:1])
    expected = row()
    assert expected.left == 2
    # Groups are searched whole, with those of their prompts that are done.
    assert expected.frames == frames_of(PROMPTS)
    assert row() == Row(method)


def test_rows_beyond_the_most_are_held_at_once_only_where_they_are_pruned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dry_run, "memory_of", lambda generator, plan, rows: rows)

    def rows(method: str, most: int) -> float:
        generator = FakeGenerator()
        generator.max_rows = most
        row = search_row("", plan_of(method, 8), [{"jig"}], parts_of(generator), MadeUp())
        return row.memory

    assert (rows("best_of_n", 64), rows("sbs", 64), rows("baseline", 64)) == (24, 24, 3)
    assert (rows("best_of_n", 4), rows("sbs", 4)) == (4, 8)


def test_what_a_pools_scorers_have_left_is_what_they_then_hear(tmp_path: Path) -> None:
    scorers, client = (
        [fake_pool.verifier("tags"), fake_pool.judge("far")],
        fake_pool.FakeClient(lives=4),
    )
    settings = fake_pool.settings_for(tmp_path)
    with fake_pool.made_pool(tmp_path) as run, pytest.raises(ServerUnreachable):
        fake_pool.hears(run, scorers, client)  # one prompt is scored whole, the next in part

    def rows() -> list[Row]:
        again = Run.reopen(run.folder, dry=True)
        return score_rows(settings, scorers, again, PROMPTS, client, MadeUp())  # type: ignore[arg-type]

    of_tags, of_far = rows()
    assert (of_tags.left, of_far.left, of_far.clips, of_far.seconds) == (2, 2, 8, 0)
    client = fake_pool.FakeClient()
    with fake_pool.made_pool(tmp_path) as run:
        fake_pool.hears(run, scorers, client)
    assert of_tags.clips == 4 * len(client.asked)
    heard = sum(frames for *_, frames in client.asked) / 20  # whole clips of 0.4 s
    assert of_tags.seconds == pytest.approx(4 * heard * 50 * (1e6 + 1e3))
    assert rows() == [Row("scores by tags"), Row("scores by far")]


def held(plan: Plan, spread: bool) -> float:
    """The most positions a candidate that the decoder keeps. spread: the parents kept are of as
    many families as there are, so that no ancestors come to be shared; else they are random, and
    particles have half as many."""
    lm = random_lm(dim=16, layers=3, heads=1)
    decoding = Decoder(lm).begin([condition(lm, "x")], plan.candidates, plan.frames, ["k"], 1)
    transformer, most = decoding.decoder.transformer, 0
    parents = list(range(plan.candidates))
    for step, frames in enumerate(plan.steps):
        mark = decoding.mark()  # so that the last step does not let go of its past
        decoding.advance(frames)
        if plan.rollout(step):
            mark = decoding.mark()
            decoding.advance(plan.rollout(step), greedy=True)
            decoding.rewind(mark)
        most = max(most, decoding.nbytes)
        if step + 1 < len(plan.steps):
            one_each = [parents.index(parent) for parent in dict.fromkeys(parents)]
            if plan.held[step + 1] < plan.candidates:
                decoding.keep(range(plan.held[step + 1]))
                continue
            best = one_each if spread else torch.randperm(plan.candidates).tolist()
            parents = children(best[: plan.kept], plan.kept, plan.beam_width)
            if plan.beam_width == 1:  # particles
                drawn = [0, 0, *range(2, plan.candidates)] if spread else [b // 2 for b in best]
                parents = copies([drawn.count(slot) for slot in range(plan.candidates)])
            decoding.select(parents)
            most = max(most, decoding.nbytes)
    return most / plan.candidates / transformer.position_bytes(decoding.guided)


@pytest.mark.parametrize("method", METHODS)
def test_the_positions_of_a_plan_are_those_that_the_decoder_keeps(method: str) -> None:
    torch.manual_seed(0)
    for step in (0.4, 0.2):
        plan = plan_of(method, candidates=8, step=step)
        assert held(plan, spread=True) == plan.positions(lag=3)
        assert held(plan, spread=False) <= plan.positions(lag=3)


def held_over_windows(plan: Plan, span: Span) -> float:
    """The most positions a candidate that windows keep, looked at after each frame."""
    lm, given = random_lm(dim=16, layers=3, heads=1), None
    if plan.given:
        given = torch.zeros(plan.candidates, lm.n_q, plan.given, dtype=torch.int64)
    begun = ([condition(lm, "x")], plan.candidates, plan.length, ["k"], 1)
    decoding, most = Windows(Decoder(lm), *begun, span, given), 0
    for step, frames in enumerate(plan.steps):
        for _ in range(frames):
            decoding.advance(1)
            most = max(most, decoding.nbytes)
        if plan.rollout(step):
            mark = decoding.mark()
            for _ in range(plan.rollout(step)):
                decoding.advance(1, greedy=True)
                most = max(most, decoding.nbytes)
            decoding.rewind(mark)
        if step + 1 < len(plan.steps):
            if plan.held[step + 1] < decoding.rows:
                decoding.keep(range(plan.held[step + 1]))
            elif plan.beam_width > 1:
                decoding.select(children(range(plan.kept), plan.kept, plan.beam_width))
    a_position = decoding.decoder.transformer.position_bytes(decoding.guided)
    return most / plan.candidates / a_position


@pytest.mark.parametrize("given", [0, 33])
@pytest.mark.parametrize("method", ["best_of_n", "sbs", "lookahead", "halving"])
def test_of_windows_no_more_positions_are_kept_than_are_said(method: str, given: int) -> None:
    span, parameters = Span(24, 14), {"beam_width": 2, "lookahead_k": 1}
    plan = METHODS[method].make_plan(8, 1.2, 0.2, RATE, parameters, given=given)
    said = dry_run.positions_of(plan, span, lag=3)
    assert 0.5 * said < held_over_windows(plan, span) <= said


@pytest.mark.parametrize("given", [0, 9, 24, 33, 40])
@pytest.mark.parametrize("method", ["best_of_n", "lookahead"])
def test_what_is_fed_again_is_said_for_each_window_and_for_what_is_given(
    method: str, given: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    span, lm, fed = Span(24, 14), random_lm(dim=16), []
    give = Decoding.give
    monkeypatch.setattr(
        Decoding, "give", lambda self, t: (fed.append(t.shape[-1]), give(self, t))[1]
    )
    own = {"beam_width": 1, "lookahead_k": 1}
    plan = METHODS[method].make_plan(1, 1.2, 0.2, RATE, own, given=given)
    tokens = torch.zeros(1, lm.n_q, given, dtype=torch.int64) if given else None
    decoding = Windows(Decoder(lm), [condition(lm, "x")], 1, 60, ["k"], 1, span, tokens)
    for step, frames in enumerate(plan.steps):
        decoding.advance(frames)
        if plan.rollout(step):
            mark = decoding.mark()
            decoding.advance(plan.rollout(step), greedy=True)
            decoding.rewind(mark)
    assert sorted(fed) == sorted(frames for _, frames in plan.fed(span))


def test_seconds_and_bytes_are_written_in_units_that_can_be_read() -> None:
    texts = [as_time(x) for x in (0.524, 42, 150, 720, 12_240)]
    assert texts == ["0.52 s", "42.0 s", "2.5 min", "12 min", "3.4 h"]
    assert [as_size(x) for x in (0, 5.2e5, 3.9e7, 1.2e9)] == ["-", "0.52 MB", "39.0 MB", "1.2 GB"]


@pytest.mark.parametrize(
    ("main", "args", "rows"),
    [
        (
            benchmark.main,
            "--method baseline best_of_n lookahead --candidates 4 --beam_width 2",
            {"baseline": (3, 150, 3), "best_of_n": (3, 600, 12), "lookahead": (3, 960, 36)},
        ),
        (
            verifier_experiment.main,
            "--verifiers perplexity --judges msd_kld --budgets 4 --method sbs --seeds 1 2",
            {
                "pool of 8": (3, 1200, 0),
                "scores by msd_kld": (3, 0, 24),
                "sbs N=4 M=4, perplexity": (6, 1200, 72),
            },
        ),
        (
            latency_experiment.main,  # untimed besides: a whole search, and one of a step
            "--budgets 4 --repetitions 2 --method best_of_n",
            {"best_of_n N=4": (6, 4 * (6 * 50 + 50 + 20), 4 * 8)},
        ),
        (calibration.main, "--verifiers perplexity pmi --candidates 4", {"pools": (3, 600, 12)}),
    ],
)
def test_each_script_says_what_is_to_be_done_and_writes_nothing(
    main: Any, args: str, rows: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    ask = f"{TINY} {args} --dry_run".split()
    assert main([*ask, "--output", str(tmp_path / "runs")]) == Exit.DONE
    text = capsys.readouterr().out
    for name, numbers in rows.items():
        assert cells(text, name) == list(map(str, numbers))
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_is_no_part_of_a_runs_identity() -> None:
    plain, dry = (parse(BenchmarkSettings, [*TINY.split(), *more]) for more in ((), ("--dry_run",)))
    assert dry.dry_run
    assert plain.decisive() == dry.decisive()
