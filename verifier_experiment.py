"""How scores grow with N, for every verifier and judge, from one pool of candidates a prompt.

    python verifier_experiment.py --profile builtin --server auto --samples 10 --duration 10
    python verifier_experiment.py --pool results/pool-builtin-m16-0123abcd

Parse, look for what is missing, build, make the pool, sweep the searches, report. `--help` has the
flags, more examples and the exit codes. Torch is imported after the preflight only, and not at all
when an old pool's statistics are all that is asked for.
"""

import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from src.runs import preflight
from src.runs.ending import Exit

if TYPE_CHECKING:
    from src.data.prompts import Prompt
    from src.experiments.scaling_settings import ExperimentSettings

log = logging.getLogger("verifier_experiment")

WITHOUT_DOWNLOAD = "verifier_experiment.py --profile builtin --server auto"


def main(args: Sequence[str] | None = None) -> int:
    preflight.check_environment()
    from src.experiments.scaling_preflight import look
    from src.experiments.scaling_settings import ExperimentSettings
    from src.runs.records import RunFolderError
    from src.runs.settings import UsageError, parse, start_logging

    settings = parse(ExperimentSettings, args, prog="verifier_experiment.py")
    start_logging(settings)
    try:
        settings, ready = look(settings)
    except (UsageError, RunFolderError) as error:
        sys.stderr.write(f"verifier_experiment.py: {error}\n")
        return Exit.USAGE if isinstance(error, UsageError) else Exit.FOLDER
    if ready.missing:
        sys.stderr.write(preflight.message(ready.missing, WITHOUT_DOWNLOAD) + "\n")
        return Exit.MISSING
    if settings.replays:
        report(settings, settings.pool, [])
        return Exit.DONE
    return experiment(settings, ready.prompts)


def experiment(settings: "ExperimentSettings", prompts: Sequence["Prompt"]) -> int:
    """Do what is left of the experiment and report it. Returns the exit code."""
    from src.experiments.scaling import build, make_pool, sweep
    from src.experiments.sweep import grid
    from src.runs.build import ENDS

    cells, skipped = grid(settings)
    announce(settings, len(cells), skipped)
    with ExitStack() as stack:
        try:
            parts = build(settings, stack)
            folder, failed = None, 0
            if settings.candidates:
                folder, failed = make_pool(settings, prompts, parts)
            sweeps = []
            for selector in settings.selecting if cells else ():
                swept, lost = sweep(settings, cells, prompts, parts, selector)
                sweeps.append(swept)
                failed += lost
            report(settings, folder, sweeps)
            return Exit.PROMPTS_FAILED if failed else Exit.DONE
        except tuple(ENDS) as error:
            code = next(code for kind, code in ENDS.items() if isinstance(error, kind))
            sys.stderr.write(f"verifier_experiment.py: {str(error) or 'interrupted'}\n")
    sys.stderr.write(
        f"What is finished is kept in {settings.pool or settings.output}; the same command goes on "
        "from there.\n"
    )
    return code


def announce(settings: "ExperimentSettings", cells: int, skipped: Sequence[str]) -> None:
    """Say beforehand what this generates, and what a run for each number would."""
    from src.likelihood import known

    if settings.candidates and settings.pool is None:
        verifiers = {*known(settings.guidance), *(settings.verifiers or ())}
        runs = len(verifiers) * sum(settings.budgets)
        budgets = ", ".join(map(str, settings.budgets))
        print(
            f"One run for each of {len(verifiers)} verifiers and N = {budgets} would generate "
            f"{runs} clips a prompt; the pool has {settings.candidates}, which every verifier "
            "scores."
        )
    if settings.method:
        print(f"Searches: {cells} cells, selected by {', '.join(settings.selecting)} in turn.")
    for reason in skipped:
        print(f"Left out: {reason}.")


def report(settings: "ExperimentSettings", folder: Path | None, sweeps: Sequence[Path]) -> None:
    """Tables, CSV files and figures of the pool and of each sweep, in their folders."""
    from src.reports.pool_report import report as write
    from src.reports.text import listing
    from src.runs.pool import PoolError, load_pool

    try:
        pool = load_pool(folder, settings.sums or ()) if folder else None
    except PoolError as error:  # a part that no prompt has a score of, or that is constant
        log.error("--sums are left out: %s", error)
        pool = load_pool(folder) if folder else None
    if pool and len(pool.prompts) < pool.asked:
        log.warning("%s has %d of %d prompts so far", folder, len(pool.prompts), pool.asked)
    print(write(pool, sweeps, settings.budgets))
    for written in (*([folder] if folder else []), *sweeps):
        print(f"\n{listing(written)}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
