"""What a run will cost is known before it is begun: frames and clips exactly, seconds about."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import benchmark
import latency_experiment
import verifier_experiment
from src.budget import STAGES, Plan
from src.data.audio import Clip
from src.data.prompts import Prompt
from src.decoding.decoder import Decoder
from src.experiments import calibration, dry_run
from src.experiments.dry_run import Job, as_size, as_time, finished, search_job
from src.experiments.rates import Known, Rates, Work, here, past_runs, search_rates, work_of
from src.experiments.searching import search_what_is_left
from src.experiments.settings import BenchmarkSettings
from src.experiments.trial import SOURCE, Trial
from src.methods import METHODS
from src.protocol import Checkpoint, Score
from src.runs.build import Parts
from src.runs.ending import Exit
from src.runs.records import Run, folder_of, read_records, search_key
from src.runs.settings import parse
from src.scoring import ScoreInput
from src.search import children, search
from tests.generator.fake_search import RATE, FakeGenerator, FakeVerifier
from tests.generator.random_models import condition, random_lm

PROMPTS = [Prompt(id=name, text=f"a {name}", key=name) for name in ("waltz", "jig", "reel")]
PARAMETERS = {"beam_width": 2, "lookahead_k": 1}


def plan_of(method: str, candidates: int = 4, duration: float = 1.0, step: float = 0.4) -> Plan:
    return METHODS[method].make_plan(candidates, duration, step, RATE, PARAMETERS)


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
    lm = random_lm(dim=16, layers=1, heads=1)
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


def test_seconds_and_bytes_are_written_in_units_that_can_be_read() -> None:
    texts = [as_time(x) for x in (0.524, 42, 150, 720, 12_240)]
    assert texts == ["0.52 s", "42.0 s", "2.5 min", "12 min", "3.4 h"]
    assert [as_size(x) for x in (5.2e5, 3.9e7, 1.2e9)] == ["0.52 MB", "39.0 MB", "1.2 GB"]


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


# --- the scripts, with the built-in model ---

TINY = (
    *("--profile", "builtin", "--num_samples", "3", "--duration", "1", "--step_size", "0.4"),
    *("--log_level", "warning"),
)
SEARCHES = (
    *("--method", *METHODS, "--candidates", "4", "--beam_width", "2", "--max_rows", "8"),
    *("--judges", "none"),
)


def row(text: str, name: str) -> list[str]:
    """A row's cells after its name."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"{name}  "))
    return line[len(name) :].replace(",", "").split()


def test_a_dry_run_of_a_benchmark_is_exact_before_it_is_begun_and_after_a_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = (*TINY, *SEARCHES, "--output", str(tmp_path / "runs"))
    assert benchmark.main([*ask, "--dry_run"]) == Exit.DONE
    text = capsys.readouterr().out
    assert not (tmp_path / "runs").exists()
    assert f"Rates: {SOURCE}." in text
    assert "not begun" in text
    for method in METHODS:
        cost = plan_of(method).expected()
        assert row(text, method)[:3] == ["3", str(3 * cost.frames), str(3 * cost.clips)]

    assert benchmark.main(ask) == Exit.DONE
    (folder,) = (tmp_path / "runs").iterdir()
    capsys.readouterr()
    before = sorted(path.stat().st_mtime_ns for path in folder.rglob("*"))
    assert benchmark.main([*ask, "--dry_run"]) == Exit.DONE
    text = capsys.readouterr().out
    assert f"{folder}: 12 finished, not counted" in text.replace("\n    ", " ")
    assert row(text, "in all")[:3] == ["0", "0", "0"]

    more = (*ask, "--num_samples", "4", "--dry_run")
    assert benchmark.main(more) == Exit.DONE
    text = capsys.readouterr().out
    assert f"Rates: {folder.name} of " in text
    assert row(text, "in all")[0] == "16"
    assert sorted(path.stat().st_mtime_ns for path in folder.rglob("*")) == before

    ledgers = [record["ledger"] for record in read_records(folder).values()]
    seconds = sum(sum(ledger["seconds"].values()) for ledger in ledgers)
    saved = sum(path.stat().st_size for path in folder.rglob("*.wav"))
    number, unit = row(text, "in all")[3:5]
    told = float(number) * {"s": 1, "min": 60}[unit]
    assert told == pytest.approx(seconds * 4 / 3, rel=0.05)
    disk = float(row(text, "in all")[7]) * 1e6
    assert saved * 4 / 3 < disk < saved * 4 / 3 + 2e5


@pytest.mark.parametrize(
    ("main", "args", "rows"),
    [
        (
            verifier_experiment.main,
            (
                *("--verifiers", "perplexity", "--judges", "msd_kld", "--budgets", "1", "4"),
                *("--method", "sbs", "--beam_widths", "2", "--seeds", "1", "2"),
            ),
            {
                "pool of 8": ["3", str(3 * 8 * 50), "0"],
                "scores by msd_kld": ["3", "0", "24"],
                "sbs N=4 M=2": ["6", str(6 * 4 * 50), str(6 * 12)],
            },
        ),
        (
            latency_experiment.main,
            ("--budgets", "4", "--repetitions", "2", "--method", "best_of_n", "sbs"),
            {
                # untimed: a search of the cell at first, later one of a step
                "best_of_n N=4": ["6", str(4 * (6 * 50 + 50 + 20)), str(4 * 8)],
                "sbs N=4 M=4": ["6", str(4 * (6 * 50 + 50 + 20)), str(4 * (6 * 3 + 3 + 1))],
            },
        ),
        (
            calibration.main,
            ("--verifiers", "perplexity", "pmi", "--candidates", "4"),
            {"pools": ["3", str(3 * 4 * 50), "12"]},
        ),
    ],
)
def test_dry_runs_of_the_other_scripts_write_nothing(
    main: Any,
    args: Sequence[str],
    rows: dict[str, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*TINY, *args, "--output", str(tmp_path / "runs"), "--dry_run"]) == Exit.DONE
    text = capsys.readouterr().out
    for name, cells in rows.items():
        assert row(text, name)[:3] == cells
    assert not (tmp_path / "runs").exists()


def test_what_is_missing_is_listed_for_a_dry_run_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ("--profile", "builtin", "--model", str(tmp_path), "--server", "http://127.0.0.1:9")
    assert benchmark.main([*ask, "--verifier", "tags", "--dry_run"]) == Exit.MISSING
    assert "Nothing was started" in capsys.readouterr().err


def test_a_dry_run_is_no_part_of_a_runs_identity() -> None:
    ask = ("--profile", "builtin")
    plain, dry = (parse(BenchmarkSettings, [*ask, *more]) for more in ((), ("--dry_run",)))
    assert dry.dry_run
    assert plain.decisive() == dry.decisive()


def test_the_estimate_adds_up() -> None:
    job = Job("one", 2, Work(frames=10, clips=3), 4, Work(judged=2), files=100)
    rates = Rates(frames=0.5, judged=1.0, record_bytes=10)
    assert rates.seconds(job.work) == 4 * 10 * 0.5 + 2
    assert job.disk(rates) == 2 * (100 + 3 * 10)
    text = dry_run.estimate("title", [(Path("runs"), 0)], [(job, rates), (job, rates)], None)
    assert row(text, "in all") == ["4", "80", "24", "44.0", "s", "-", "0.00", "MB"]
