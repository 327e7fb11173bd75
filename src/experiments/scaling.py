"""What verifier_experiment.py does once nothing is missing: pool, scores, sweeps, report.

A pool has the candidates of each prompt, generated once. Its folder is a run's, whose name follows
from what decides the candidates and not from who scores them (pool_scoring.py). A prompt's tokens
are written whole before their record, so that a pool may be killed anywhere and goes on there.

What best-of-n gives follows from a pool; what a tree search gives does not, so it has to run for
each cell of a grid: a sweep. Its folder holds one record per cell and prompt; the cells are no part
of the folder's name, and a larger grid adds to what is there.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

from src.cells import SearchCell
from src.client import ServerClient
from src.cluster.driver import open_models
from src.data.prompts import Prompt
from src.decoding.renderer import Renderer
from src.experiments.pool_generating import generate
from src.experiments.pool_outcome import Scorer
from src.experiments.pool_scoring import Hearers, list_scorers, score
from src.experiments.scaling_offline import report
from src.experiments.scaling_settings import GENERATING, ExperimentSettings
from src.experiments.searching import search_what_is_left
from src.experiments.sharding import refuse_uneven_groups, summary
from src.experiments.validity import validate
from src.generator import Generator, GeneratorError
from src.judges.base import SetJudge
from src.judges.registry import build_judges, served
from src.protocol import Checkpoint
from src.runs.build import (
    Models,
    Parts,
    assemble,
    caveats,
    checkpoints_of,
    identity,
    where,
)
from src.runs.ending import Ending, Exit
from src.runs.evaluation import measures
from src.runs.measures import in_short
from src.runs.records import CANDIDATES, scores_key, search_key
from src.runs.run import Run
from src.runs.work import Workers
from src.scoring import components, known, remote_parts

log = logging.getLogger(__name__)


def run(settings: ExperimentSettings, prompts: Sequence[Prompt], end: Ending) -> tuple[str, Exit]:
    """Do what is left of an experiment. Returns its report, and the exit code."""
    cells, left_out = settings.cells()
    for name in dict.fromkeys(cell.name for cell in left_out):  # once for all steps and seeds
        log.info("left out: %s: M does not divide N", name)
    end.kept = lambda: f"What is finished is kept in {settings.pool or settings.output}"
    with ExitStack() as stack:
        models = models_of(settings, prompts, stack)
        refuse_uneven_groups(settings, models.device)
        folder, failed, sweeps = None, 0, []
        if settings.candidates:
            folder, failed = make_pool(settings, prompts, models)
        for selector in settings.selecting if cells else ():
            make = partial(parts_of, settings, selector)
            parts = make(models)
            with open_sweep(settings, prompts, parts, models.here) as swept:
                workers = models.workers(make, parts)
                failed += search_cells(swept, cells, prompts, parts, settings, workers)
                if not models.in_order:
                    swept.put_in_order(prompts)
            sweeps.append(swept.folder)
    if settings.shard:
        return summary([*([folder] if folder else []), *sweeps])
    text = report(settings, folder, sweeps)
    return text, Exit.PROMPTS_FAILED if failed else Exit.DONE


def models_of(settings: ExperimentSettings, prompts: Sequence[Prompt], stack: ExitStack) -> Models:
    """The generator where anything is generated, else the codec; and the server's client."""
    scoring = [part for name in settings.scoring for part in components(name)]
    names = [*remote_parts(scoring), *served(settings.judges or ())]
    texts = [prompt.text for prompt in prompts]
    return open_models(settings, names, texts, stack, settings.decodes)


def parts_of(settings: ExperimentSettings, selector: str, models: Models) -> Parts:
    """The parts of the searches of one selector."""
    judges = [name for name in settings.clip_judges if name != selector]
    return assemble(settings, selector, judges, models)


def make_pool(
    settings: ExperimentSettings, prompts: Sequence[Prompt], models: Models
) -> tuple[Path, int]:
    """Generate and score whatever the pool lacks. Returns its folder, and how much of it failed.

    Raises RunFolderError, VerifierError, and GeneratorError when an old pool's tokens belong to
    other weights.
    """
    generator, renderer, failed = models.generator, models.renderer, 0
    with open_pool(settings, prompts, generator, models.here) as run:
        if settings.pool is None and generator is not None:
            workers = models.workers(generator_of, generator)
            failed += generate(run, prompts, generator, settings, workers)
        made_by = Checkpoint(**run.manifest["identity"]["checkpoints"]["generator"])
        if made_by.sha256 != renderer.checkpoint.sha256:
            raise GeneratorError(
                f"the tokens in {run.folder} are those of {in_short(made_by)}; the weights are now "
                f"{in_short(renderer.checkpoint)}"
            )
        make = partial(hearers_of, settings)
        hearers = make(models)
        failed += score(run, prompts, hearers, models.workers(make, hearers))
        if not models.in_order:
            run.put_in_order(prompts)
        if settings.validity and generator is not None:
            likelihoods = known(settings.guidance)
            scorers = list(hearers.scorers.values())
            validate(run, prompts, scorers, likelihoods, generator, models.client)
    return run.folder, failed


def generator_of(models: Models) -> Generator:
    assert models.generator is not None
    return models.generator


def hearers_of(settings: ExperimentSettings, models: Models) -> Hearers:
    """What scores and hears the pool."""
    scorers = scorers_of(settings, models.renderer, models.client)
    networks = set_judges_of(settings, models.device)
    return Hearers({s.name: s for s in scorers}, networks, models.renderer, models.client)


def scorers_of(
    settings: ExperimentSettings, renderer: Renderer, client: ServerClient | None
) -> list[Scorer]:
    """What scores the pool."""
    verifiers, judges = settings.scoring_verifiers, settings.clip_judges
    hosted = client.checkpoints([*remote_parts(verifiers), *served(judges)]) if client else {}
    return list_scorers(verifiers, judges, hosted, settings.prefix_seconds, renderer)


def set_judges_of(settings: ExperimentSettings, device: str) -> dict[str, SetJudge]:
    """What hears the pool, by the name that its embeddings are kept under: one a network."""
    judges = cast("list[SetJudge]", build_judges(settings.set_judges, device, None))
    return {judge.embeddings or judge.name: judge for judge in judges}


def open_pool(
    settings: ExperimentSettings,
    prompts: Sequence[Prompt],
    generator: Generator | None,
    here: Mapping[str, Any] | None = None,
) -> Run:
    """The pool's folder, new or begun before. here: what this start adds to the manifest. Raises
    RunFolderError."""
    if settings.pool is not None:
        return Run.reopen(settings.pool, settings.dry_run)
    assert generator is not None
    title = settings.title(prompts, f"pool of {settings.candidates}, seed {settings.seed}")
    decides = {
        "candidates": settings.candidates,
        "frames": round(settings.duration * generator.frame_rate),
        **{name: getattr(settings, name) for name in GENERATING},
        **where(generator, settings.duration),
    }
    names = dict.fromkeys((*settings.scoring_verifiers, *settings.clip_judges))
    return Run(
        settings.output,
        f"pool-{settings.profile}-m{settings.candidates}",
        identity("pool", decides, prompts, {"generator": generator.checkpoint}),
        {
            "title": title,
            "caveats": caveats(settings, generator, prompts),
            "source": {n: getattr(settings, n) for n in ("profile", "model", "prompts")},
        },
        {"asked": [CANDIDATES, *map(scores_key, names)], **(here or {})},
        dry=settings.dry_run,
        shard=settings.part,
        prompts=prompts,
    )


def open_sweep(
    settings: ExperimentSettings,
    prompts: Sequence[Prompt],
    parts: Parts,
    here: Mapping[str, Any] | None = None,
) -> Run:
    """One verifier's folder, new or begun before. here: what this start adds to the manifest.
    Raises RunFolderError."""
    verifier = parts.verifier.name
    decides = {
        "verifier": verifier,
        "judges": [judge.name for judge in parts.judges],
        **{name: getattr(settings, name) for name in GENERATING if name != "seed"},
        **where(parts.generator, settings.duration),
    }
    return Run(
        settings.output,
        f"sweep-{settings.profile}-{verifier}-p{len(prompts)}",
        identity("sweep", decides, prompts, checkpoints_of(parts)),
        {
            "title": settings.title(prompts, f"tree searches, selector {verifier}"),
            "caveats": caveats(settings, parts.generator, prompts),
            "measures": [m.as_record() for m in measures(parts.verifier, parts.judges)],
        },
        {"asked": [search_key(c.method, c) for c in settings.cells()[0]], **(here or {})},
        dry=settings.dry_run,
        shard=settings.part,
        prompts=prompts,
    )


def search_cells(
    run: Run,
    cells: Sequence[SearchCell],
    prompts: Sequence[Prompt],
    parts: Parts,
    settings: ExperimentSettings,
    workers: Workers | None = None,
) -> int:
    """Every cell on every prompt that is not done. Returns how many searches failed.

    Raises VerifierError when the verifier is lost.
    """
    rate = parts.generator.frame_rate
    searches = [
        (
            search_key(cell.method, cell),
            cell.plan(settings.duration, settings.step_size, rate),
            settings.seed if cell.seed is None else cell.seed,
        )
        for cell in cells
    ]
    return search_what_is_left(run, searches, prompts, parts, workers=workers)
