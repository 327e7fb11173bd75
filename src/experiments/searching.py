"""The loops that every experiment runs: plans' searches over prompts, group by group."""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from src.budget import Plan
from src.data.progress import bar
from src.data.prompts import Prompt
from src.decoding.device import OutOfMemory
from src.generator import Generator
from src.runs.build import Parts, unread_by
from src.runs.evaluation import finish
from src.runs.records import Run
from src.runs.settings import SaveAudio
from src.search import search
from src.tree.node import Failure

log = logging.getLogger(__name__)

T = TypeVar("T")


def groups(
    prompts: Sequence[Prompt], size: int, todo: Collection[str]
) -> Iterator[Sequence[Prompt]]:
    """So many prompts each, where one of them is to be done. todo: ids."""
    for at in range(0, len(prompts), size):
        group = prompts[at : at + size]
        if any(prompt.id in todo for prompt in group):
            yield group


def in_groups(
    work: Callable[[Sequence[Prompt]], T],
    prompts: Sequence[Prompt],
    candidates: int,
    generator: Generator,
    todo: Collection[str],
) -> Iterator[tuple[Sequence[Prompt], T]]:
    """Do what is left, with as many prompts side by side as `generator.max_rows` holds.

    todo: ids. Yields each group where something is left, and what `work` made of it. Groups are
    those of an unbroken run, whatever of them is done: equal shapes give equal tokens. Raises
    OutOfMemory, but where the generator chose the number of rows only when half are too many too.
    """
    at = 0
    while at < len(prompts):
        group = prompts[at : at + max(1, generator.max_rows // candidates)]
        if any(prompt.id in todo for prompt in group):
            try:
                made = work(group)
            except OutOfMemory as error:
                if not generator.halve_rows():
                    raise
                log.warning("%s. On with --max_rows %d", error, generator.max_rows)
                continue
            yield group, made
        at += len(group)


def search_what_is_left(
    run: Run,
    searches: Sequence[tuple[dict[str, Any], Plan, int]],
    prompts: Sequence[Prompt],
    parts: Parts,
    save_audio: SaveAudio = "none",
) -> int:
    """Every search on every prompt that is not done, judged and recorded. Returns how many failed.

    searches: of each its records' key (src/runs/records.py), its plan and its seed.
    Raises BudgetError, OutOfMemory, and VerifierError when the verifier is lost.
    """
    todo = [{p.id for p in prompts if not run.is_done(key, p.id)} for key, *_ in searches]
    total = len(searches) * len(prompts)
    done = total - sum(map(len, todo))
    failed = 0
    log.info("%s: %d of %d searches are finished", run.folder, done, total)
    with bar(parts.verifier.name, total, done, "search") as progress:
        for (key, plan, seed), left in zip(searches, todo, strict=True):
            progress.set_description(plan.method.name)
            work = partial(
                search,
                plan,
                generator=parts.generator,
                verifier=parts.verifier,
                seed=seed,
                keep_leaves=save_audio == "all",
                value=parts.value,
            )
            for _, results in in_groups(work, prompts, plan.candidates, parts.generator, left):
                for result in results:
                    if result.prompt.id not in left:
                        continue
                    if isinstance(result, Failure):
                        log.warning("%s %s: %s", result.method, result.prompt.id, result.reason)
                        record = result.as_record()
                        failed += 1
                    else:
                        record = finish(result, parts.judges, run.folder, save_audio)
                    run.append(record | key | unread_by(parts.generator, result.prompt))
                    progress.update()
    return failed
