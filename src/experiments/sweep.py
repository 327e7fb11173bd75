"""Sweeps: tree searches over a grid of budgets, widths, lookaheads, steps and seeds.

    cells, skipped = grid(settings)
    search_cells(run, cells, prompts, parts, settings.max_rows)

What best-of-n gives follows from a pool; what a tree search gives does not, so it has to run for
each cell. A sweep's folder holds one record per cell and prompt, its `method` naming the cell; the
cells are no part of the folder's name, and a larger grid adds to what is there.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from src.budget import TREE_METHODS, Method, Plan, PlanError, check_budget, make_plan
from src.data.progress import bar
from src.data.prompts import Prompt, digest_of
from src.experiments.scaling_settings import GENERATING, ExperimentSettings
from src.judges.registry import Judge
from src.runs.evaluation import finish
from src.runs.records import Run
from src.search import search
from src.tree import Failure
from src.verifier import Verifier

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cell:
    """One search of a grid. step_size in seconds; of a method without steps, the duration."""

    search: Method
    candidates: int
    beam_width: int
    lookahead_k: int
    step_size: float
    seed: int

    @property
    def name(self) -> str:
        """Its records' method."""
        return (
            f"{self.search} n={self.candidates} m={self.beam_width} k={self.lookahead_k} "
            f"step={self.step_size:g} seed={self.seed}"
        )

    def plan(self, duration: float, frame_rate: float) -> Plan:
        """Raises PlanError."""
        return make_plan(
            self.search,
            candidates=self.candidates,
            beam_width=self.beam_width,
            lookahead_k=self.lookahead_k,
            duration=duration,
            step_size=self.step_size,
            frame_rate=frame_rate,
        )


def grid(settings: ExperimentSettings) -> tuple[list[Cell], list[str]]:
    """The cells to run, each search once, and those that cannot run, with the reason."""
    steps = settings.step_sizes or (settings.step_size,)
    seeds = settings.seeds or (settings.seed,)
    cells: dict[Cell, None] = {}
    skipped: dict[str, None] = {}
    for method, n, m, k, step, seed in product(
        settings.method,
        settings.budgets,
        settings.beam_widths,
        settings.lookahead_ks,
        steps,
        seeds,
    ):
        cell = the_same_search(Cell(method, n, m, k, step, seed), settings.duration)
        try:
            check_budget(cell.search, n, cell.beam_width, cell.lookahead_k)
        except PlanError:
            skipped[f"{cell.search} n={n} m={m}: {m} does not divide {n}"] = None
        else:
            cells[cell] = None
    return list(cells), list(skipped)


def the_same_search(cell: Cell, duration: float) -> Cell:
    """The simplest cell that is this search by definition.

    One candidate is the baseline's; a step that takes the whole clip leaves nothing to prune; beam
    search is lookahead with k = 0; and rollouts stop at the clip's end, so that beyond it k changes
    nothing.
    """
    if cell.search == "baseline" or cell.candidates == 1:
        return Cell("baseline", 1, 1, 0, duration, cell.seed)
    if cell.search not in TREE_METHODS or cell.step_size >= duration - 1e-9:
        return Cell("best_of_n", cell.candidates, 1, 0, duration, cell.seed)
    steps = -int(-(duration - 1e-9) // cell.step_size)
    k = min(cell.lookahead_k, steps - 1) if cell.search == "lookahead" else 0
    return replace(cell, search="lookahead" if k else "sbs", lookahead_k=k)


def open_sweep(
    settings: ExperimentSettings,
    prompts: Sequence[Prompt],
    generator: Any,
    verifier: Verifier,
    judges: Sequence[Judge],
    here: Mapping[str, Any] | None = None,
) -> Run:
    """One verifier's folder, new or begun before. Raises RunFolderError."""
    from src.runs.evaluation import measures

    checkpoints = {"generator": generator.checkpoint, **verifier.checkpoints}
    checkpoints |= {judge.name: judge.checkpoint for judge in judges}
    identity = {
        "script": "sweep",
        "verifier": verifier.name,
        "judges": [judge.name for judge in judges],
        **{name: getattr(settings, name) for name in GENERATING if name != "seed"},
        "device": generator.device,
        "dtype": generator.dtype,
        "prompts": {"count": len(prompts), "sha256": digest_of(prompts)},
        "checkpoints": {name: checkpoint.model_dump() for name, checkpoint in checkpoints.items()},
    }
    title = (
        f"{settings.model}, {len(prompts)} prompts, {settings.duration:g} s; "
        f"tree searches, selector {verifier.name}"
    )
    name = f"sweep-{settings.profile}-{verifier.name}-p{len(prompts)}"
    facts = {"title": title, "measures": measures(verifier, judges)}
    return Run(settings.output, name, identity, facts, here)


def search_cells(
    run: Run,
    cells: Sequence[Cell],
    prompts: Sequence[Prompt],
    generator: Any,
    verifier: Verifier,
    judges: Sequence[Judge],
    duration: float,
    max_rows: int,
) -> int:
    """Every cell on every prompt that is not done. Returns how many clips failed.

    Groups are those of an unbroken run, whatever of them is done: equal shapes give equal tokens.
    Raises VerifierError when the verifier is lost.
    """
    todo = {(c.name, p.id) for c in cells for p in prompts if not run.is_done(c.name, p.id)}
    total = len(cells) * len(prompts)
    failed = 0
    log.info("%s: %d of %d searches are finished", run.folder, total - len(todo), total)
    with bar(verifier.name, total, total - len(todo), "search") as progress:
        for cell in cells:
            plan = cell.plan(duration, generator.frame_rate)
            size = max(1, max_rows // plan.candidates)
            for group in (prompts[at : at + size] for at in range(0, len(prompts), size)):
                if todo.isdisjoint((cell.name, prompt.id) for prompt in group):
                    continue
                for result in search(plan, group, generator, verifier, cell.seed):
                    if (cell.name, result.prompt.id) not in todo:
                        continue
                    if isinstance(result, Failure):
                        record = result.as_record()
                        log.warning("%s %s: %s", cell.name, result.prompt.id, result.reason)
                        failed += 1
                    else:
                        record = finish(result, judges, run.folder, "none")
                    run.append(record | vars(cell) | {"method": cell.name})
                    progress.update()
    return failed
