"""Measuring what a search costs: every cell again and again, in an order drawn anew each time.

    for repetition, cell in visits(cells, repetitions=5, seed=42): ...

A visit measures one cell on all prompts. Before it come untimed searches of the same shape: what
is set up once (weights arranged for so many rows, kernels chosen, connections opened) is not what a
search costs. Texts are encoded anew in each measured search, as for a prompt that is new, and its
seed is its own: a server remembers what it heard in an earlier one. Clocks are read when the device
has finished. A search ends with the winner's audio, not yet written.
"""

import gc
import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import torch

from src.budget import Plan
from src.cells import SearchCell
from src.data.progress import bar
from src.data.prompts import Prompt
from src.experiments import dry_run
from src.experiments.searching import groups
from src.experiments.settings import LatencySettings
from src.reports import latency as reports
from src.reports.table import listing
from src.runs.build import Parts, build, caveats, checkpoints_of, identity, windows_of
from src.runs.ending import Ending, Exit
from src.runs.provenance import QUIET_LOAD, machine
from src.runs.records import Record, search_key
from src.runs.run import Run
from src.search import search
from src.tree.node import Failure

log = logging.getLogger(__name__)

PROCESS = Path("/proc")


def run(
    settings: LatencySettings, prompts: Sequence[Prompt], end: Ending, load: Sequence[float]
) -> tuple[str, Exit]:
    """Measure what is left of a run. load: the averages before it. Returns its report, and the
    exit code."""
    warn_if_busy(load)
    cells, skipped = settings.cells()
    for cell in skipped:
        log.info("skipped: %s, since M does not divide N", cell.name)
    total = len(cells) * settings.repetitions * len(prompts)
    with ExitStack() as stack:
        parts = build(settings, settings.verifier, (), stack)
        opened = stack.enter_context(open_run(settings, prompts, parts, load))
        if settings.dry_run:
            return estimate(settings, prompts, opened, parts), Exit.DONE
        end.kept = lambda: (
            f"{opened.done} of {total} searches are measured and kept in {opened.folder}"
        )
        # Python's garbage collector leaves alone what is there by now, modules and weights, which
        # would take it a tenth of a second each time, in the middle of a search.
        gc.collect()
        gc.freeze()
        stack.callback(gc.unfreeze)
        with bar("measuring", total, 0, "search") as progress:
            measure_all(settings, prompts, opened, parts, progress.update)
        text, failed = reports.report(opened.folder)
    return f"{text}\n\n{listing(opened.folder)}", Exit.PROMPTS_FAILED if failed else Exit.DONE


def open_run(
    settings: LatencySettings, prompts: Sequence[Prompt], parts: Parts, load: Sequence[float]
) -> Run:
    """The run's folder; its name carries a hash of all that decides the seconds, and of the
    machine: seconds of two are not put together."""
    cells, skipped = settings.cells()
    here = {name: value for name, value in machine().items() if name != "command"}
    # Device and dtype as they were asked for: the machine decides what "auto" is.
    windows = windows_of(parts.generator, settings.duration)
    decides = {"settings": settings.decisive() | windows, "machine": here}
    title = settings.title(
        prompts,
        f"selector {settings.verifier}; N = {', '.join(map(str, settings.budgets))}"
        f"{settings.parameters_in_words()}, step {settings.step_size:g} s, "
        f"batch {settings.batch}, seed {settings.seed}",
    )
    return Run(
        settings.output,
        f"latency-{settings.profile}-{settings.verifier}",
        identity("latency", decides, prompts, checkpoints_of(parts)),
        {
            "title": title,
            "caveats": caveats(settings, parts.generator, prompts),
            "cells": [cell.as_record() for cell in cells],
            "skipped": [cell.as_record() for cell in skipped],
            "frame_rate": parts.generator.frame_rate,
        },
        {"max_rows": settings.max_rows, "load_average": list(load)},
        dry=settings.dry_run,
    )


def visits(
    cells: Sequence[SearchCell], repetitions: int, seed: int
) -> Iterator[tuple[int, SearchCell]]:
    """(repetition, cell): all cells once a repetition, counted from 1, each time shuffled anew.

    A repetition's order follows from the seed and its number alone, so a resumed run keeps it.
    """
    for repetition in range(1, repetitions + 1):
        shuffled = list(cells)
        random.Random(f"{seed} {repetition}").shuffle(shuffled)
        yield from ((repetition, cell) for cell in shuffled)


def measure_all(
    settings: LatencySettings,
    prompts: Sequence[Prompt],
    run: Run,
    parts: Parts,
    advance: Callable[[int], object],
) -> None:
    """Measure what a run lacks, one record per (cell, repetition, prompt).

    advance: is told how many searches are done, also of those that were done before. Raises
    VerifierError and what `search` raises.
    """
    known: set[SearchCell] = set()
    cells, _ = settings.cells()
    for repetition, cell in visits(cells, settings.repetitions, settings.seed):
        key = search_key(cell.method, cell, repetition)
        todo = {p.id for p in prompts if not run.is_done(key, p.id)}
        left = list(groups(prompts, settings.batch, todo))
        advance(len(prompts) - sum(map(len, left)))
        if not left:
            continue
        plan = cell.plan(settings.duration, settings.step_size, parts.generator.frame_rate)
        warm_up(plan if cell not in known else first_step(plan, settings), left, parts)
        known.add(cell)
        for group in left:
            for record in measure(plan, group, parts, seed_of(settings.seed, repetition, cell)):
                if record["status"] == "failed":
                    log.warning("%s %s: %s", cell.name, record["prompt_id"], record["reason"])
                run.append(record | key)
            advance(len(group))


def seed_of(seed: int, repetition: int, cell: SearchCell) -> int:
    """The seed of one visit's searches."""
    return random.Random(f"{seed} {repetition} {cell.name}").randrange(2**31)


def measure(plan: Plan, group: Sequence[Prompt], parts: Parts, seed: int) -> list[Record]:
    """Search one group of prompts; a record for each.

    wall_seconds: of the whole group, from its texts to its winners' audio. ledger: the prompt's
    own, its seconds its share of the group's. load: of the last minute, over all cores.
    """
    generator = parts.generator
    # Generator keeps what it has encoded; here every search is the first of its prompts.
    generator.forget_conditions()
    gc.collect()
    generator.synchronize()
    forget_peaks()
    start = time.perf_counter()
    results = search(plan, group, generator, parts.verifier, seed)
    generator.synchronize()
    wall = time.perf_counter() - start
    load = os.getloadavg()[0]
    shared = {"group": len(group), "wall_seconds": wall, "memory": peaks(), "load": load}
    records = [result.as_record() | shared for result in results]
    for record in records:
        record.pop("tree", None)
    return records


def estimate(settings: LatencySettings, prompts: Sequence[Prompt], run: Run, parts: Parts) -> str:
    """What is left to measure and what it will cost, untimed searches included."""
    rate, batch = parts.generator.frame_rate, settings.batch
    trial = dry_run.Trial(parts.generator, prompts, round(settings.duration * rate))
    rows = []
    for cell in settings.cells()[0]:
        plan = cell.plan(settings.duration, settings.step_size, rate)
        todo = []
        untimed: list[Plan] = []
        for repetition in range(1, settings.repetitions + 1):
            key = search_key(cell.method, cell, repetition)
            todo.append({p.id for p in prompts if not run.is_done(key, p.id)})
            sizes = {len(group) for group in groups(prompts, batch, todo[-1])}
            untimed += [first_step(plan, settings) if untimed else plan] * sum(sizes)
        rows.append(
            dry_run.search_row(cell.name, plan, todo, parts, trial, size=batch, besides=untimed)
        )
    return dry_run.report([run], rows)


def warm_up(plan: Plan, groups: Sequence[Sequence[Prompt]], parts: Parts) -> None:
    """Untimed, a search of each size of group that there is; of prompts that can be scored."""
    sizes = set()
    for group in groups:
        if len(group) not in sizes:
            results = search(plan, group, parts.generator, parts.verifier, seed=0)
            if not any(isinstance(result, Failure) for result in results):
                sizes.add(len(group))


def first_step(plan: Plan, settings: LatencySettings) -> Plan:
    """The same plan for a clip of one step: enough to set up what depends on the rows alone."""
    frames = min(plan.frames, round(settings.step_size * plan.frame_rate))
    return replace(plan, steps=(frames,))


def forget_peaks() -> None:
    """Set back the peaks of memory: of the GPUs, of this process, of those that it has started.

    A process's peak is that since it began where the system does not let it be set back (proc(5):
    clear_refs, VmHWM).
    """
    for gpu in _gpus():
        torch.cuda.reset_peak_memory_stats(gpu)
    for pid in ("self", *_started()):
        with suppress(OSError):
            (PROCESS / pid / "clear_refs").write_text("5")


def peaks() -> dict[str, int | None]:
    """The most memory held since `forget_peaks`, in bytes, None where unknown.

    gpu: allocated by torch, on all of them. resident: of this process. server: of the processes
    that it has started: with --server auto, the server's. server_gpu: what other processes hold of
    the current GPU, where one was started: the server's, if nobody else uses that GPU (torch keeps
    what it once had, so this is its peak).
    """
    servers = [size for pid in _started() if (size := _peak(pid)) is not None]
    return {
        "gpu": sum(map(torch.cuda.max_memory_allocated, _gpus())) or None,
        "resident": _peak("self"),
        "server": sum(servers) or None,
        "server_gpu": _held_by_others() if servers and _gpus() else None,
    }


def warn_if_busy(load: Sequence[float]) -> None:
    """load: the averages of 1, 5 and 15 minutes before the run began."""
    if load[0] > QUIET_LOAD:
        log.warning(
            "load average %.2f before this run did anything: something else runs on this machine, "
            "and its seconds will be in the measurement",
            load[0],
        )


def _gpus() -> range:
    return range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)


def _held_by_others() -> int:
    """Bytes of the current GPU that are neither free nor this process's."""
    free, total = torch.cuda.mem_get_info()
    return int(total - free - torch.cuda.memory_reserved())


def _started() -> list[str]:
    """Ids of the processes that this one has started and that run now."""
    lists = (PROCESS / "self" / "task").glob("*/children")
    try:
        return [pid for one in lists for pid in one.read_text().split()]
    except OSError:
        return []


def _peak(pid: str) -> int | None:
    """A process's largest resident set in bytes; None where the system does not say."""
    try:
        lines = (PROCESS / pid / "status").read_text().splitlines()
    except OSError:
        return None
    return next((int(s.split()[1]) * 1024 for s in lines if s.startswith("VmHWM:")), None)
