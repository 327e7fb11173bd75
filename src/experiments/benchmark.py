"""What benchmark.py does once nothing is missing: search with every method, judge, report."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from src.cluster.driver import open_models
from src.data.prompts import Prompt
from src.experiments import dry_run
from src.experiments.searching import own_prompts, search_what_is_left
from src.experiments.settings import BenchmarkSettings
from src.experiments.sharding import refuse_uneven_groups, summary
from src.judges.registry import served
from src.reports import benchmark as reports
from src.reports.table import listing
from src.runs.build import (
    Models,
    Parts,
    assemble,
    caveats,
    checkpoints_of,
    identity,
    where,
)
from src.runs.continuing import refuse_other_model
from src.runs.critic import CriticVerifier, load_critic
from src.runs.ending import Ending, Exit
from src.runs.evaluation import judge_again, measures, unread_captions
from src.runs.records import search_key
from src.runs.run import Run
from src.runs.settings import MUSICGEN_FRAME_RATE
from src.runs.work import Workers
from src.scoring import components, remote_parts


def run(settings: BenchmarkSettings, prompts: Sequence[Prompt], end: Ending) -> tuple[str, Exit]:
    """Do what is left of a run. Returns its report, and the exit code."""
    settings.plans(MUSICGEN_FRAME_RATE, prompts[0].given_frames)
    remote = [*remote_parts(components(settings.verifier)), *served(settings.judges or ())]
    with ExitStack() as stack:
        models = open_models(settings, remote, [prompt.text for prompt in prompts], stack)
        refuse_uneven_groups(settings, models.device)
        parts = parts_of(settings, models)
        if settings.continue_from is not None:
            refuse_other_model(settings.continue_from, parts.generator.checkpoint)
        opened = stack.enter_context(open_run(settings, prompts, parts, models.here))
        if settings.dry_run:
            return estimate(settings, prompts, opened, parts), Exit.DONE
        plans = settings.plans(parts.generator.frame_rate, prompts[0].given_frames)
        own = [own_prompts(opened, prompts, plan, parts.generator) for plan in plans]
        total = sum(map(len, own))
        end.kept = lambda: (
            f"{opened.done} of {total} searches are finished and kept in {opened.folder}"
        )
        workers = models.workers(partial(parts_of, settings), parts)
        judge_again(opened, prompts, parts.judges, workers)
        search_methods(settings, prompts, opened, parts, workers)
        if not models.in_order:
            opened.put_in_order(prompts)
        if opened.shard:
            return summary([opened.folder])
        text, failed = reports.report(opened.folder)
    return f"{text}\n\n{listing(opened.folder)}", Exit.PROMPTS_FAILED if failed else Exit.DONE


def parts_of(settings: BenchmarkSettings, models: Models) -> Parts:
    """The parts of the run's searches."""
    parts = assemble(settings, settings.verifier, settings.judges or (), models)
    if not settings.value:
        return parts
    critic = load_critic(settings.value)
    value = CriticVerifier(critic, parts.verifier, parts.generator.checkpoint)
    return replace(parts, value=value)


def open_run(
    settings: BenchmarkSettings,
    prompts: Sequence[Prompt],
    parts: Parts,
    here: Mapping[str, Any] | None = None,
) -> Run:
    """The run's folder; its name carries a hash of all that decides the results. here: what this
    start adds to the manifest."""
    title = settings.title(
        prompts,
        f"selector {settings.verifier}{' with a critic' if settings.value else ''}; "
        f"N = {settings.candidates}"
        f"{settings.parameters_in_words()}, step {settings.step_size:g} s, seed {settings.seed}"
        + (f"; goes on from {settings.continue_from}" if settings.continue_from else ""),
    )
    return Run(
        settings.output,
        f"benchmark-{settings.profile}-{settings.verifier}-n{settings.candidates}",
        identity(
            "benchmark",
            {"settings": settings.decisive() | where(parts.generator, settings.duration)},
            prompts,
            checkpoints_of(parts),
        ),
        {
            "title": title,
            "caveats": caveats(settings, parts.generator, prompts),
            "measures": [m.as_record() for m in measures(parts.verifier, parts.judges)],
            "unread": unread_captions(prompts, parts.verifier, parts.judges, parts.client),
        },
        {"asked": [search_key(name) for name in settings.method], **(here or {})},
        dry=settings.dry_run,
        shard=settings.part,
        prompts=prompts,
    )


def estimate(settings: BenchmarkSettings, prompts: Sequence[Prompt], run: Run, parts: Parts) -> str:
    """What is left of the run, and what it will cost."""
    plans = settings.plans(parts.generator.frame_rate, prompts[0].given_frames)
    trial = dry_run.Trial(parts.generator, prompts, plans[0].length)
    rows = []
    for name, plan in zip(settings.method, plans, strict=True):
        own = own_prompts(run, prompts, plan, parts.generator)
        todo = [{p.id for p in own if not run.is_done(search_key(name), p.id)}]
        rows.append(dry_run.search_row(name, plan, todo, parts, trial, settings.save_audio))
    return dry_run.report([run], rows)


def search_methods(
    settings: BenchmarkSettings,
    prompts: Sequence[Prompt],
    run: Run,
    parts: Parts,
    workers: Workers | None = None,
) -> None:
    """Every method on every prompt that is not done."""
    plans = settings.plans(parts.generator.frame_rate, prompts[0].given_frames)
    searches = [
        (search_key(name), plan, settings.seed)
        for name, plan in zip(settings.method, plans, strict=True)
    ]
    search_what_is_left(run, searches, prompts, parts, settings.save_audio, workers)
