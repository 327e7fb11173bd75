"""How far scores spread within a prompt, and their mean, measured: the constants of expressions.

    python -m src.experiments.calibration --profile builtin --server auto --verifiers tags pmi

A pool of candidates per prompt is made as best_of_n makes it, and scored by all the verifiers at
once; the constants of verifiers that are not named are kept.
"""

import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import tyro

from src.data.files import write_whole
from src.data.prompts import Prompt, digest_of
from src.methods import BEST_OF_N, METHODS
from src.runs import preflight
from src.runs.ending import Exit, check_environment, ending
from src.runs.provenance import commit
from src.runs.settings import Settings, UsageError, parse, start_logging
from src.scoring import LIKELIHOODS, PERPLEXITY, PMI, host_of, remote_parts
from src.scoring import parse as parse_expression
from src.verifier import (
    Calibration,
    CalibrationError,
    Constant,
    SearchVerifier,
    calibration_file,
    load_calibration,
)

log = logging.getLogger(__name__)

WITHOUT_DOWNLOAD = "-m src.experiments.calibration --profile builtin --server auto"


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings(Settings):
    """Measure how far verifiers' scores spread within a prompt: the constants of expressions.

    They are kept for one generator's and one verifier's weights, in OUTPUT/calibration/ (those of
    the built-in model in builtin/calibration.json), and a run with the same --output finds them.

    Examples:
      python -m src.experiments.calibration --profile builtin --server auto \\
          --verifiers tags perplexity pmi
      python -m src.experiments.calibration --model facebook/musicgen-small \\
          --verifiers clap quality perplexity
    """

    #: perplexity and pmi (local) and any that the server hosts.
    verifiers: tuple[str, ...] = ("tags", PERPLEXITY, PMI)
    #: Prompts to run, from the top of the set.
    num_samples: Annotated[int, tyro.conf.arg(aliases=["--samples"])] = 16
    #: Candidates per prompt.
    candidates: int = 16

    def check(self) -> None:
        super().check()
        if several := [name for name in self.verifiers if not parse_expression(name).name]:
            raise UsageError(f"--verifiers {several[0]!r}: only single verifiers have constants")


def main(args: Sequence[str] | None = None) -> int:
    check_environment()
    settings = parse(CalibrationSettings, args, prog="python -m src.experiments.calibration")
    start_logging(settings.log_level)
    with ending("calibration"):
        ready = preflight.look(settings, settings.verifiers)
        if ready.missing:
            sys.stderr.write(preflight.message(ready.missing, WITHOUT_DOWNLOAD) + "\n")
            return Exit.MISSING
        found = calibrate(settings, ready.prompts)
        if found is None:
            return Exit.DONE
        calibration, path = found
        write_whole(path, calibration.model_dump_json(indent=2) + "\n")
    for name in settings.verifiers:
        constant = calibration.constants[name]
        log.info("%s: deviation %.4g, mean %.4g", name, constant.deviation, constant.mean)
    log.info("%s", path)
    return Exit.DONE


def calibrate(
    settings: CalibrationSettings, prompts: Sequence[Prompt]
) -> tuple[Calibration, Path] | None:
    """Make and score the pools; the generator's constants, and the file that they belong in.

    In a dry run nothing is made, and what it will cost is printed.
    """
    from src.data.progress import bar
    from src.experiments import dry_run
    from src.experiments.searching import Searching, in_groups
    from src.runs.build import Parts, caveats, connect, load
    from src.runs.work import here
    from src.stats.best_of_n import within_prompt_std

    with ExitStack() as stack:
        remote = remote_parts(settings.verifiers)
        generator = load(settings)
        caveats(settings, generator, prompts)
        client = connect(settings, remote, stack)
        folder = settings.output / "calibration"
        calibration = load_calibration(generator.checkpoint, folder)
        checkpoints = dict.fromkeys(LIKELIHOODS, generator.checkpoint)
        checkpoints |= client.checkpoints(remote) if client else {}
        ones = dict.fromkeys(settings.verifiers, 1.0)
        own = {name: checkpoints[host_of(name)] for name in ones}
        verifier = SearchVerifier("+".join(ones), own, client, ones)
        plan = METHODS[BEST_OF_N].make_plan(
            settings.candidates, settings.duration, settings.step_size, generator.frame_rate, {}
        )
        if settings.dry_run:
            todo = {prompt.id for prompt in prompts}
            trial = dry_run.Trial(generator, prompts, plan.frames)
            parts = Parts(generator, verifier, ())
            row = dry_run.search_row("pools", plan, [todo], parts, trial)
            sys.stdout.write(dry_run.report([], [row]) + "\n")
            return None
        pools: dict[str, list[list[float]]] = {name: [] for name in ones}
        parts, ids = Parts(generator, verifier, ()), frozenset(prompt.id for prompt in prompts)
        pieces = (
            Searching(group, {}, plan, settings.seed, ids, "none", folder)
            for group in in_groups(prompts, plan, generator, ids)
        )
        with bar("calibrate", len(prompts), 0, "prompt") as progress:
            for finished in here(parts, generator.halve_rows)(pieces):
                progress.update()
                record = finished.record or {}
                if record["status"] == "failed":
                    log.warning("%s: %s", record["prompt_id"], record["reason"])
                    continue
                scores = [node["score"] for node in record["tree"] if "value" in node["score"]]
                for name, pool in pools.items():
                    pool.append([score["components"][name] for score in scores])
    made = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for name, pool in pools.items():
        deviation = within_prompt_std(pool)
        if not deviation > 0:
            raise CalibrationError(f"{name} does not vary within a prompt: it has no unit")
        calibration.constants[name] = Constant(
            checkpoint=own[name],
            deviation=deviation,
            mean=sum(map(sum, pool)) / sum(map(len, pool)),
            prompts=str(settings.prompts),
            prompts_sha256=digest_of(prompts),
            num_prompts=len(pool),
            candidates=settings.candidates,
            duration=settings.duration,
            seed=settings.seed,
            temperature=settings.temperature,
            top_k=settings.top_k,
            guidance=settings.guidance,
            dtype=generator.dtype,
            commit=commit()["commit"],
            date=made,
        )
    return calibration, calibration_file(generator.checkpoint, folder)


if __name__ == "__main__":
    sys.exit(main())
