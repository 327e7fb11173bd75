"""What verifier_experiment.py does once nothing is missing: pool, scores, sweeps, report.

What best-of-n gives follows from a pool; what a tree search gives does not, so it has to run for
each cell of a grid: a sweep. Its folder holds one record per cell and prompt; the cells are no part
of the folder's name, and a larger grid adds to what is there.
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from src.client import ServerClient
from src.data.prompts import Prompt
from src.experiments.pool_generation import generate, open_pool
from src.experiments.pool_scoring import list_scorers, score
from src.experiments.scaling_offline import report
from src.experiments.scaling_settings import GENERATING, ExperimentSettings
from src.experiments.searching import Search, search_what_is_left
from src.generator import Generator, GeneratorError, Renderer, load_renderer
from src.judges.registry import served
from src.methods import SearchCell
from src.protocol import Checkpoint
from src.runs.build import Parts, assemble, checkpoints_of, connect, identity, load, where
from src.runs.ending import Ending, Exit
from src.runs.evaluation import measures
from src.runs.pool import LOG_PROBS, prefix_key
from src.runs.records import CANDIDATES, Run, search_key
from src.scoring import LIKELIHOODS, components, remote_parts

log = logging.getLogger(__name__)


def run(settings: ExperimentSettings, prompts: Sequence[Prompt], end: Ending) -> tuple[str, Exit]:
    """Do what is left of an experiment. Returns its report, and the exit code."""
    cells, left_out = settings.cells()
    for name in dict.fromkeys(cell.name for cell in left_out):  # once for all steps and seeds
        log.info("left out: %s: M does not divide N", name)
    end.kept = lambda: f"What is finished is kept in {settings.pool or settings.output}"
    with ExitStack() as stack:
        scoring = [part for name in settings.scoring for part in components(name)]
        names = [*remote_parts(scoring), *served(settings.judges or ())]
        generator = load(settings) if settings.pool is None or settings.method else None
        if generator is None:
            log.info("loading the codec of %s", settings.model)
        renderer = generator or load_renderer(str(settings.model), settings.device)
        client = connect(settings, names, stack)
        folder, failed, sweeps = None, 0, []
        if settings.candidates:
            folder, failed = make_pool(settings, prompts, generator, renderer, client)
        for selector in settings.selecting if cells else ():
            assert generator is not None
            judges = [name for name in settings.judges or () if name != selector]
            parts = assemble(settings, selector, judges, generator, client)
            with open_sweep(settings, prompts, parts) as swept:
                failed += search_cells(swept, cells, prompts, parts, settings)
            sweeps.append(swept.folder)
    text = report(settings, folder, sweeps)
    return text, Exit.PROMPTS_FAILED if failed else Exit.DONE


def make_pool(
    settings: ExperimentSettings,
    prompts: Sequence[Prompt],
    generator: Generator | None,
    renderer: Renderer,
    client: ServerClient | None,
) -> tuple[Path, int]:
    """Generate and score whatever the pool lacks. Returns its folder, and how many scores failed.

    Raises RunFolderError, VerifierError, and GeneratorError when an old pool's tokens belong to
    other weights.
    """
    if settings.pool is not None:
        run = Run.reopen(settings.pool)
    else:
        assert generator is not None
        run = open_pool(settings, prompts, generator)
    with run:
        if settings.pool is None and generator is not None:
            generate(run, prompts, generator, settings)
        _check_codec(run, renderer.checkpoint)
        _warn_of_unknown_prefixes(run, settings.prefix_seconds)
        verifiers, judges = remote_parts(settings.verifiers or ()), settings.judges or ()
        scorers = list_scorers(
            verifiers,
            judges,
            client.checkpoints([*verifiers, *served(judges)]) if client else {},
            settings.prefix_seconds,
            renderer.device,
        )
        failed = score(run, prompts, scorers, renderer, client)
    return run.folder, failed


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


def _warn_of_unknown_prefixes(run: Run, prefixes: Sequence[float]) -> None:
    made = [r[LOG_PROBS] for r in run.records if r["kind"] == CANDIDATES["kind"]]
    if lost := [at for at in prefixes if any(prefix_key(at) not in kept for kept in made)]:
        log.warning(
            "%s at %s s is not known: only generating the candidates gives it",
            " or ".join(LIKELIHOODS),
            ", ".join(map(prefix_key, lost)),
        )


def _check_codec(run: Run, checkpoint: Checkpoint) -> None:
    made_by = run.manifest["identity"]["checkpoints"]["generator"]
    if made_by["sha256"] != checkpoint.sha256:
        raise GeneratorError(
            f"the tokens in {run.folder} are those of {made_by['name']} "
            f"({made_by['sha256'][:8]}); {checkpoint.name} has other weights now "
            f"({checkpoint.sha256[:8]})"
        )
