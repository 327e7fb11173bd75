"""The loop that every experiment runs: a plan's search over prompts, group by group."""

import logging
from collections.abc import Collection, Iterator, Sequence

from src.budget import Plan
from src.data.prompts import Prompt
from src.runs.build import Parts
from src.search import search
from src.tree import Failure, SearchResult

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


def search_all(
    plan: Plan,
    prompts: Sequence[Prompt],
    parts: Parts,
    seed: int,
    max_rows: int,
    todo: Collection[str],
    keep_leaves: bool = False,
) -> Iterator[SearchResult | Failure]:
    """The search of every prompt in `todo` (ids); one that has no score is a Failure, and logged.

    Raises BudgetError, and VerifierError when the verifier is lost.
    """
    for group in groups(prompts, plan.candidates, max_rows, todo):
        results = search(plan, group, parts.generator, parts.verifier, seed, keep_leaves)
        for result in results:
            if result.prompt.id in todo:
                if isinstance(result, Failure):
                    log.warning("%s %s: %s", result.method, result.prompt.id, result.reason)
                yield result
