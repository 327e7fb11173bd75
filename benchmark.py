"""Search methods side by side, under one verifier.

    python benchmark.py --profile builtin --server auto --verifier tags --method baseline best_of_n

Parse, look for what is missing, build, loop over methods and groups of prompts, write. `--help` has
the flags, more examples and the exit codes. Torch is imported after the preflight only.
"""

import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from src.runs import preflight
from src.runs.ending import Exit

if TYPE_CHECKING:
    from src.data.prompts import Prompt
    from src.runs.build import Parts
    from src.runs.records import Run
    from src.runs.settings import BenchmarkSettings

log = logging.getLogger("benchmark")


def main(args: Sequence[str] | None = None) -> int:
    preflight.check_environment()
    from src.experiments.scaling_preflight import needs_of
    from src.runs.settings import BenchmarkSettings, parse, start_logging

    settings = parse(BenchmarkSettings, args, prog="benchmark.py")
    start_logging(settings)
    ready = preflight.look(needs_of(settings))
    if ready.missing:
        sys.stderr.write(preflight.message(ready.missing) + "\n")
        return Exit.MISSING
    return benchmark(replace(settings, judges=ready.judges), ready.prompts)


def benchmark(settings: "BenchmarkSettings", prompts: Sequence["Prompt"]) -> int:
    """Run what is left of a run and report it. Returns the exit code."""
    from src.runs.build import ENDS, build
    from src.runs.evaluation import judge_again

    with ExitStack() as stack:
        run = None
        try:
            parts = build(settings, stack)
            run = stack.enter_context(open_run(settings, prompts, parts))
            judge_again(run, prompts, parts.judges)
            search_all(settings, prompts, run, parts)
            return report(run)
        except tuple(ENDS) as error:
            code = next(code for kind, code in ENDS.items() if isinstance(error, kind))
            sys.stderr.write(f"benchmark.py: {str(error) or 'interrupted'}\n")
        if run is not None:
            total = len(settings.method) * len(prompts)
            done = sum(record["status"] == "ok" for record in run.records)
            sys.stderr.write(
                f"{done} of {total} clips are finished and kept in {run.folder}; "
                "the same command goes on from there.\n"
            )
    return code


def open_run(settings: "BenchmarkSettings", prompts: Sequence["Prompt"], parts: "Parts") -> "Run":
    """The run's folder; its name carries a hash of all that decides the results."""
    from src.runs.build import identity, machine
    from src.runs.evaluation import measures, unread_captions
    from src.runs.records import Run

    title = (
        f"{settings.model}, {len(prompts)} prompts, {settings.duration:g} s; selector "
        f"{settings.verifier}; N = {settings.candidates}, M = {settings.beam_width}, "
        f"k = {settings.lookahead_k}, step {settings.step_size:g} s, seed {settings.seed}"
    )
    return Run(
        settings.output,
        f"benchmark-{settings.profile}-{settings.verifier}-n{settings.candidates}",
        identity("benchmark", settings, prompts, parts),
        {
            "title": title,
            "measures": measures(parts.verifier, parts.judges),
            "unread": unread_captions(prompts, parts.verifier, parts.judges, parts.client),
        },
        {"max_rows": settings.max_rows, **machine()},
    )


def search_all(
    settings: "BenchmarkSettings", prompts: Sequence["Prompt"], run: "Run", parts: "Parts"
) -> None:
    """Every method on every prompt that is not done, as many side by side as --max_rows holds."""
    from src.budget import make_plan
    from src.data.progress import bar
    from src.runs.evaluation import finish
    from src.search import search
    from src.tree import Failure

    todo = {m: [p for p in prompts if not run.is_done(m, p.id)] for m in settings.method}
    total = len(settings.method) * len(prompts)
    done = total - sum(map(len, todo.values()))
    log.info("%s: %d of %d clips are finished", run.folder, done, total)
    with bar(settings.method[0], total, done, "clip") as shown:
        for method, left in todo.items():
            shown.set_description(method)
            rate = parts.generator.frame_rate
            plan = make_plan(method, frame_rate=rate, **settings.search_settings())
            size = max(1, settings.max_rows // plan.candidates)
            for group in (left[at : at + size] for at in range(0, len(left), size)):
                for result in search(
                    *(plan, group, parts.generator, parts.verifier, settings.seed),
                    keep_leaves=settings.save_audio == "all",
                ):
                    if isinstance(result, Failure):
                        record = result.as_record()
                        log.warning("%s %s: %s", method, result.prompt.id, result.reason)
                    else:
                        record = finish(result, parts.judges, run.folder, settings.save_audio)
                    run.append(record)
                    shown.update()


def report(run: "Run") -> int:
    """Table, CSV, figure and listening page of a finished run. Returns the exit code."""
    from src.reports.benchmark_figure import save_benchmark
    from src.reports.benchmark_tables import summarise, write_tables
    from src.reports.page import write_page
    from src.reports.text import listing

    summary = summarise(run.folder)
    print(write_tables(summary, run.folder))
    if summary.methods:
        save_benchmark(run.folder, summary)
    write_page(run.folder, summary)
    print(f"\n{listing(run.folder)}")
    return Exit.PROMPTS_FAILED if summary.failed else Exit.DONE


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
