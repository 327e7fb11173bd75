"""What verifier_experiment.py does, piece by piece: build, make the pool, sweep the searches."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from src.data.prompts import Prompt
from src.data.scales import load_calibration
from src.experiments.pool_generation import generate, open_pool
from src.experiments.pool_scoring import list_measures, score
from src.experiments.scaling_settings import ExperimentSettings
from src.experiments.sweep import Cell, open_sweep, search_cells
from src.generator import Generator, GeneratorError, Renderer, load_renderer
from src.judges.registry import JUDGES
from src.protocol import Checkpoint
from src.runs.build import connect, load, machine
from src.runs.evaluation import build_judges, served
from src.runs.pool import CANDIDATES, LOG_PROBS, prefix_key
from src.runs.records import Run
from src.runs.settings import server_token
from src.verifier import (
    LIKELIHOODS,
    ServerClient,
    build_verifier,
    components,
    remote_parts,
    server_checkpoints,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExperimentParts:
    """generator: its codec alone where nothing is generated. client: None: nothing is remote."""

    generator: Renderer
    client: ServerClient | None

    @property
    def whole_generator(self) -> Generator:
        assert isinstance(self.generator, Generator)
        return self.generator


def build(settings: ExperimentSettings, stack: ExitStack) -> ExperimentParts:
    """What pools and searches need; with --server auto, `stack` stops the server that this starts.

    What it raises is in parts.ENDS.
    """
    scoring = [part for name in settings.selectors for part in components(name)]
    remote = remote_parts([*scoring, *served(settings.judges or ())])
    if settings.pool is None or settings.method:
        return ExperimentParts(*load(settings, remote, stack))
    log.info("loading the codec of %s", settings.model)
    renderer = load_renderer(str(settings.model), settings.device)
    return ExperimentParts(renderer, connect(settings, remote, stack))


def make_pool(
    settings: ExperimentSettings, prompts: Sequence[Prompt], parts: ExperimentParts
) -> tuple[Path, int]:
    """Generate and score whatever the pool lacks. Returns its folder, and how many scores failed.

    Raises RunFolderError, VerifierError, and GeneratorError when an old pool's tokens belong to
    other weights.
    """
    if settings.pool is None:
        run = open_pool(settings, prompts, parts.whole_generator, machine())
    else:
        run = Run.reopen(settings.pool, machine())
    with run:
        if settings.pool is None:
            generate(run, prompts, parts.whole_generator, settings)
        else:
            _check_codec(run, parts.generator.checkpoint)
        verifiers = remote_parts(settings.verifiers or ())
        judges: dict[str, Checkpoint | None] = dict.fromkeys(settings.judges or ())
        remote: dict[str, Checkpoint] = {}
        if parts.client is not None:
            remote = server_checkpoints(parts.client, [*verifiers, *served(judges)])
        measures = list_measures(
            {name: remote[name] for name in verifiers},
            {name: None if name in JUDGES else remote[name] for name in judges},
            settings.prefix_seconds,
            parts.generator.device,
        )
        _tell_of_unkept_prefixes(run, settings.prefix_seconds)
        failed = score(run, prompts, measures, parts.generator, parts.client)
    return run.folder, failed


def sweep(
    settings: ExperimentSettings,
    cells: Sequence[Cell],
    prompts: Sequence[Prompt],
    parts: ExperimentParts,
    selector: str,
) -> tuple[Path, int]:
    """Every cell's search by one verifier. Returns the folder, and how many searches failed."""
    generator, client = parts.whole_generator, parts.client
    constants = load_calibration(generator.checkpoint, settings.output / "calibration")
    verifier = build_verifier(selector, generator.checkpoint, client, constants)
    names = [name for name in settings.judges or () if name != selector]
    own_client = ServerClient(client.url, server_token()) if client and served(names) else None
    judges = build_judges(names, generator.device, own_client)
    with open_sweep(settings, prompts, generator, verifier, judges, machine()) as run:
        failed = search_cells(
            run,
            cells,
            prompts,
            generator,
            verifier,
            judges,
            settings.duration,
            settings.max_rows,
        )
    return run.folder, failed


def _tell_of_unkept_prefixes(run: Run, prefixes: Sequence[float]) -> None:
    made = [r[LOG_PROBS] for r in run.records if r["method"] == CANDIDATES]
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
