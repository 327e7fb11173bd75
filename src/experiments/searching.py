"""The loops that every experiment runs: plans' searches over prompts, group by group."""

import logging
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from src.budget import Plan
from src.data.progress import bar
from src.data.prompts import Prompt
from src.runs.build import Parts
from src.runs.evaluation import finish
from src.runs.records import Run
from src.runs.settings import SaveAudio
from src.search import search
from src.tree import Failure

log = logging.getLogger(__name__)


def groups(
    prompts: Sequence[Prompt], candidates: int, max_rows: int, todo: Collection[str]
) -> Iterator[Sequence[Prompt]]:
    """Prompts to run side by side, as many as `max_rows` holds, where something is left to do.

    todo: ids. Groups are those of an unbroken run, whatever of them is done: equal shapes give
    equal tokens.
    """
    size = max(1, max_rows // candidates)
    for at in range(0, len(prompts), size):
        group = prompts[at : at + size]
        if any(prompt.id in todo for prompt in group):
            yield group


def search_what_is_left(
    run: Run,
    searches: Sequence[tuple[dict[str, Any], Plan, int]],
    prompts: Sequence[Prompt],
    parts: Parts,
    max_rows: int,
    save_audio: SaveAudio = "none",
) -> int:
    """Every search on every prompt that is not done, judged and recorded. Returns how many failed.

    searches: of each its records' key (src/runs/records.py), its plan and its seed.
    Raises BudgetError, and VerifierError when the verifier is lost.
    """
    todo = [{p.id for p in prompts if not run.is_done(key, p.id)} for key, *_ in searches]
    total = len(searches) * len(prompts)
    done = total - sum(map(len, todo))
    failed = 0
    log.info("%s: %d of %d searches are finished", run.folder, done, total)
    with bar(parts.verifier.name, total, done, "search") as progress:
        for (key, plan, seed), left in zip(searches, todo, strict=True):
            progress.set_description(plan.method.name)
            for group in groups(prompts, plan.candidates, max_rows, left):
                ask = (plan, group, parts.generator, parts.verifier, seed)
                for result in search(*ask, keep_leaves=save_audio == "all"):
                    if result.prompt.id not in left:
                        continue
                    if isinstance(result, Failure):
                        log.warning("%s %s: %s", result.method, result.prompt.id, result.reason)
                        record = result.as_record()
                        failed += 1
                    else:
                        record = finish(result, parts.judges, run.folder, save_audio)
                    run.append(record | key)
                    progress.update()
    return failed
