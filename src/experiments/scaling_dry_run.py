"""What verifier_experiment.py will cost: its pool's candidates and scores, and its searches."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from src.budget import Plan
from src.client import ServerClient
from src.data.prompts import Prompt
from src.experiments import dry_run
from src.experiments.dry_run import Job, Priced
from src.experiments.pool_scoring import Outcome, Scorer
from src.experiments.rates import Known, PastRun, Rates, Work, past_runs, score_rates, search_rates
from src.experiments.scaling import (
    load_models,
    place_of_pool,
    place_of_sweep,
    scorers_of,
    title_of_pool,
)
from src.experiments.scaling_settings import ExperimentSettings
from src.experiments.trial import SECONDS, SOURCE, Trial, asking_server
from src.generator import Generator, Renderer
from src.methods import BEST_OF_N, METHODS
from src.runs.build import Parts, assemble
from src.runs.pool import WHOLE
from src.runs.records import CANDIDATES, folder_of, key_of, read_records, scores_key, search_key

NUMBER_BYTES = 11  # of a float32 in a pool's records, with its comma
POOL_NOTE = (
    "A pool's rows: each verifier's time is what it would take alone, with rendering and sending; "
    "those that are asked together share them."
)
Place = tuple[Path, int]  # a folder, and how much of it is finished


def estimate_run(settings: ExperimentSettings, prompts: Sequence[Prompt]) -> str:
    """What is left of the pool and of the searches, and what it will cost."""
    work: list[Priced] = []
    places: list[Place] = []
    cells, _ = settings.cells()
    with ExitStack() as stack:
        generator, renderer, client = load_models(settings, stack)
        if settings.candidates:
            place, work = of_pool(settings, prompts, generator, renderer, client)
            places.append(place)
        for selector in settings.selecting if cells else ():
            assert generator is not None
            judges = [name for name in settings.judges or () if name != selector]
            parts = assemble(settings, selector, judges, generator, client)
            place, searches = of_sweep(settings, prompts, parts)
            places.append(place)
            work += searches
        notes = [POOL_NOTE] if settings.candidates else []
        title = (
            title_of_pool(settings, prompts)
            if settings.candidates
            else settings.title(prompts, "tree searches")
        )
        return dry_run.estimate(title, places, work, generator, notes)


def of_sweep(
    settings: ExperimentSettings, prompts: Sequence[Prompt], parts: Parts
) -> tuple[Place, list[Priced]]:
    """One verifier's searches, a row for each cell; its seeds are put together."""
    folder = folder_of(*place_of_sweep(settings, prompts, parts))
    done = dry_run.finished(folder)
    cells: dict[str, tuple[Plan, list[dict[str, object]]]] = {}
    for cell in settings.cells()[0]:
        plan = cell.plan(settings.duration, settings.step_size, parts.generator.frame_rate)
        several = cell.step_size is not None and len(settings.step_sizes or ()) > 1
        step = f" step {cell.step_size:g} s" if several else ""
        selector = f", {parts.verifier.name}" if len(settings.selecting) > 1 else ""
        _, keys = cells.setdefault(f"{cell.name}{step}{selector}", (plan, []))
        keys.append(search_key(cell.method, cell))
    audio, most_rows = parts.verifier.needs_audio, dry_run.max_rows(settings)
    judged = bool(parts.judges)
    jobs = [
        dry_run.search_job(name, keys, plan, prompts, done, most_rows, audio, judged)
        for name, (plan, keys) in cells.items()
    ]
    return (folder, len(done)), dry_run.priced(jobs, parts, prompts, settings)


def of_pool(
    settings: ExperimentSettings,
    prompts: Sequence[Prompt],
    generator: Generator | None,
    renderer: Renderer,
    client: ServerClient | None,
) -> tuple[Place, list[Priced]]:
    """The pool's candidates, and its scores by every verifier and judge."""
    if settings.pool is not None:
        folder = settings.pool
    else:
        assert generator is not None
        folder = folder_of(*place_of_pool(settings, prompts, generator))
    own = [PastRun(folder)] if settings.pool else []
    runs = [*past_runs(settings.output), *own]
    known = known_of(settings, generator, renderer)
    trial = Trial(prompts, SECONDS / 5)
    work = []
    if settings.pool is None and generator is not None:
        job = candidates_job(settings, prompts, generator, dry_run.finished(folder))
        work.append((job, candidates_rates(job, generator, runs, known, trial)))
    scorers = scorers_of(settings, renderer, client)
    jobs = scoring_jobs(settings, prompts, scorers, folder, renderer.frame_rate)
    frames = round(settings.duration * renderer.frame_rate)
    work += scored(
        list(zip(jobs, scorers, strict=True)), frames, renderer, client, runs, known, trial
    )
    return (folder, len(dry_run.finished(folder))), work


def known_of(
    settings: ExperimentSettings, generator: Generator | None, renderer: Renderer
) -> Known:
    """What an earlier run must share to tell how fast a pool is made. Where nothing is generated
    the dtype is that of the pool at hand or any."""
    dtype = generator.dtype if generator else settings.dtype
    usual = "float16" if renderer.device == "cuda" else "float32"
    return Known(
        {"generator": renderer.checkpoint},
        renderer.device,
        dtype or usual,
        guided=settings.guidance != 1,
        frame_rate=renderer.frame_rate,
    )


def candidates_job(
    settings: ExperimentSettings,
    prompts: Sequence[Prompt],
    generator: Generator,
    done: set[object],
) -> Job:
    plan = METHODS[BEST_OF_N].make_plan(
        settings.candidates, settings.duration, settings.step_size, generator.frame_rate, {}
    )
    job = dry_run.search_job(
        f"pool of {settings.candidates}",
        *([CANDIDATES], plan, prompts, done, dry_run.max_rows(settings)),
        audio=False,
    )
    halves = 2 if generator.decoder.guided else 1  # log-probabilities, at every prefix and whole
    numbers = halves * settings.candidates * (1 + len(settings.prefix_seconds))
    tokens = dry_run.token_bytes(plan.candidates, generator.codec.num_codebooks, plan.frames)
    one = Work(prompts=1, frames=plan.expected().frames)
    return replace(job, one=one, files=tokens + numbers * NUMBER_BYTES)


def candidates_rates(
    job: Job, generator: Generator, runs: Sequence[PastRun], known: Known, trial: Trial
) -> Rates:
    assert job.plan is not None
    if not job.left:
        return Rates()
    before = search_rates(job.plan, job.rows, False, runs, known)
    return before or Rates(
        prompts=trial.conditions(generator),
        frames=trial.decoding(generator, [(job.plan, job.rows)])(job.plan, job.rows),
        source=SOURCE,
    )


def scoring_jobs(
    settings: ExperimentSettings,
    prompts: Sequence[Prompt],
    scorers: Sequence[Scorer],
    folder: Path,
    frame_rate: float,
) -> list[Job]:
    """A row for each verifier and judge: what it has not scored yet."""
    records = read_records(folder)
    jobs = []
    for scorer in scorers:
        outcomes = [
            Outcome(scorer, prompt, records.get(key_of(scores_key(scorer.name), prompt.id)))
            for prompt in prompts
        ]
        lacking = [outcome for outcome in outcomes if outcome.is_lacking]
        keys = [key for outcome in lacking for key in outcome.keys if outcome.wants(key)]
        lengths = [settings.duration if key == WHOLE else float(key) for key in keys]
        clips = len(keys) * settings.candidates
        heard = round(sum(lengths) * frame_rate) * settings.candidates
        if scorer.judge is None:
            work = Work(clips=clips, rendered=heard, heard=heard)
        else:  # the clips are rendered for the verifiers, where there are any
            alone = all(other.judge is not None for other in scorers)
            work = Work(clips=clips, rendered=heard * alone, judged=clips)
        files = clips * NUMBER_BYTES // max(1, len(lacking))
        name = f"scores by {scorer.name}"
        jobs.append(Job(name, len(lacking), Work(), 0, extra=work, files=files))
    return jobs


def scored(
    jobs: Sequence[tuple[Job, Scorer]],
    frames: int,
    renderer: Renderer,
    client: ServerClient | None,
    runs: Sequence[PastRun],
    known: Known,
    trial: Trial,
) -> list[Priced]:
    """With their rates: of earlier pools, or else measured now on clips of so many frames."""
    work: list[Priced] = []
    rendered = None
    for job, scorer in jobs:
        rates = score_rates(scorer.name, scorer.checkpoint, runs, known) if job.left else Rates()
        if rates is None:
            rendered = rendered or trial.rendering(renderer, frames)
            a_frame, clips = rendered
            rates = Rates(rendered=a_frame, source=SOURCE)
            if scorer.judge is not None:
                rates = replace(rates, judged=trial.judging([scorer.judge], clips, len(clips)))
            else:
                assert client is not None
                a_clip = trial.scoring(asking_server(client, scorer.name), clips, scorer.name)
                rates = replace(rates, heard=a_clip / frames)
        work.append((job, rates))
    return work
