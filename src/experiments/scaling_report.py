"""The report of an experiment's pool and sweeps, which needs neither torch nor a network."""

import logging
from collections.abc import Sequence
from pathlib import Path

from src.experiments.scaling_settings import ExperimentSettings
from src.reports import pool as reports
from src.reports.table import listing
from src.runs.pool import PoolError, load_pool

log = logging.getLogger(__name__)


def report(settings: ExperimentSettings, folder: Path | None, sweeps: Sequence[Path]) -> str:
    """Tables, CSV files and figures of the pool and of each sweep, in their folders; the text."""
    try:
        pool = load_pool(folder, settings.sums or ()) if folder else None
    except PoolError as error:  # a part that no prompt has a score of, or that is constant
        log.error("--sums are left out: %s", error)
        pool = load_pool(folder) if folder else None
    if pool and len(pool.prompts) < pool.asked:
        log.warning("%s has %d of %d prompts so far", folder, len(pool.prompts), pool.asked)
    text = reports.report(pool, sweeps, settings.budgets)
    written = [*([folder] if folder else []), *sweeps]
    return "\n\n".join([text, *map(listing, written)])


def announcement(settings: ExperimentSettings, known: Sequence[str]) -> list[str]:
    """What this generates, and what a run for each number would. known: likelihood verifiers."""
    lines = []
    if settings.candidates and settings.pool is None:
        verifiers = {*known, *(settings.verifiers or ())}
        runs = len(verifiers) * sum(settings.budgets)
        budgets = ", ".join(map(str, settings.budgets))
        lines.append(
            f"One run for each of {len(verifiers)} verifiers and N = {budgets} would generate "
            f"{runs} clips a prompt; the pool has {settings.candidates}, which every verifier "
            "scores."
        )
    if settings.method:
        cells, left_out = settings.cells()
        selecting = ", ".join(settings.selecting)
        lines.append(f"Searches: {len(cells)} cells, selected by {selecting} in turn.")
        names = dict.fromkeys(cell.name for cell in left_out)  # once for all steps and seeds
        lines += [f"Left out: {name}: M does not divide N." for name in names]
    return lines
