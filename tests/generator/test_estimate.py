"""What is left of a run: frames, clips, memory and disk, exactly as the run then has them."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from src.budget import Plan
from src.client import ServerUnreachable
from src.data.audio import Clip
from src.data.prompts import Prompt
from src.decoding.decoder import Decoder
from src.experiments import dry_run
from src.experiments.dry_run import Job, as_size, as_time, finished, search_job
from src.experiments.rates import (
    Rates,
    Work,
    work_of,
)
from src.experiments.scaling_dry_run import scoring_jobs
from src.experiments.searching import search_what_is_left
from src.methods import METHODS
from src.protocol import Score
from src.runs.build import Parts
from src.runs.records import Run, folder_of, search_key
from src.scoring import ScoreInput
from src.search import children, search
from tests.generator.fake_pool import PROMPTS as POOL
from tests.generator.fake_pool import (
    FakeClient,
    hears,
    judge,
    made_pool,
    settings_for,
    verifier,
)
from tests.generator.fake_search import RATE, FakeGenerator, FakeVerifier
from tests.generator.random_models import condition, random_lm

PROMPTS = [Prompt(id=name, text=f"a {name}", key=name) for name in ("waltz", "jig", "reel")]
PARAMETERS = {"beam_width": 2, "lookahead_k": 1}


def plan_of(method: str, candidates: int = 4, duration: float = 1.0, step: float = 0.4) -> Plan:
    return METHODS[method].make_plan(candidates, duration, step, RATE, PARAMETERS)


def row(text: str, name: str) -> list[str]:
    """A row's cells after its name."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"{name}  "))
    return line[len(name) :].replace(",", "").split()


class CountingGenerator(FakeGenerator):
    """frames_rendered: over all clips."""

    frames_rendered = 0

    def render(self, tokens: torch.Tensor) -> list[Clip]:
        self.frames_rendered += tokens.shape[0] * tokens.shape[-1]
        return super().render(tokens)


class CountingVerifier(FakeVerifier):
    """frames_heard: over all clips; a deaf one scores by likelihood."""

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
def test_frames_clips_rendering_and_hearing_are_those_of_a_search(method: str, audio: bool) -> None:
    generator, verifier, plan = CountingGenerator(), CountingVerifier(audio), plan_of(method)
    results = search(plan, PROMPTS, generator, verifier, seed=1)
    work = work_of(plan, audio) * len(PROMPTS)
    assert work.prompts == len(PROMPTS)
    assert work.frames == sum(result.ledger.frames for result in results)
    assert work.clips == sum(result.ledger.clips for result in results)
    assert work.heard == verifier.frames_heard
    assert work.rendered == generator.frames_rendered


def held(plan: Plan, spread: bool) -> float:
    """The most positions a candidate that the decoder keeps. spread: the parents kept are of as
    many families as there are, so that no ancestors come to be shared; else they are random."""
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
            best = one_each if spread else torch.randperm(plan.candidates).tolist()
            parents = children(best[: plan.kept], plan.beam_width)
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


@pytest.mark.parametrize(
    ("method", "seconds", "measured"),
    [
        *(("best_of_n", 10, 503), ("sbs", 5, 154), ("sbs", 10, 204)),
        *(("lookahead", 5, 254), ("lookahead", 10, 304)),
    ],
)
def test_positions_are_those_measured_for_the_documentation(
    method: str, seconds: int, measured: int
) -> None:
    parameters = {"beam_width": 4, "lookahead_k": 1}
    plan = METHODS[method].make_plan(16, seconds, 2, RATE, parameters)
    assert round(plan.positions(lag=3)) == measured


def test_skipped_frames_take_the_memory_of_decoded_ones_and_decoding_goes_on_from_there() -> None:
    lm = random_lm()
    begun = [Decoder(lm).begin([condition(lm, "x")], 4, 40, ["k"], 1) for _ in range(2)]
    begun[0].skip(20)
    begun[1].advance(20)
    for decoding in begun:
        decoding.select(children([0, 1], 2))
        decoding.advance(10)
    assert begun[0].finished == begun[1].finished == 30
    assert begun[0].nbytes == begun[1].nbytes
    assert begun[0].tokens().shape == begun[1].tokens().shape
    assert begun[0].tokens()[..., -7:].max() < lm.card


def searched(folder: Path, prompts: Sequence[Prompt], most: int, method: str) -> FakeGenerator:
    """Search prompts that are not done in a run, as a benchmark does."""
    generator = FakeGenerator()
    parts = Parts(generator, FakeVerifier(), ())  # type: ignore[arg-type]
    with Run(folder, "run", {"script": "benchmark"}, {}) as run:
        asked = [(search_key(method), plan_of(method), 1)]
        search_what_is_left(run, asked, prompts, parts, most, "none")
    return generator


@pytest.mark.parametrize("method", METHODS)
def test_what_is_left_of_a_run_is_what_the_same_command_then_does(
    method: str, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path, "run", {"script": "benchmark"})
    assert finished(folder) == set()
    searched(tmp_path, PROMPTS[:1], 8, method)
    plan = plan_of(method)
    job = search_job(method, [search_key(method)], plan, PROMPTS, finished(folder), 8, audio=True)
    assert job.left == 2
    generator = searched(tmp_path, PROMPTS, 8, method)
    # groups are searched whole, with those of their prompts that are done
    again = sum(len(keys) for keys, *_ in generator.begun)
    assert job.work == work_of(plan, True) * again
    done = finished(folder)
    job = search_job(method, [search_key(method)], plan, PROMPTS, done, 8, audio=True)
    assert (job.left, job.work) == (0, Work())


def test_candidates_beyond_the_most_are_held_at_once_only_where_they_are_pruned() -> None:
    def rows(method: str, most: int) -> int:
        plan = plan_of(method, candidates=8)
        return search_job(method, [search_key(method)], plan, PROMPTS, (), most, True).rows

    assert (rows("best_of_n", 64), rows("sbs", 64), rows("baseline", 64)) == (24, 24, 3)
    assert (rows("best_of_n", 16), rows("sbs", 16)) == (16, 16)
    assert (rows("best_of_n", 4), rows("sbs", 4)) == (4, 8)


def test_what_a_pools_scorers_have_left_is_what_they_then_hear(tmp_path: Path) -> None:
    scorers, client = [verifier("tags"), judge("far")], FakeClient(lives=4)
    settings = settings_for(tmp_path)
    with made_pool(tmp_path) as run, pytest.raises(ServerUnreachable):
        hears(run, scorers, client)  # one prompt is scored whole, the next in part
    jobs = scoring_jobs(settings, POOL, scorers, run.folder, RATE)
    assert [job.name for job in jobs] == ["scores by tags", "scores by far"]
    assert [job.left for job in jobs] == [2, 2]
    client = FakeClient()
    with made_pool(tmp_path) as run:
        hears(run, scorers, client)
    of_tags, of_far = (job.work for job in jobs)
    assert of_tags.heard == of_tags.rendered == 4 * sum(frames for *_, frames in client.asked)
    assert of_tags.clips == 4 * len(client.asked)
    assert (of_far.judged, of_far.clips, of_far.rendered) == (8, 8, 0)
    after = scoring_jobs(settings, POOL, scorers, run.folder, RATE)
    assert [(job.left, job.work) for job in after] == [(0, Work())] * 2


def test_seconds_and_bytes_are_written_in_units_that_can_be_read() -> None:
    texts = [as_time(x) for x in (0.524, 42, 150, 720, 12_240)]
    assert texts == ["0.52 s", "42.0 s", "2.5 min", "12 min", "3.4 h"]
    assert [as_size(x) for x in (5.2e5, 3.9e7, 1.2e9)] == ["0.52 MB", "39.0 MB", "1.2 GB"]


def test_the_estimate_adds_up() -> None:
    job = Job("one", 2, Work(frames=10, clips=3), 4, Work(judged=2), files=100)
    rates = Rates(frames=0.5, judged=1.0, record_bytes=10)
    assert rates.seconds(job.work) == 4 * 10 * 0.5 + 2
    assert job.disk(rates) == 2 * (100 + 3 * 10)
    text = dry_run.estimate("title", [(Path("runs"), 0)], [(job, rates), (job, rates)], None)
    assert row(text, "in all") == ["4", "80", "24", "44.0", "s", "-", "0.00", "MB"]
