"""Sweeps: tree searches over a grid of budgets, parameters, steps and seeds.

    run = open_sweep(settings, prompts, parts)
    search_cells(run, cells, prompts, parts, settings)

What best-of-n gives follows from a pool; what a tree search gives does not, so it has to run for
each cell. A sweep's folder holds one record per cell and prompt; the cells are no part of the
folder's name, and a larger grid adds to what is there.
"""

import logging
from collections.abc import Sequence

from src.data.progress import bar
from src.data.prompts import Prompt
from src.experiments.scaling_settings import GENERATING, ExperimentSettings
from src.experiments.searching import search_all
from src.methods import SearchCell
from src.runs.build import Parts, checkpoints_of, identity, where
from src.runs.evaluation import finish, measures
from src.runs.provenance import torch_machine
from src.runs.records import Run, search_key
from src.tree import Failure

log = logging.getLogger(__name__)


def open_sweep(settings: ExperimentSettings, prompts: Sequence[Prompt], parts: Parts) -> Run:
    """One verifier's folder, new or begun before. Raises RunFolderError."""
    verifier = parts.verifier.name
    decides = {
        "verifier": verifier,
        "judges": [judge.name for judge in parts.judges],
        **{name: getattr(settings, name) for name in GENERATING if name != "seed"},
        **where(parts.generator),
    }
    title = (
        f"{settings.model}, {len(prompts)} prompts, {settings.duration:g} s; "
        f"tree searches, selector {verifier}"
    )
    return Run(
        settings.output,
        f"sweep-{settings.profile}-{verifier}-p{len(prompts)}",
        identity("sweep", decides, prompts, checkpoints_of(parts)),
        {
            "title": title,
            "measures": [m.as_record() for m in measures(parts.verifier, parts.judges)],
        },
        torch_machine(),
    )


def search_cells(
    run: Run,
    cells: Sequence[SearchCell],
    prompts: Sequence[Prompt],
    parts: Parts,
    settings: ExperimentSettings,
) -> int:
    """Every cell on every prompt that is not done. Returns how many searches failed.

    Raises VerifierError when the verifier is lost.
    """
    keys = {cell: search_key(cell.method, cell) for cell in cells}
    todo = {c: {p.id for p in prompts if not run.is_done(k, p.id)} for c, k in keys.items()}
    total = len(cells) * len(prompts)
    done = total - sum(map(len, todo.values()))
    failed = 0
    log.info("%s: %d of %d searches are finished", run.folder, done, total)
    with bar(parts.verifier.name, total, done, "search") as progress:
        for cell, key in keys.items():
            rate = parts.generator.frame_rate
            plan = cell.plan(settings.duration, settings.step_size, rate)
            seed = settings.seed if cell.seed is None else cell.seed
            for result in search_all(plan, prompts, parts, seed, settings.max_rows, todo[cell]):
                if isinstance(result, Failure):
                    record = result.as_record()
                    failed += 1
                else:
                    record = finish(result, parts.judges, run.folder, "none")
                run.append(record | key)
                progress.update()
    return failed
