"""Sweeps: tree searches over a grid of budgets, parameters, steps and seeds.

    run = open_sweep(settings, prompts, parts)
    search_cells(run, cells, prompts, parts, settings)

What best-of-n gives follows from a pool; what a tree search gives does not, so it has to run for
each cell. A sweep's folder holds one record per cell and prompt; the cells are no part of the
folder's name, and a larger grid adds to what is there.
"""

from collections.abc import Sequence

from src.data.prompts import Prompt
from src.experiments.scaling_settings import GENERATING, ExperimentSettings
from src.experiments.searching import Search, search_what_is_left
from src.methods import SearchCell
from src.runs.build import Parts, checkpoints_of, identity, where
from src.runs.evaluation import measures
from src.runs.provenance import torch_machine
from src.runs.records import Run, search_key


def open_sweep(settings: ExperimentSettings, prompts: Sequence[Prompt], parts: Parts) -> Run:
    """One verifier's folder, new or begun before. Raises RunFolderError."""
    verifier = parts.verifier.name
    decides = {
        "verifier": verifier,
        "judges": [judge.name for judge in parts.judges],
        **{name: getattr(settings, name) for name in GENERATING if name != "seed"},
        **where(parts.generator),
    }
    return Run(
        settings.output,
        f"sweep-{settings.profile}-{verifier}-p{len(prompts)}",
        identity("sweep", decides, prompts, checkpoints_of(parts)),
        {
            "title": settings.title(prompts, f"tree searches, selector {verifier}"),
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
    rate = parts.generator.frame_rate
    searches = [
        Search(
            search_key(cell.method, cell),
            cell.plan(settings.duration, settings.step_size, rate),
            settings.seed if cell.seed is None else cell.seed,
        )
        for cell in cells
    ]
    return search_what_is_left(run, searches, prompts, parts, settings.max_rows)
