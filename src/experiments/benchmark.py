"""What benchmark.py does once nothing is missing: search with every method, judge, report."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack

from src.data.progress import bar
from src.data.prompts import Prompt
from src.experiments.benchmark_settings import BenchmarkSettings
from src.experiments.searching import search_all
from src.methods import METHODS, parameters_of
from src.reports import benchmark as reports
from src.reports.table import listing
from src.runs.build import Parts, build, checkpoints_of, identity, where
from src.runs.ending import Ending, Exit
from src.runs.evaluation import finish, judge_again, measures, unread_captions
from src.runs.provenance import torch_machine
from src.runs.records import Run, search_key
from src.tree import Failure

log = logging.getLogger(__name__)


def run(settings: BenchmarkSettings, prompts: Sequence[Prompt], end: Ending) -> tuple[str, Exit]:
    """Do what is left of a run. Returns its report, and the exit code."""
    with ExitStack() as stack:
        parts = build(settings, settings.verifier, settings.judges or (), stack)
        opened = stack.enter_context(open_run(settings, prompts, parts))
        end.kept = lambda: kept(opened, len(settings.method) * len(prompts))
        judge_again(opened, prompts, parts.judges)
        search_methods(settings, prompts, opened, parts)
        text, failed = reports.report(opened.folder)
    return f"{text}\n\n{listing(opened.folder)}", Exit.PROMPTS_FAILED if failed else Exit.DONE


def kept(run: Run, total: int) -> str:
    """How much of a run is there already."""
    done = sum(record["status"] == "ok" for record in run.records)
    return f"{done} of {total} searches are finished and kept in {run.folder}"


def open_run(settings: BenchmarkSettings, prompts: Sequence[Prompt], parts: Parts) -> Run:
    """The run's folder; its name carries a hash of all that decides the results."""
    own = "".join(
        f", {p.letter} = {settings.parameters[p.name]:g}" for p in parameters_of(settings.method)
    )
    title = (
        f"{settings.model}, {len(prompts)} prompts, {settings.duration:g} s; selector "
        f"{settings.verifier}; N = {settings.candidates}{own}, step {settings.step_size:g} s, "
        f"seed {settings.seed}"
    )
    return Run(
        settings.output,
        f"benchmark-{settings.profile}-{settings.verifier}-n{settings.candidates}",
        identity(
            "benchmark",
            {"settings": settings.decisive() | where(parts.generator)},
            prompts,
            checkpoints_of(parts),
        ),
        {
            "title": title,
            "measures": [m.as_record() for m in measures(parts.verifier, parts.judges)],
            "unread": unread_captions(prompts, parts.verifier, parts.judges, parts.client),
        },
        {"max_rows": settings.max_rows, **torch_machine()},
    )


def search_methods(
    settings: BenchmarkSettings, prompts: Sequence[Prompt], run: Run, parts: Parts
) -> None:
    """Every method on every prompt that is not done."""
    total = len(settings.method) * len(prompts)
    done = sum(run.is_done(search_key(m), p.id) for m in settings.method for p in prompts)
    log.info("%s: %d of %d clips are finished", run.folder, done, total)
    with bar(settings.method[0], total, done, "clip") as progress:
        for name in settings.method:
            progress.set_description(name)
            plan = METHODS[name].make_plan(
                settings.candidates,
                settings.duration,
                settings.step_size,
                parts.generator.frame_rate,
                settings.parameters,
            )
            todo = {p.id for p in prompts if not run.is_done(search_key(name), p.id)}
            for result in search_all(
                *(plan, prompts, parts, settings.seed, settings.max_rows, todo),
                keep_leaves=settings.save_audio == "all",
            ):
                if isinstance(result, Failure):
                    record = result.as_record()
                else:
                    record = finish(result, parts.judges, run.folder, settings.save_audio)
                run.append(search_key(name) | record)
                progress.update()
