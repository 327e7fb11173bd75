"""A pool's candidates: every prompt's, generated once, as tokens and how likely they are."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from src.budget import Ledger, timed
from src.data.progress import bar
from src.data.prompts import Prompt
from src.experiments.scaling_settings import ExperimentSettings
from src.experiments.searching import in_groups, of_group, own_prompts
from src.generator import Generator
from src.runs.build import unread_by
from src.runs.evaluation import npy
from src.runs.pool import LOG_PROBS, UNCONDITIONAL, prefix_key, short, token_file
from src.runs.records import CANDIDATES, Record
from src.runs.run import Finished, Run
from src.runs.work import Workers, here

log = logging.getLogger(__name__)


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
    plan = settings.pool_plan(generator.frame_rate)
    own = own_prompts(run, prompts, plan, generator)
    todo = frozenset(prompt.id for prompt in own if not run.is_done(CANDIDATES, prompt.id))
    done = len(own) - len(todo)
    log.info("%s: %d of %d prompts have their candidates", run.folder, done, len(own))
    asked = (settings.candidates, settings.duration, settings.prefix_seconds, settings.seed)
    groups = in_groups(prompts, plan, generator, todo)
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
