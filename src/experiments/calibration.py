"""How far scores spread within a prompt, measured: the constants of weighted sums.

    python -m src.experiments.calibration --profile builtin --server auto --verifiers tags pmi

A pool of candidates per prompt is made as best_of_n makes it, and scored by all the verifiers at
once; the constants of verifiers that are not named are kept.
"""

import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import tyro

from src.data.files import write_whole
from src.data.prompts import Prompt, digest_of
from src.data.scales import (
    Calibration,
    CalibrationError,
    Constant,
    calibration_file,
    load_calibration,
)
from src.experiments.scaling_preflight import needs_of
from src.likelihood import LIKELIHOODS, PERPLEXITY, PMI
from src.runs import preflight
from src.runs.ending import Exit
from src.runs.records import commit
from src.runs.settings import NO_JUDGES, BenchmarkSettings, Settings, parse
from src.verifier import SumVerifier, VerifierError, remote_parts

log = logging.getLogger("calibration")


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings(Settings):
    """Measure how far verifiers' scores spread within a prompt: the constants of weighted sums.

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
        self.check_guidance(self.verifiers)

    def as_benchmark(self) -> BenchmarkSettings:
        """The run that makes the pools, for the preflight."""
        shared = {f.name: getattr(self, f.name) for f in fields(Settings)}
        return BenchmarkSettings(
            **shared,
            method=("best_of_n",),
            candidates=self.candidates,
            verifier="+".join(self.verifiers),
            judges=(NO_JUDGES,),
        ).resolved()


def main(args: Sequence[str] | None = None) -> int:
    preflight.check_environment()
    settings = parse(CalibrationSettings, args, prog="python -m src.experiments.calibration")
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )
    ready = preflight.look(needs_of(settings.as_benchmark()))
    if ready.missing:
        sys.stderr.write(preflight.message(ready.missing) + "\n")
        return Exit.MISSING
    try:
        calibration, path = calibrate(settings, ready.prompts)
    except (VerifierError, CalibrationError) as error:
        sys.stderr.write(f"calibration: {error}\n")
        return Exit.SERVER if isinstance(error, VerifierError) else Exit.MISSING
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, calibration.model_dump_json(indent=2) + "\n")
    for name in settings.verifiers:
        constant = calibration.constants[name]
        log.info("%s: deviation %.4g, mean %.4g", name, constant.deviation, constant.mean)
    log.info("%s", path)
    return Exit.DONE


def calibrate(settings: CalibrationSettings, prompts: Sequence[Prompt]) -> tuple[Calibration, Path]:
    """Make and score the pools; the generator's constants, and the file that they belong in."""
    from src.budget import make_plan
    from src.data.progress import bar
    from src.runs.build import load
    from src.search import search
    from src.stats.best_of_n import within_prompt_std
    from src.tree import Failure

    with ExitStack() as stack:
        remote = remote_parts(settings.verifiers)
        generator, client = load(settings, remote, stack)
        folder = settings.output / "calibration"
        calibration = load_calibration(generator.checkpoint, folder)
        infos = client.infos(remote) if client else {}
        checkpoints = {name: info.checkpoint for name, info in infos.items() if info.checkpoint}
        checkpoints |= dict.fromkeys(LIKELIHOODS, generator.checkpoint)
        ones = dict.fromkeys(settings.verifiers, 1.0)
        verifier = SumVerifier(
            "+".join(ones), ones, ones, {name: checkpoints[name] for name in ones}, client
        )
        plan = make_plan(
            "best_of_n",
            frame_rate=generator.frame_rate,
            **settings.as_benchmark().search_settings(),
        )
        pools: dict[str, list[list[float]]] = {name: [] for name in ones}
        size = max(1, settings.max_rows // plan.candidates)
        with bar("calibrate", len(prompts), 0, "prompt") as progress:
            for group in (prompts[at : at + size] for at in range(0, len(prompts), size)):
                for result in search(plan, group, generator, verifier, settings.seed):
                    progress.update()
                    if isinstance(result, Failure):
                        log.warning("%s is left out: %s", result.prompt.id, result.reason)
                        continue
                    for name, pool in pools.items():
                        pool.append([node.score.components[name] for node in result.nodes])
    made = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for name, pool in pools.items():
        deviation = within_prompt_std(pool)
        if not deviation > 0:
            raise CalibrationError(f"{name} does not vary within a prompt: it cannot be in a sum")
        calibration.constants[name] = Constant(
            checkpoint=checkpoints[name],
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
