"""What benchmark.py does once nothing is missing: search with every method, judge, report."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from src.data.prompts import Prompt
from src.experiments import dry_run
from src.experiments.searching import search_what_is_left
from src.experiments.settings import BenchmarkSettings
from src.reports import benchmark as reports
from src.reports.table import listing
from src.runs.build import Parts, build, checkpoints_of, identity, where
from src.runs.ending import Ending, Exit
from src.runs.evaluation import judge_again, measures, unread_captions
from src.runs.records import Run, folder_of, search_key


def run(settings: BenchmarkSettings, prompts: Sequence[Prompt], end: Ending) -> tuple[str, Exit]:
    """Do what is left of a run. Returns its report, and the exit code."""
    with ExitStack() as stack:
        parts = build(settings, settings.verifier, settings.judges or (), stack)
        if settings.dry_run:
            return estimate_run(settings, prompts, parts), Exit.DONE
        opened = stack.enter_context(open_run(settings, prompts, parts))
        total = len(settings.method) * len(prompts)
        end.kept = lambda: (
            f"{opened.done} of {total} searches are finished and kept in {opened.folder}"
        )
        judge_again(opened, prompts, parts.judges)
        search_methods(settings, prompts, opened, parts)
        text, failed = reports.report(opened.folder)
    return f"{text}\n\n{listing(opened.folder)}", Exit.PROMPTS_FAILED if failed else Exit.DONE


def title_of(settings: BenchmarkSettings, prompts: Sequence[Prompt]) -> str:
    return settings.title(
        prompts,
        f"selector {settings.verifier}; N = {settings.candidates}"
        f"{settings.parameters_in_words()}, step {settings.step_size:g} s, seed {settings.seed}",
    )


def place(
    settings: BenchmarkSettings, prompts: Sequence[Prompt], parts: Parts
) -> tuple[Path, str, dict[str, Any]]:
    """Where the run's folder is made, what its name begins with, and all that decides the results,
    whose hash ends the name."""
    return (
        settings.output,
        f"benchmark-{settings.profile}-{settings.verifier}-n{settings.candidates}",
        identity(
            "benchmark",
            {"settings": settings.decisive() | where(parts.generator)},
            prompts,
            checkpoints_of(parts),
        ),
    )


def open_run(settings: BenchmarkSettings, prompts: Sequence[Prompt], parts: Parts) -> Run:
    """The run's folder, new or begun before. Raises RunFolderError."""
    return Run(
        *place(settings, prompts, parts),
        {
            "title": title_of(settings, prompts),
            "measures": [m.as_record() for m in measures(parts.verifier, parts.judges)],
            "unread": unread_captions(prompts, parts.verifier, parts.judges, parts.client),
        },
        {"max_rows": parts.generator.max_rows},
    )


def estimate_run(settings: BenchmarkSettings, prompts: Sequence[Prompt], parts: Parts) -> str:
    """What is left of the run, and what it will cost."""
    folder = folder_of(*place(settings, prompts, parts))
    done = dry_run.finished(folder)
    jobs = [
        dry_run.search_job(
            name,
            *([search_key(name)], plan, prompts, done, dry_run.max_rows(settings)),
            audio=parts.verifier.needs_audio,
            judged=bool(parts.judges),
            files=dry_run.audio_bytes(parts.generator, plan, settings.save_audio),
        )
        for name, plan in zip(
            settings.method, settings.plans(parts.generator.frame_rate), strict=True
        )
    ]
    priced = dry_run.priced(jobs, parts, prompts, settings)
    title = title_of(settings, prompts)
    return dry_run.estimate(title, [(folder, len(done))], priced, parts.generator)


def search_methods(
    settings: BenchmarkSettings, prompts: Sequence[Prompt], run: Run, parts: Parts
) -> None:
    """Every method on every prompt that is not done."""
    rate = parts.generator.frame_rate
    searches = [
        (search_key(name), plan, settings.seed)
        for name, plan in zip(settings.method, settings.plans(rate), strict=True)
    ]
    search_what_is_left(run, searches, prompts, parts, settings.save_audio)
