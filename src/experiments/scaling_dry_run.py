"""What verifier_experiment.py will cost: a pool's candidates and scores, and searches."""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

from src.budget import Plan
from src.client import ServerClient
from src.data.prompts import Prompt
from src.experiments.degraded import degraded
from src.experiments.dry_run import Row, Trial, report, search_row, seconds_of
from src.experiments.pool_embedding import Hearing
from src.experiments.pool_outcome import Outcome, Scorer
from src.experiments.references import Reference
from src.experiments.scaling import (
    models_of,
    open_pool,
    open_sweep,
    parts_of,
    scorers_of,
    set_judges_of,
)
from src.experiments.scaling_settings import ExperimentSettings
from src.experiments.searching import own_prompts
from src.experiments.validity import (
    CLIPS,
    HALVED,
    VALIDITY_PROMPTS,
    Examination,
    examinable,
    log_probs,
)
from src.generator import Generator
from src.judges.base import SetJudge
from src.runs.build import Parts, assemble
from src.runs.measures import Measure
from src.runs.pool import WHOLE
from src.runs.records import CANDIDATES, scores_key, search_key
from src.runs.run import Run
from src.scoring import LIKELIHOODS, PERPLEXITY, known
from src.verifier import build_verifier

NUMBER_BYTES = 11  # of a pool's records, with its comma


def estimate(settings: ExperimentSettings, prompts: Sequence[Prompt]) -> str:
    """What is left of the pool and of the searches, and what it will cost."""
    runs, rows = [], []
    with ExitStack() as stack:
        models = models_of(settings, prompts, stack)
        generator, renderer, client = models.generator, models.renderer, models.client
        trial = Trial(renderer, prompts, round(settings.duration * renderer.frame_rate))
        if settings.candidates:
            runs.append(open_pool(settings, prompts, generator))
            if generator is not None and settings.pool is None:
                parts = assemble(settings, PERPLEXITY, (), models)
                rows.append(candidates_row(settings, runs[0], parts, trial))
            own = prompts
            if generator is not None:
                own = own_prompts(
                    runs[0], prompts, settings.pool_plan(generator.frame_rate), generator
                )
            scorers = scorers_of(settings, renderer, client)
            rows += score_rows(settings, scorers, runs[0], own, client, trial)
            networks = set_judges_of(settings, models.device)
            rows += hearing_rows(settings, networks, runs[0], own, trial)
            if settings.validity and generator is not None:
                rows += validity_rows(settings, scorers, runs[0], generator, client, trial)
        for selector in settings.selecting if settings.cells()[0] else ():
            parts = parts_of(settings, selector, models)
            runs.append(open_sweep(settings, prompts, parts))
            rows += sweep_rows(settings, runs[-1], parts, trial)
    return report(runs, rows)


def candidates_row(settings: ExperimentSettings, run: Run, parts: Parts, trial: Trial) -> Row:
    plan = settings.pool_plan(parts.generator.frame_rate)
    own = own_prompts(run, trial.prompts, plan, parts.generator)
    todo = {p.id for p in own if not run.is_done(CANDIDATES, p.id)}
    row = search_row(f"pool of {plan.candidates}", plan, [todo], parts, trial)
    row.clips = 0
    row.disk = 2 * row.left * plan.candidates * plan.frames * parts.generator.codec.num_codebooks
    return row


def score_rows(
    settings: ExperimentSettings,
    scorers: Sequence[Scorer],
    run: Run,
    prompts: Sequence[Prompt],
    client: ServerClient | None,
    trial: Trial,
) -> list[Row]:
    """Of each verifier and judge what it has not scored yet. Clips are rendered for the first that
    hears them, and heard for the first judge of a network."""
    rows = []
    rendered: set[Hashable] = set()
    known: set[Hashable] = set()  # the networks that hear a prompt's clips for a row above
    for scorer in scorers:
        row = Row(f"scores by {scorer.name}")
        heard = new = anew = 0.0  # whole clips
        network = getattr(scorer.judge, "listener", scorer.name)
        for prompt in prompts:
            outcome = Outcome(scorer, prompt, run.latest(scores_key(scorer.name), prompt.id))
            keys = [key for key in outcome.keys if outcome.wants(key)] if outcome.is_lacking else []
            row.left += outcome.is_lacking
            row.clips += len(keys) * settings.candidates
            for key in keys:
                clips = 1.0 if key == WHOLE else float(key) / settings.duration
                heard += clips * settings.candidates
                new += clips * settings.candidates * ((prompt.id, key) not in rendered)
                anew += clips * settings.candidates * ((network, prompt.id) not in known)
            rendered |= {(prompt.id, key) for key in keys}
            known |= {(network, prompt.id) for _ in keys}
        if row.clips:
            if scorer.judge is not None:
                row.seconds = anew * trial.judging([scorer.judge])
                row.seconds += (heard - anew) * trial.judging([scorer.judge], again=True)
            else:
                verifier = build_verifier(scorer.name, scorer.checkpoint, client)
                row.seconds = heard * trial.scoring(verifier)
            row.seconds += new * trial.rendering
            row.disk = row.clips * NUMBER_BYTES
        rows.append(row)
    return rows


def hearing_rows(
    settings: ExperimentSettings,
    networks: Mapping[str, SetJudge],
    run: Run,
    prompts: Sequence[Prompt],
    trial: Trial,
) -> list[Row]:
    """Of each network of judges of sets what it has not heard yet; clips are rendered for it."""
    rows = []
    for name, judge in networks.items():
        left = sum(Hearing(name, judge, prompt).is_lacking(run.folder) for prompt in prompts)
        row = Row(f"hearing by {judge.name}", left, clips=left * settings.candidates)
        if row.clips:
            row.seconds = row.clips * (trial.judging([judge]) + trial.rendering)
        rows.append(row)
    return rows


def validity_rows(
    settings: ExperimentSettings,
    scorers: Sequence[Scorer],
    run: Run,
    generator: Generator,
    client: ServerClient | None,
    trial: Trial,
) -> list[Row]:
    """What each measure has yet to say of references; left: of so many. `clips` are its numbers of
    a clip under a prompt. What several share, rendering and reading, counts for the first."""
    own = [Measure(name, "verifier") for name in known(settings.guidance)]
    scorers = examinable(scorers) + [Scorer(measure, generator.checkpoint) for measure in own]
    clip = trial.clips[0]
    usable = [p for p in trial.prompts if p.is_referenced][:VALIDITY_PROMPTS]
    references = [Reference(prompt, prompt, clip, clip) for prompt in usable]
    if len(references) < 2:
        return []
    examination = Examination(run, references, scorers, generator, client)
    every, worse = len(references), len(degraded(clip, trial.renderer))
    clips, whole = (min(most, settings.candidates) for most in (CLIPS, HALVED))
    rows: list[Row] = []
    had: dict[Hashable, int] = defaultdict(int)

    def anew(row: Row, what: Hashable) -> int:
        """For how many references a row is the first for which this is done."""
        first, had[what] = max(0, row.left - had[what]), max(row.left, had[what])
        return first

    for scorer in scorers:
        row = Row(f"validity of {scorer.name}")
        row.left = sum(examination.lacks(reference, scorer) for reference in references)
        numbers, once = every + worse + 2 * whole, 1 + worse + whole  # two halves, one clip
        if not row.left:
            numbers = 0
        elif scorer.judge is not None:
            numbers, once = numbers + clips * every, once + clips
            row.seconds = row.left * numbers * trial.judging([scorer.judge], again=True)
            row.seconds += anew(row, scorer.judge.listener) * once * trial.judging([scorer.judge])
        elif scorer.name in LIKELIHOODS:
            texts = [trial.prompts[0].text] * len(trial.tokens)
            if first := anew(row, LIKELIHOODS):  # half as long with other texts: without guidance
                work = partial(log_probs, generator, trial.tokens, texts)
                row.seconds = first * (every / 2 + once) * seconds_of(work) / len(texts)
        else:
            numbers -= 0 if scorer.name in examination.reading else every - 1
            verifier = build_verifier(scorer.name, scorer.checkpoint, client)
            row.seconds = row.left * (numbers - whole) * trial.scoring(verifier)
        row.seconds += anew(row, "clips") * clips * trial.rendering
        row.clips = row.left * numbers
        row.disk = row.clips * NUMBER_BYTES
        rows.append(row)
    return rows


def sweep_rows(settings: ExperimentSettings, run: Run, parts: Parts, trial: Trial) -> list[Row]:
    """One verifier's searches, a row for each cell; seeds are put together."""
    cells: dict[str, tuple[Plan, list[set[str]]]] = {}
    for cell in settings.cells()[0]:
        plan = cell.plan(settings.duration, settings.step_size, parts.generator.frame_rate)
        several = cell.step_size is not None and len(settings.step_sizes or ()) > 1
        step = f" step {cell.step_size:g} s" if several else ""
        key = search_key(cell.method, cell)
        _, todo = cells.setdefault(f"{cell.name}{step}, {parts.verifier.name}", (plan, []))
        own = own_prompts(run, trial.prompts, plan, parts.generator)
        todo.append({p.id for p in own if not run.is_done(key, p.id)})
    return [search_row(name, *of_cell, parts, trial) for name, of_cell in cells.items()]
