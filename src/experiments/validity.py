"""What verifiers and judges can hear: they are asked about references, whose prompt is known.

    validate(run, prompts, scorers, ("perplexity", "pmi"), generator, client)

adds to a pool's folder one record a measure and reference, {"kind": "validity", ..}:

    scores      the measure's number of this reference under each prompt, by prompt id
    degraded    and of its degraded copies (degraded.py) under its own prompt, by name
    halves      and of both halves of its prompt's first HALVED clips in the pool: two lists
    own_clips   of judges: for each of the first CLIPS clips whether its own prompt is first among
                all prompts (`first`), and the share of wrong prompts that it suits less (`auc`)

A killed run goes on there; src/reports/validity.py makes tables of it. A judge that compares with
the reference hears a part of the reference in place of a clip, and what comes before it in place of
the reference: two parts of one piece belong together. Likelihoods of references are those of the
codec's tokens.
"""

import logging
import math
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from functools import cached_property, lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.client import ServerClient
from src.data.audio import Clip
from src.data.progress import bar
from src.data.prompts import Prompt
from src.decoding.sampling import Sampling
from src.experiments.degraded import degraded, through_codec
from src.experiments.pool_outcome import Scorer
from src.experiments.references import Reference, cut, load_references
from src.generator import Generator
from src.judges.base import CONTRAST, WRONG, ClipJudge, JudgeError, ReferenceJudge
from src.protocol import Score
from src.runs.measures import Measure
from src.runs.pool import Numbers, load_tokens
from src.runs.records import CANDIDATES, Record, validity_key
from src.runs.run import Run
from src.scoring import LIKELIHOODS, likelihood
from src.stats.identification import rank

log = logging.getLogger(__name__)

VALIDITY_PROMPTS = 128  # each reference is heard under each prompt
CLIPS, HALVED = 8, 4  # of a prompt in the pool
CONTROLS = (WRONG, CONTRAST)  # judges whose validity is that of the judge they belong to
DIGITS = 6

Pair = tuple[Clip, Prompt]
# To scores, degraded, halves (all of the first, then all of the second) and, of judges, own clips;
# NaN: no number.
Answers = list[list[float]]


def validate(
    run: Run,
    prompts: Sequence[Prompt],
    scorers: Sequence[Scorer],
    likelihoods: Iterable[str],
    generator: Generator,
    client: ServerClient | None,
) -> None:
    """Ask what is lacking of scorers and of the generator's own likelihoods.

    prompts: those with candidates and a reference are used, the first VALIDITY_PROMPTS of them.
    Raises VerifierError.
    """
    likely = [Scorer(Measure(n, "verifier"), generator.checkpoint) for n in likelihoods]
    scorers = examinable(scorers) + likely
    usable = [p for p in prompts if p.is_referenced and run.is_done(CANDIDATES, p.id)]
    if len(usable) > VALIDITY_PROMPTS:
        log.info("validity: the first %d of %d references", VALIDITY_PROMPTS, len(usable))
    seconds = run.manifest["identity"]["duration"]
    with tempfile.TemporaryDirectory(prefix="references-") as scratch:
        found = load_references(usable[:VALIDITY_PROMPTS], seconds, generator, Path(scratch))
        examined = Examination(run, list(found), scorers, generator, client)
        if len(examined.references) < 2:
            log.warning("validity is left out: no two prompts have reference audio")
            return
        lacking = [
            [scorer.name for scorer in scorers if examined.lacks(own, scorer)]
            for own in examined.references
        ]
        total, left = len(lacking) * len(scorers), sum(map(len, lacking))
        with bar("validity", total, total - left, "reference x measure") as progress:
            for own, names in zip(examined.references, lacking, strict=True):
                for name, answers in examined.answers(own, names):
                    run.append(examined.record(own, name, answers))
                    progress.update()


def examinable(scorers: Iterable[Scorer]) -> list[Scorer]:
    """Those that say something of one clip and have a validity of their own."""
    return [s for s in scorers if not (s.name.endswith(CONTROLS) or s.is_medoid)]


class Examination:
    """Asks measures about one reference after the other."""

    def __init__(
        self,
        run: Run,
        references: Sequence[Reference],
        scorers: Sequence[Scorer],
        generator: Generator,
        client: ServerClient | None,
    ) -> None:
        self.run, self.references, self.generator, self.client = run, references, generator, client
        self.scorers = {scorer.name: scorer for scorer in scorers}
        self.ids = [own.prompt.id for own in references]
        # Several measures hear these of one reference.
        self.coded = lru_cache(maxsize=1)(partial(through_codec, renderer=generator))
        self.copies = lru_cache(maxsize=3)(partial(degraded, renderer=generator))
        self.clips = lru_cache(maxsize=1)(lambda name: generator.render(self.tokens(name)))

    def tokens(self, prompt_id: str) -> Tensor:
        """int64 [clips, codebooks, frames]: the prompt's first clips in the pool."""
        return torch.from_numpy(load_tokens(self.run.folder, prompt_id)[:CLIPS]).long()

    def lacks(self, own: Reference, scorer: Scorer) -> bool:
        """Whether there is no record of these weights over these prompts."""
        there = self.run.latest(validity_key(scorer.name), own.prompt.id)
        weights = scorer.checkpoint.model_dump()
        return there is None or there["checkpoint"] != weights or {*there["scores"]} != {*self.ids}

    def answers(self, own: Reference, names: Sequence[str]) -> Iterator[tuple[str, Answers]]:
        """What each of these measures says of a reference."""
        groups = defaultdict[tuple[Any, ...], list[str]](list)
        for name in names:
            groups[self.group(self.scorers[name])].append(name)
        for (ask, *how), alike in groups.items():
            yield from ask(own, alike, *how).items()

    def group(self, scorer: Scorer) -> tuple[Any, ...]:
        """How a measure is asked: those that are asked in one way are asked together."""
        if scorer.judge is not None:
            coded = isinstance(scorer.judge, ReferenceJudge) and scorer.judge.through_codec
            return self.by_judges, scorer.judge.needs_reference, coded
        if scorer.name in LIKELIHOODS:
            return (self.by_generator,)
        return self.by_server, scorer.name in self.reading

    @cached_property
    def reading(self) -> set[str]:
        """Verifiers of the server that read the prompt; others give it no influence."""
        assert self.client is not None
        return {hosted.name for hosted in self.client.listing().verifiers if hosted.needs_text}

    def by_server(self, own: Reference, names: Sequence[str], reading: bool) -> dict[str, Answers]:
        assert self.client is not None
        asked = self.pairs(own.whole, own.prompt, [r.prompt for r in self.references])
        if not reading:
            asked[0] = [(own.whole, own.prompt)]
        weights = {name: self.scorers[name].checkpoint for name in names}
        flat = [pair for pairs in asked for pair in pairs]
        results = self.client.score(weights, [p.text for _, p in flat], [clip for clip, _ in flat])
        found = {}
        for name, result in results.items():
            values = [s.value if isinstance(s, Score) else math.nan for s in result.scores]
            found[name] = in_parts(values, asked)
            if not reading:
                found[name][0] *= len(self.references)
        return found

    def by_judges(
        self, own: Reference, names: Sequence[str], halved: bool, coded: bool
    ) -> dict[str, Answers]:
        """halved: they compare with the reference. coded: and that through the codec, as if it had
        been generated; then so is what they hear."""
        if halved:
            others = [r.halved for r in self.references]
            part = self.coded(own.other) if coded else own.other
            asked = self.pairs(part, own.halved, others)
        else:
            asked = self.pairs(own.whole, own.prompt, [r.prompt for r in self.references])
        clips = self.clips(own.prompt.id)
        asked.append([(clip, r.prompt) for clip in clips for r in self.references])
        judges = [self.scorers[name].judge for name in names]
        # Clip by clip: judges that share a network hear through it once.
        heard = [[number(judge, *pair) for judge in judges] for pairs in asked for pair in pairs]
        values = np.array(heard).T.tolist()
        return {name: in_parts(of, asked) for name, of in zip(names, values, strict=True)}

    def pairs(self, heard: Clip, own: Prompt, prompts: Sequence[Prompt]) -> list[list[Pair]]:
        """Clips and prompts for `scores`, `degraded` and `halves`."""
        clips = self.clips(own.id)[:HALVED]
        middle = clips[0].seconds / 2
        halves = [cut(clip, at, at + middle) for at in (0.0, middle) for clip in clips]
        return [
            [(heard, prompt) for prompt in prompts],
            [(worse, own) for worse in self.copies(heard).values()],
            [(half, own) for half in halves],
        ]

    def by_generator(self, own: Reference, names: Sequence[str]) -> dict[str, Answers]:
        texts = [r.prompt.text for r in self.references]
        tokens = self.generator.encode(own.whole)[None]
        every = tokens.expand(len(texts), -1, -1)
        given = log_probs(self.generator, every, texts, guided=False)[0].mean(-1)
        mine = [own.prompt.text]
        alone = log_probs(self.generator, tokens, mine)[1].mean(-1)
        copies = [self.generator.encode(clip)[None] for clip in self.copies(own.whole).values()]
        worse = torch.cat([log_probs(self.generator, of, mine).mean(-1) for of in copies], dim=1)
        clips = self.tokens(own.prompt.id)[:HALVED]
        frames = log_probs(self.generator, clips, mine * len(clips))
        middle = frames.shape[-1] // 2
        parts = [frames[..., :middle].mean(-1), frames[..., middle:].mean(-1)]
        asked = [torch.stack([given, alone.expand_as(given)]), worse, torch.cat(parts, dim=1)]
        return {
            name: [likelihood(name, *of.double().numpy()).tolist() for of in asked]
            for name in names
        }

    def record(self, own: Reference, name: str, answers: Answers) -> Record:
        scores, worse, halves, *rest = answers
        index, middle = self.ids.index(own.prompt.id), len(halves) // 2
        record = {
            **validity_key(name),
            "prompt_id": own.prompt.id,
            "status": "ok",
            "checkpoint": self.scorers[name].checkpoint.model_dump(),
            "aspects": own.prompt.aspects,
            "scores": dict(zip(self.ids, in_short(scores), strict=True)),
            "degraded": dict(zip(self.copies(own.whole), in_short(worse), strict=True)),
            "halves": [in_short(halves[:middle]), in_short(halves[middle:])],
        }
        if rest:
            sign = self.scorers[name].measure.sign
            ranks = [
                rank(row[index], np.delete(row, index))
                for row in sign * np.reshape(rest[0], (-1, len(self.ids)))
            ]
            first, auc = (in_short(column) for column in zip(*ranks, strict=True))
            record["own_clips"] = {"first": first, "auc": auc}
        return record


def log_probs(
    generator: Generator, tokens: Tensor, texts: Sequence[str], guided: bool = True
) -> Tensor:
    """How likely given tokens are: float32 [halves, rows, frames], means over codebooks, in nats.

    tokens: int64 [rows, codebooks, frames]. texts: one a row. halves: with the text, and, if
    guided, without it.
    """
    listening = copy(generator)
    listening.decoder = copy(generator.decoder)
    # any guidance: nothing is sampled
    listening.decoder.sampling = Sampling(guidance=3.0 if guided else 1.0)
    frames, given = tokens.shape[-1], list(tokens.cpu().numpy())
    decoding = listening.begin(texts, texts, 1, frames, seed=0, given=given)
    decoding.advance(0)  # the tokens that the delay pattern holds beyond the last frame
    return decoding.log_probs().mean(2).cpu()


def number(judge: ClipJudge | None, clip: Clip, prompt: Prompt) -> float:
    """What a judge says of a clip; NaN where it has no number."""
    assert judge is not None
    try:
        return judge.judge(clip, prompt)
    except JudgeError as error:
        log.debug("%s", error)
        return math.nan


def in_parts(values: Sequence[float], asked: Sequence[Sequence[Pair]]) -> list[list[float]]:
    """The values of all pairs, in order, by what was asked."""
    rest = iter(values)
    return [list(islice(rest, len(pairs))) for pairs in asked]


def in_short(values: Iterable[float]) -> Numbers:
    """In DIGITS figures; None for NaN."""
    return [float(f"{x:.{DIGITS}g}") if math.isfinite(x) else None for x in values]
