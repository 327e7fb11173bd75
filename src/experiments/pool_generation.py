"""Making pools: the candidates of each prompt, generated once.

    run = open_pool(settings, prompts, generator)
    generate(run, prompts, generator, settings)

A pool's folder is a run's (src/runs/records.py); pool_scoring.py adds scores, src/runs/pool.py
reads it. Its name follows from what decides the candidates and not from who scores them. A
prompt's tokens are written whole before their record, so that a pool may be killed anywhere and
goes on there.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from src.budget import Ledger, timed
from src.data.progress import bar
from src.data.prompts import Prompt, PromptError, Selection, digest_of, load_prompts
from src.experiments.scaling_settings import GENERATING, NO_PREFIXES, ExperimentSettings
from src.likelihood import PERPLEXITY
from src.protocol import Checkpoint
from src.runs.pool import CANDIDATES, LOG_PROBS, UNCONDITIONAL, Pool, prefix_key, token_file
from src.runs.records import Run
from src.runs.settings import UsageError
from src.search import Candidates

log = logging.getLogger(__name__)


class Generator(Protocol):
    """What makes candidates: frame_rate in frames a second; device and dtype as manifests have
    them."""

    checkpoint: Checkpoint
    frame_rate: float
    dtype: str

    @property
    def device(self) -> str: ...
    def begin(
        self, prompts: Sequence[str], keys: Sequence[str], candidates: int, frames: int, seed: int
    ) -> Candidates: ...
    def synchronize(self) -> None: ...


def identity(
    settings: ExperimentSettings, prompts: Sequence[Prompt], generator: Generator
) -> dict[str, Any]:
    """All that decides a pool's candidates, as JSON values."""
    return {
        "script": "pool",
        "candidates": settings.candidates,
        "frames": round(settings.duration * generator.frame_rate),
        **{name: getattr(settings, name) for name in GENERATING},
        "device": generator.device,
        "dtype": generator.dtype,
        "prompts": {"count": len(prompts), "sha256": digest_of(prompts)},
        "checkpoints": {"generator": generator.checkpoint.model_dump()},
    }


def open_pool(
    settings: ExperimentSettings,
    prompts: Sequence[Prompt],
    generator: Generator,
    here: Mapping[str, Any] | None = None,
) -> Run:
    """The pool's folder, new or begun before. Raises RunFolderError."""
    title = (
        f"{settings.model}, {len(prompts)} prompts, {settings.duration:g} s; "
        f"pool of {settings.candidates}, seed {settings.seed}"
    )
    name = f"pool-{settings.profile}-m{settings.candidates}"
    facts = {
        "title": title,
        "source": {n: getattr(settings, n) for n in ("profile", "model", "prompts")},
    }
    return Run(settings.output, name, identity(settings, prompts, generator), facts, here)


def generate(
    run: Run, prompts: Sequence[Prompt], generator: Generator, settings: ExperimentSettings
) -> None:
    """The candidates of every prompt that has none.

    Groups are those of an unbroken run, whatever of them is done: equal shapes give equal tokens.
    """
    m, size = settings.candidates, max(1, settings.max_rows // settings.candidates)
    todo = {prompt.id for prompt in prompts if not run.is_done(CANDIDATES, prompt.id)}
    done = len(prompts) - len(todo)
    log.info("%s: %d of %d prompts have their candidates", run.folder, done, len(prompts))
    with bar("generate", len(prompts), done, "prompt") as progress:
        for group in (prompts[at : at + size] for at in range(0, len(prompts), size)):
            if todo.isdisjoint(prompt.id for prompt in group):
                continue
            tokens, likely, ledgers = candidates(
                group, generator, m, settings.duration, settings.prefix_seconds, settings.seed
            )
            for index, prompt in enumerate(group):
                if prompt.id not in todo:
                    continue
                save_tokens(token_file(run.folder, prompt.id), tokens[index])
                run.append(
                    {
                        "method": CANDIDATES,
                        "prompt_id": prompt.id,
                        "status": "ok",
                        "prompt": prompt.text,
                        "key": prompt.key,
                        **{
                            name: {key: short(p[index]) for key, p in found.items()}
                            for name, found in likely.items()
                        },
                        "ledger": asdict(ledgers[index]),
                    }
                )
                progress.update()


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


def save_tokens(path: Path, tokens: NDArray[np.int16]) -> None:
    """Write int16 [m, codebooks, frames] whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.stem}.part.npy")
    np.save(scratch, tokens)
    scratch.replace(path)


def short(values: ArrayLike) -> list[float]:
    """As float32, in as few digits as tell it from its neighbours: pools hold many numbers."""
    return [float(str(value)) for value in np.asarray(values, dtype=np.float32).ravel()]


def of_pool(settings: ExperimentSettings, pool: Pool) -> ExperimentSettings:
    """The settings with what the pool was generated by, which nobody has to repeat.

    Raises UsageError where they ask for something else.
    """
    identity, source = pool.manifest["identity"], pool.manifest["source"]
    kept = {name: identity[name] for name in GENERATING} | dict(source)
    usual = ExperimentSettings(profile=settings.profile).resolved()
    for name, value in kept.items():
        asked = getattr(settings, name)
        if asked not in (value, getattr(usual, name)):
            raise UsageError(
                f"--{name} {asked}: the pool in {pool.folder} has {value}; leave it out"
            )
    if settings.pool_size not in (None, pool.size):
        raise UsageError(f"--pool_size: the pool in {pool.folder} has {pool.size}; leave it out")
    budgets = settings.budgets
    if budgets == usual.budgets:
        budgets = tuple(n for n in budgets if n <= pool.size)
    elif max(budgets) > pool.size:
        raise UsageError(f"--budgets {max(budgets)} is more than the pool's {pool.size} candidates")
    seeds = settings.seeds if settings.seeds != (settings.seed,) else (kept["seed"],)
    prefixes = settings.prefixes or tuple(map(prefix_key, pool.seconds_of(PERPLEXITY)))
    adopted = replace(
        settings,
        **kept,
        pool_size=pool.size,
        budgets=budgets,
        seeds=seeds,
        prefixes=prefixes or (NO_PREFIXES,),
    )
    if late := [at for at in adopted.prefix_seconds if at >= adopted.duration]:
        raise UsageError(f"--prefixes must end before the clip does: {late[0]:g} s is too long")
    return adopted


def prompts_of(pool: Pool, data_dir: Path) -> list[Prompt]:
    """The pool's prompts, with their reference audio where their set is still there."""
    source = pool.manifest["source"]["prompts"]
    try:
        there = {p.id: p for p in load_prompts(source, Selection(limit=10**9), data_dir)}
    except PromptError as error:
        log.warning("the pool's prompts come without reference audio: %s", error)
        there = {}
    found = []
    for name, record in pool.candidates.items():
        own = Prompt(id=name, text=record["prompt"], key=record["key"])
        same = there.get(name)
        found.append(same if same and (same.text, same.key) == (own.text, own.key) else own)
    return found
