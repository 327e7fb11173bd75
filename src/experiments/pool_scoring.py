"""Scoring pools: every verifier and judge hears each candidate once.

    scorers = list_scorers(["tags"], ["msd_kld"], hosted, (), codec)
    hearers = Hearers({scorer.name: scorer for scorer in scorers}, {}, codec, client)
    score(run, prompts, hearers, here(hearers))

Each measure of each prompt is a record of its own in the pool's folder: scoring may be killed
anywhere and goes on there, and what is named later is added. Scores of other weights than a
measure's, or of another definition, are taken anew.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from src.client import ServerClient
from src.data.audio import Clip
from src.data.progress import bar
from src.data.prompts import Prompt
from src.decoding.renderer import Renderer
from src.experiments.pool_embedding import Hearing
from src.experiments.pool_outcome import Outcome, Scorer
from src.judges.base import ClipJudge, SetJudge
from src.judges.registry import JUDGES
from src.protocol import Checkpoint, NoScore, VerifierResult
from src.runs.evaluation import measure_of
from src.runs.measures import Measure, Role
from src.runs.pool import LOG_PROBS, WHOLE, load_tokens
from src.runs.records import CANDIDATES, Record, scores_key
from src.runs.run import Finished, Run
from src.runs.work import Workers
from src.scoring import host_of
from src.verifier import medoid
from src.verifier_core import shares_data_with

log = logging.getLogger(__name__)

# A record that has these as the one before it had them, such as a refusal, is not written again.
NEAREST = "relative to all clips of the prompt in this pool, also where fewer are chosen from"
TOLD = ("status", "values", "reason", "checkpoint", "definition", "role")


def list_scorers(
    verifiers: Sequence[str],
    judges: Sequence[str],
    hosted: Mapping[str, Checkpoint],
    prefixes: Sequence[float],
    renderer: Renderer,
) -> list[Scorer]:
    """What is to score: verifiers at prefixes and whole, then judges, whole.

    hosted: the server's checkpoints, of verifiers and of those that judge. A verifier that is asked
    to judge as well is a verifier. renderer: the codec that references may be heard through.
    """
    listed = []
    for name in dict.fromkeys((*verifiers, *judges)):
        role: Role = "verifier" if name in verifiers else "judge"
        if name in JUDGES:
            judge = JUDGES[name](renderer.device, renderer)
            assert isinstance(judge, ClipJudge)
            listed.append(Scorer(measure_of(judge, role), judge.checkpoint, judge=judge))
            continue
        verifier = host_of(name)
        note = NEAREST if verifier != name else ""
        shared = shares_data_with(verifier)
        measure = Measure(name, role, is_verifier=(verifier,), shares_data_with=shared, note=note)
        heard = tuple(prefixes) if role == "verifier" else ()
        listed.append(Scorer(measure, hosted[verifier], heard))
    return listed


@dataclass(frozen=True)
class Hearers:
    """What hears a pool. scorers: by measure. networks: a judge of sets for each network that
    hears, by its embeddings' name. renderer: the codec. client: of the verifier server."""

    scorers: Mapping[str, Scorer]
    networks: Mapping[str, SetJudge]
    renderer: Renderer
    client: ServerClient | None


@dataclass(frozen=True)
class Scoring:
    """A piece of work: what one prompt's candidates still lack.

    tokens: int16 [m, codebooks, frames]. candidates: the prompt's record. lacking: what there is of
    each measure that lacks something, a record or None. unheard: names of networks.
    """

    prompts: Sequence[Prompt]
    tokens: NDArray[np.int16]
    candidates: Record
    lacking: Mapping[str, Record | None]
    unheard: tuple[str, ...]

    def do(self, parts: Hearers) -> Iterator[Finished]:
        """Records of measures once they lack nothing, verifiers' first; files of embeddings.

        Clips are rendered once a prefix and sent once for all verifiers; a prefix is rendered from
        its own frames alone, as a search at that point renders it. Raises VerifierError.
        """
        (prompt,), renderer = self.prompts, parts.renderer
        lacking = [Outcome(parts.scorers[n], prompt, old) for n, old in self.lacking.items()]
        unheard = [Hearing(name, parts.networks[name], prompt) for name in self.unheard]
        remote = [o for o in lacking if o.scorer.judge is None]
        judging = [o for o in lacking if o.scorer.judge is not None]
        whole = self.ask(remote, parts)
        yield from (o.finished for o in remote if o.scorer.measure.role == "verifier")
        # Clip by clip: judges that share a network hear through it once.
        listening: list[Outcome | Hearing] = [*judging, *unheard]
        if listening and not whole:
            whole = renderer.render(torch.from_numpy(self.tokens).long())
        for index, clip in enumerate(whole):
            for each in listening:
                each.judge(index, clip)
        yield from (o.finished for o in lacking if o.scorer.measure.role == "judge")
        yield from (hearing.finished() for hearing in unheard)

    def ask(self, remote: Sequence[Outcome], parts: Hearers) -> list[Clip]:
        """Have the server answer. Returns the whole clips, where any of them was sent."""
        renderer, client, whole = parts.renderer, parts.client, list[Clip]()
        tokens = torch.from_numpy(self.tokens).long()
        for key, seconds in {key: at for o in remote for key, at in o.keys.items()}.items():
            asked = [o for o in remote if o.wants(key)]
            if not asked:
                continue
            assert client is not None
            frames = None if seconds is None else round(seconds * renderer.frame_rate)
            begin = time.perf_counter()
            clips = renderer.render(tokens[:, :, :frames])
            rendering = time.perf_counter() - begin
            client.take_usage()  # of what came before
            weights = {o.scorer.verifier: o.scorer.checkpoint for o in asked}
            embedded = {o.scorer.verifier for o in asked if o.scorer.is_medoid}
            answers = client.score(weights, [self.prompts[0].text] * len(clips), clips, embedded)
            usage = client.take_usage()
            for o in asked:
                answer = answers[o.scorer.verifier]
                answer = nearest(answer, self.candidates) if o.scorer.is_medoid else answer
                o.take(key, answer, usage, rendering)
            whole = clips if seconds is None else whole
        return whole

    def failed(self, reason: str) -> Iterator[Finished]:
        (prompt,) = self.prompts
        for name in self.lacking:
            log.warning("%s of %s: %s", name, prompt.id, reason)
        yield from ()


def score(run: Run, prompts: Sequence[Prompt], hearers: Hearers, workers: Workers) -> int:
    """Score whatever is lacking, and hear it. Returns how many (prompt, measure) have no score."""
    known = [prompt for prompt in prompts if run.is_done(CANDIDATES, prompt.id)]
    lacking: dict[str, dict[str, Record | None]] = {prompt.id: {} for prompt in known}
    unheard: dict[str, list[str]] = {prompt.id: [] for prompt in known}
    for prompt, (name, scorer) in product(known, hearers.scorers.items()):
        before = run.latest(scores_key(name), prompt.id)
        if Outcome(scorer, prompt, before).is_lacking:
            lacking[prompt.id][name] = before
    for prompt, (name, judge) in product(known, hearers.networks.items()):
        if Hearing(name, judge, prompt).is_lacking(run.folder):
            unheard[prompt.id].append(name)
    total = len(known) * (len(hearers.scorers) + len(hearers.networks))
    left = sum(map(len, lacking.values())) + sum(map(len, unheard.values()))
    pieces = (piece_of(run, prompt, lacking[prompt.id], unheard[prompt.id]) for prompt in known)
    scored = sum(map(len, lacking.values()))
    with bar("score", total, total - left, "prompt x measure") as progress:
        for finished in workers(piece for piece in pieces if piece):
            record = finished.record
            if record is not None:
                before = run.latest(scores_key(record["measure"]), record["prompt_id"]) or {}
                if all(record[name] == before.get(name) for name in TOLD):
                    finished = Finished()
                if record["reason"]:
                    told = record["measure"], record["prompt_id"], record["reason"]
                    log.warning("%s of %s: %s", *told)
                scored -= record["status"] == "ok"
            run.keep(finished)
            progress.update()
    return scored


def piece_of(
    run: Run, prompt: Prompt, lacking: Mapping[str, Record | None], unheard: Sequence[str]
) -> Scoring | None:
    """What is to be done for a prompt; None for nothing."""
    candidates = run.latest(CANDIDATES, prompt.id)
    if candidates is None or not (lacking or unheard):
        return None
    tokens = load_tokens(run.folder, prompt.id)
    return Scoring([prompt], tokens, candidates, lacking, tuple(unheard))


def nearest(answer: VerifierResult, candidates: Record) -> VerifierResult:
    """The medoid of one prompt's EmbeddedScores; those in which the model overflowed are none of
    the others'. candidates: the prompt's record."""
    likely = candidates[LOG_PROBS][WHOLE]
    scores = [
        NoScore(reason="the model overflowed") if log_prob is None else score
        for score, log_prob in zip(answer.scores, likely, strict=True)
    ]
    return answer.model_copy(update={"scores": medoid(scores, [None] * len(scores))})
