"""What verifier_experiment.py does once nothing is missing: pool, scores, sweeps, report."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from src.client.server_client import ServerClient
from src.data.prompts import Prompt
from src.experiments.pool_generation import generate, open_pool
from src.experiments.pool_scoring import list_scorers, score
from src.experiments.scaling_offline import report
from src.experiments.scaling_settings import ExperimentSettings
from src.experiments.sweep import open_sweep, search_cells
from src.generator import Generator, GeneratorError, Renderer, load_renderer
from src.judges.registry import JUDGES
from src.protocol import Checkpoint
from src.runs.build import assemble, connect, load
from src.runs.ending import Ending, Exit
from src.runs.evaluation import served
from src.runs.pool import LOG_PROBS, prefix_key
from src.runs.provenance import torch_machine
from src.runs.records import CANDIDATES, Run
from src.scoring import LIKELIHOODS, components, remote_parts

log = logging.getLogger(__name__)


def run(settings: ExperimentSettings, prompts: Sequence[Prompt], end: Ending) -> tuple[str, Exit]:
    """Do what is left of an experiment. Returns its report, and the exit code."""
    cells, _ = settings.cells()
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
        run = Run.reopen(settings.pool, torch_machine())
    else:
        assert generator is not None
        run = open_pool(settings, prompts, generator)
    with run:
        if settings.pool is None and generator is not None:
            generate(run, prompts, generator, settings)
        _check_codec(run, renderer.checkpoint)
        _warn_of_unknown_prefixes(run, settings.prefix_seconds)
        verifiers, judges = remote_parts(settings.verifiers or ()), settings.judges or ()
        remote: dict[str, Checkpoint] = {}
        if client is not None:
            remote = client.checkpoints([*verifiers, *served(judges)])
        scorers = list_scorers(
            {name: remote[name] for name in verifiers},
            {name: None if name in JUDGES else remote[name] for name in judges},
            settings.prefix_seconds,
            renderer.device,
        )
        failed = score(run, prompts, scorers, renderer, client)
    return run.folder, failed


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
