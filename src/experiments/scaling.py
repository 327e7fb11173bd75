"""What verifier_experiment.py does once nothing is missing: pool, scores, sweeps, report.

A pool has the candidates of each prompt, generated once. Its folder is a run's, whose name follows
from what decides the candidates and not from who scores them (pool_scoring.py). A prompt's tokens
are written whole before their record, so that a pool may be killed anywhere and goes on there.

What best-of-n gives follows from a pool; what a tree search gives does not, so it has to run for
each cell of a grid: a sweep. Its folder holds one record per cell and prompt; the cells are no part
of the folder's name, and a larger grid adds to what is there.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from src.budget import Ledger, timed
from src.cells import SearchCell
from src.client import ServerClient
from src.cluster.driver import open_models
from src.data.progress import bar
from src.data.prompts import Prompt
from src.decoding.renderer import Renderer
from src.experiments.pool_outcome import Scorer
from src.experiments.pool_scoring import Hearers, list_scorers, score
from src.experiments.scaling_offline import report
from src.experiments.scaling_settings import GENERATING, ExperimentSettings
from src.experiments.searching import in_groups, of_group, own_prompts, search_what_is_left
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
    unread_by,
    where,
)
from src.runs.ending import Ending, Exit
from src.runs.evaluation import measures, npy
from src.runs.measures import in_short
from src.runs.pool import LOG_PROBS, UNCONDITIONAL, prefix_key, short, token_file
from src.runs.records import CANDIDATES, Record, scores_key, search_key
from src.runs.run import Finished, Run
from src.runs.work import Workers, here
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


@dataclass(frozen=True)
class Generating:
    """A piece of work: the candidates of a group. left: ids of the prompts that have none.
    prefixes: seconds."""

    prompts: Sequence[Prompt]
    left: frozenset[str]
    count: int
    duration: float
    prefixes: tuple[float, ...]
    seed: int

    def do(self, generator: Generator) -> Iterator[Finished]:
        asked = (self.count, self.duration, self.prefixes, self.seed)
        tokens, likely, ledgers = candidates(self.prompts, generator, *asked)
        for index, prompt in enumerate(self.prompts):
            if prompt.id not in self.left:
                continue
            means = {
                name: {key: short(p[index]) for key, p in found.items()}
                for name, found in likely.items()
            }
            more = unread_by(generator, prompt) | means | {"ledger": asdict(ledgers[index])}
            record = {**self.key_of(prompt), "status": "ok", **more}
            yield Finished(record, {token_file("", prompt.id).as_posix(): npy(tokens[index])})

    def failed(self, reason: str) -> Iterator[Finished]:
        for prompt in self.prompts:
            if prompt.id in self.left:
                yield Finished({**self.key_of(prompt), "status": "failed", "reason": reason})

    def key_of(self, prompt: Prompt) -> Record:
        asked = {"prompt_id": prompt.id, "prompt": prompt.text, "key": prompt.key}
        return {**CANDIDATES, **asked}


def generate(
    run: Run,
    prompts: Sequence[Prompt],
    generator: Generator,
    settings: ExperimentSettings,
    workers: Workers | None = None,
) -> int:
    """The candidates of every prompt that has none. Returns how many still have none."""
    own = own_prompts(run, prompts, settings.candidates, generator)
    todo = frozenset(prompt.id for prompt in own if not run.is_done(CANDIDATES, prompt.id))
    done = len(own) - len(todo)
    log.info("%s: %d of %d prompts have their candidates", run.folder, done, len(own))
    asked = (settings.candidates, settings.duration, settings.prefix_seconds, settings.seed)
    groups = in_groups(prompts, settings.candidates, generator, todo)
    pieces = (Generating(group, of_group(group, todo), *asked) for group in groups)
    workers = workers or here(generator, generator.halve_rows)
    failed = 0
    with bar("generate", len(own), done, "prompt") as progress:
        for finished in workers(pieces):
            run.keep(finished)
            assert finished.record is not None
            if finished.record["status"] == "failed":
                log.warning("%s: %s", finished.record["prompt_id"], finished.record["reason"])
                failed += 1
            progress.update()
    return failed


def candidates(
    prompts: Sequence[Prompt],
    generator: Generator,
    count: int,
    duration: float,
    prefixes: Sequence[float],
    seed: int,
) -> tuple[NDArray[np.int16], dict[str, dict[str, NDArray[np.float32]]], list[Ledger]]:
    """Whole clips of several prompts, and how likely they and their beginnings are.

    Decoding pauses at each of `prefixes` (seconds); tokens are those of an unpaused run. Returns
    tokens int16 [prompts, count, codebooks, frames]; mean log-probabilities in nats with the text
    (LOG_PROBS) and, if guided, without it (UNCONDITIONAL), by prefix, float32 [prompts, count]
    each; and every prompt's ledger.
    """
    rate = generator.frame_rate
    frames = round(duration * rate)
    ledgers = {index: Ledger(frames=count * frames) for index in range(len(prompts))}
    with timed(ledgers, "conditions"):
        texts, keys = [p.text for p in prompts], [p.key for p in prompts]
        batch = generator.begin(texts, keys, count, frames, seed)
        generator.synchronize()
    likely: dict[str, dict[str, NDArray[np.float32]]] = {LOG_PROBS: {}}
    if batch.guided:
        likely[UNCONDITIONAL] = {}
    with timed(ledgers, "decode"):
        for seconds in (*sorted(prefixes), None):
            end = frames if seconds is None else round(seconds * rate)
            batch.advance(end - batch.finished)
            for name, found in likely.items():
                mean = batch.mean_log_prob(conditional=name == LOG_PROBS).tolist()
                found[prefix_key(seconds)] = np.array(mean, np.float32).reshape(-1, count)
        generator.synchronize()
    tokens = np.asarray(batch.tokens().cpu(), dtype=np.int16)
    return tokens.reshape(len(prompts), count, *tokens.shape[1:]), likely, list(ledgers.values())


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
