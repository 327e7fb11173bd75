"""Making pools: the candidates of each prompt, generated once.

    run = open_pool(settings, prompts, generator)
    generate(run, prompts, generator, settings)

A pool's folder is a run's (src/runs/records.py); pool_scoring.py adds scores, src/runs/pool.py
reads it. Its name follows from what decides the candidates and not from who scores them. A
prompt's tokens are written whole before their record, so that a pool may be killed anywhere and
goes on there.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from src.budget import Ledger, timed
from src.data.progress import bar
from src.data.prompts import Prompt
from src.experiments.scaling_settings import GENERATING, ExperimentSettings
from src.experiments.searching import groups
from src.generator import Generator
from src.runs.build import identity, where
from src.runs.evaluation import write_array
from src.runs.pool import LOG_PROBS, UNCONDITIONAL, prefix_key, token_file
from src.runs.records import CANDIDATES, Run

log = logging.getLogger(__name__)


def open_pool(settings: ExperimentSettings, prompts: Sequence[Prompt], generator: Generator) -> Run:
    """The pool's folder, new or begun before. Raises RunFolderError."""
    title = settings.title(prompts, f"pool of {settings.candidates}, seed {settings.seed}")
    decides = {
        "candidates": settings.candidates,
        "frames": round(settings.duration * generator.frame_rate),
        **{name: getattr(settings, name) for name in GENERATING},
        **where(generator),
    }
    return Run(
        settings.output,
        f"pool-{settings.profile}-m{settings.candidates}",
        identity("pool", decides, prompts, {"generator": generator.checkpoint}),
        {
            "title": title,
            "source": {n: getattr(settings, n) for n in ("profile", "model", "prompts")},
        },
    )


def generate(
    run: Run, prompts: Sequence[Prompt], generator: Generator, settings: ExperimentSettings
) -> None:
    """The candidates of every prompt that has none."""
    todo = {prompt.id for prompt in prompts if not run.is_done(CANDIDATES, prompt.id)}
    done = len(prompts) - len(todo)
    log.info("%s: %d of %d prompts have their candidates", run.folder, done, len(prompts))
    with bar("generate", len(prompts), done, "prompt") as progress:
        for group in groups(prompts, settings.candidates, settings.max_rows, todo):
            tokens, likely, ledgers = candidates(
                *(group, generator, settings.candidates, settings.duration),
                *(settings.prefix_seconds, settings.seed),
            )
            for index, prompt in enumerate(group):
                if prompt.id not in todo:
                    continue
                write_array(token_file(run.folder, prompt.id), tokens[index])
                means = {
                    name: {key: short(p[index]) for key, p in found.items()}
                    for name, found in likely.items()
                }
                run.append(
                    {
                        **CANDIDATES,
                        "prompt_id": prompt.id,
                        "status": "ok",
                        "prompt": prompt.text,
                        "key": prompt.key,
                        **means,
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


def short(values: ArrayLike) -> list[float]:
    """As float32, in as few digits as tell it from its neighbours: pools hold many numbers."""
    return [float(str(value)) for value in np.asarray(values, dtype=np.float32).ravel()]
