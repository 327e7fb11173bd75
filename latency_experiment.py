"""What the search methods cost: seconds by stage, frames, clips scored, bytes and memory.

    python latency_experiment.py --profile builtin --num_samples 5 --verifier perplexity

Parse, look for what is missing, build, measure cells in shuffled order, write. `--help` has the
flags, more examples and the exit codes. Torch is imported after the preflight only.
"""

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING

from src.runs import preflight
from src.runs.ending import Exit

if TYPE_CHECKING:
    from src.experiments.latency_settings import LatencySettings
    from src.runs.build import Parts
    from src.runs.preflight import Ready
    from src.runs.records import Run

log = logging.getLogger("latency_experiment")


def main(args: Sequence[str] | None = None) -> int:
    preflight.check_environment()
    load = os.getloadavg()
    from src.experiments.latency_settings import LatencySettings
    from src.experiments.scaling_preflight import needs_of
    from src.runs.settings import parse, start_logging

    settings = parse(LatencySettings, args, prog="latency_experiment.py")
    start_logging(settings)
    log.setLevel(settings.log_level.upper())
    ready = preflight.look(needs_of(settings.as_benchmark()))
    if ready.missing:
        without = "latency_experiment.py --profile builtin --verifier perplexity"
        sys.stderr.write(preflight.message(ready.missing, without) + "\n")
        return Exit.MISSING
    return experiment(settings, ready, load)


def experiment(settings: "LatencySettings", ready: "Ready", load: Sequence[float]) -> int:
    """Measure what is left of a run and report it. load: the averages before it. Returns the exit
    code."""
    from src.experiments.latency import note_end, warn_if_busy
    from src.runs.build import ENDS, build

    warn_if_busy(load)
    with ExitStack() as stack:
        run = None
        try:
            parts = build(settings.as_benchmark(), stack)
            run = stack.enter_context(open_run(settings, ready, parts, load))
            stack.callback(note_end, run)
            measure(settings, ready, run, parts)
            return report(run)
        except tuple(ENDS) as error:
            code = next(code for kind, code in ENDS.items() if isinstance(error, kind))
            sys.stderr.write(f"latency_experiment.py: {str(error) or 'interrupted'}\n")
        if run is not None:
            done = sum(record["status"] == "ok" for record in run.records)
            sys.stderr.write(
                f"{done} of {total(settings, ready)} searches are measured and kept in "
                f"{run.folder}; the same command goes on from there.\n"
            )
    return code


def open_run(
    settings: "LatencySettings",
    ready: "Ready",
    parts: "Parts",
    load: Sequence[float],
) -> "Run":
    """The run's folder; its name carries a hash of all that decides the seconds, and of the
    machine: seconds of two are not put together."""
    from src.runs import records
    from src.runs.build import identity, machine

    decisive = identity("latency", settings.as_benchmark(), ready.prompts, parts)
    decisive["settings"] |= settings.decisive()
    here = {name: records.machine()[name] for name in ("system", "cpu", "cpu_count")} | machine()
    title = (
        f"{settings.model}, {len(ready.prompts)} prompts, {settings.duration:g} s; selector "
        f"{settings.verifier}; N = {', '.join(map(str, settings.budgets))}, "
        f"M = {settings.beam_width}, k = {settings.lookahead_k}, step {settings.step_size:g} s, "
        f"batch {settings.batch}, seed {settings.seed}"
    )
    return records.Run(
        settings.output,
        f"latency-{settings.profile}-{settings.verifier}",
        decisive | {"machine": here},
        {
            "title": title,
            "cells": [asdict(cell) for cell in settings.cells()],
            "skipped": [asdict(cell) for cell in settings.skipped()],
            "frame_rate": parts.generator.frame_rate,
        },
        {"max_rows": settings.max_rows, **machine(), "load_average": list(load)},
    )


def total(settings: "LatencySettings", ready: "Ready") -> int:
    return len(settings.cells()) * settings.repetitions * len(ready.prompts)


def measure(settings: "LatencySettings", ready: "Ready", run: "Run", parts: "Parts") -> None:
    """All cells and repetitions on every prompt that is not done."""
    from src.data.progress import bar
    from src.experiments.latency import measure_all

    for cell in settings.skipped():
        log.info("skipped: %s, since M does not divide N", cell.name)
    with bar("measuring", total(settings, ready), 0, "search") as progress:
        measure_all(settings, ready.prompts, run, parts, progress.update)


def report(run: "Run") -> int:
    """Tables, CSV files and figures of a finished run. Returns the exit code."""
    from src.reports.latency_figures import save_figures
    from src.reports.latency_tables import summarise, write_tables
    from src.reports.text import listing

    found = summarise(run.folder)
    print(write_tables(found, run.folder))
    if found.cells:
        save_figures(run.folder, found)
    print(f"\n{listing(run.folder)}")
    return Exit.PROMPTS_FAILED if found.failed else Exit.DONE


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
