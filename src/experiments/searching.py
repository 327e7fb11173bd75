"""What every experiment does: plans' searches over prompts, group by group."""

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.budget import Ledger, Plan
from src.data.progress import bar
from src.data.prompts import Prompt
from src.generator import Generator
from src.runs.build import Parts, unread_by
from src.runs.evaluation import finish
from src.runs.run import Finished, Run
from src.runs.settings import SaveAudio
from src.runs.work import Workers, here
from src.search import search
from src.tree.node import Failure

log = logging.getLogger(__name__)


def groups(
    prompts: Sequence[Prompt], size: int, todo: Collection[str]
) -> Iterator[Sequence[Prompt]]:
    """So many prompts each, where one of them is to be done. todo: ids."""
    for at in range(0, len(prompts), size):
        group = prompts[at : at + size]
        if any(prompt.id in todo for prompt in group):
            yield group


def in_groups(
    prompts: Sequence[Prompt], plan: Plan, generator: Generator, todo: Collection[str]
) -> Iterator[Sequence[Prompt]]:
    """As many prompts as the plan has side by side, where something is left to do.

    todo: ids. Groups are those of an unbroken run, whatever of them is done: equal shapes give
    equal tokens. When memory is not enough and rows are halved, so are the groups that follow.
    """
    at = 0
    while at < len(prompts):
        group = prompts[at : at + group_size(plan, generator)]
        at += len(group)
        if any(prompt.id in todo for prompt in group):
            yield group


def of_group(group: Sequence[Prompt], todo: Collection[str]) -> frozenset[str]:
    """Ids of its prompts that are to be done."""
    return frozenset(prompt.id for prompt in group if prompt.id in todo)


def group_size(plan: Plan, generator: Generator) -> int:
    """How many prompts go side by side."""
    span = generator.windows(plan.length)
    return plan.abreast(generator.max_rows, span.length if span else plan.length)


def own_prompts(
    run: Run, prompts: Sequence[Prompt], plan: Plan, generator: Generator
) -> Sequence[Prompt]:
    """Those that a run is to do: all, and of a shard those of its groups."""
    if run.shard is None:
        return prompts
    return list(run.shard.of_groups(prompts, group_size(plan, generator)))


@dataclass(frozen=True)
class Searching:
    """A piece of work: one plan's search of a group, judged.

    key: of its records (src/runs/records.py). left: ids of the prompts that are not finished.
    folder: the run's.
    """

    prompts: Sequence[Prompt]
    key: dict[str, Any]
    plan: Plan
    seed: int
    left: frozenset[str]
    save_audio: SaveAudio
    folder: Path

    def do(self, parts: Parts) -> Iterator[Finished]:
        keep_leaves = self.save_audio == "all"
        made_by = (parts.generator, parts.verifier, self.seed, keep_leaves, parts.value)
        for result in search(self.plan, self.prompts, *made_by):
            if result.prompt.id not in self.left:
                continue
            finished = Finished(result.as_record())
            if not isinstance(result, Failure):
                finished = finish(result, parts.judges, self.folder, self.save_audio)
            assert finished.record is not None
            finished.record.update(self.key | unread_by(parts.generator, result.prompt))
            yield finished

    def failed(self, reason: str) -> Iterator[Finished]:
        for prompt in self.prompts:
            if prompt.id in self.left:
                failure = Failure(prompt, self.plan.method.name, 0, 0, "", reason, Ledger())
                yield Finished(failure.as_record() | self.key)


def search_what_is_left(
    run: Run,
    searches: Sequence[tuple[dict[str, Any], Plan, int]],
    prompts: Sequence[Prompt],
    parts: Parts,
    save_audio: SaveAudio = "none",
    workers: Workers | None = None,
) -> int:
    """Every search on every prompt that is not done, judged and recorded. Returns how many failed.

    searches: of each its records' key (src/runs/records.py), its plan and its seed. workers: who
    search; by default this process, with `parts`. Raises BudgetError, OutOfMemory, and
    VerifierError when the verifier is lost.
    """
    own = [own_prompts(run, prompts, plan, parts.generator) for _, plan, _ in searches]
    todo = [
        frozenset(p.id for p in mine if not run.is_done(key, p.id))
        for (key, *_), mine in zip(searches, own, strict=True)
    ]
    total = sum(map(len, own))
    done = total - sum(map(len, todo))
    failed = 0
    log.info("%s: %d of %d searches are finished", run.folder, done, total)
    pieces = (
        Searching(group, key, plan, seed, of_group(group, left), save_audio, run.folder)
        for (key, plan, seed), left in zip(searches, todo, strict=True)
        for group in in_groups(prompts, plan, parts.generator, left)
    )
    workers = workers or here(parts, parts.generator.halve_rows)
    with bar(parts.verifier.name, total, done, "search") as progress:
        for finished in workers(pieces):
            run.keep(finished)
            record = finished.record
            assert record is not None
            if record["status"] == "failed":
                told = record["method"], record["prompt_id"], record["reason"]
                log.warning("%s %s: %s", *told)
                failed += 1
            progress.set_description(record["method"])
            progress.update()
    return failed
