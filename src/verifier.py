"""What a search sees of a verifier: a name, whether it hears audio, and `score`.

    perplexity               local: the inverse perplexity of the candidate's own tokens
    tags, clap, ...          over HTTP, from the verifier server
    0.7*tags+0.3*perplexity  a sum, each part in units of its spread within a prompt

`build_verifier` makes one from what the user wrote; higher is better, always. No torch here.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from src.audio import Clip
from src.budget import Ledger
from src.calibration import Calibration
from src.server_client import (
    PromptRefused,
    ServerClient,
    ServerError,
    ServerUnreachable,
    VerifierError,
)
from src.wire import Checkpoint, Score, VerifierResult

__all__ = [
    "ExpressionError",
    "HttpVerifier",
    "PerplexityVerifier",
    "PromptRefused",
    "ScoreInput",
    "ServerClient",
    "ServerError",
    "ServerUnreachable",
    "SumVerifier",
    "Verifier",
    "VerifierError",
    "build_verifier",
    "components",
    "score_or_refuse",
    "server_checkpoints",
]

PERPLEXITY = "perplexity"

_TERM = re.compile(r"\s*(?:(?P<weight>[^\s*+]+)\s*\*\s*)?(?P<name>[A-Za-z_]\w*)\s*")


class ExpressionError(ValueError):
    """A --verifier that cannot be understood; the message shows how to write one."""


@dataclass(frozen=True)
class ScoreInput:
    """A candidate, as verifiers see it.

    clip: None where no verifier of the run hears audio. log_prob: mean conditional log-probability
    over codebooks and finished frames, in nats.
    """

    prompt: str
    clip: Clip | None
    log_prob: float


class Verifier(Protocol):
    """name: as the user wrote it. checkpoints: by component verifier."""

    name: str
    needs_audio: bool
    checkpoints: dict[str, Checkpoint]

    def score(self, inputs: Sequence[ScoreInput]) -> list[Score]:
        """One score per input, in order.

        Raises PromptRefused for inputs that have no score, and another VerifierError when the
        verifier itself fails.
        """

    def take_usage(self) -> Ledger:
        """What `score` used since this was last called: bytes, and seconds by stage."""


def score_or_refuse(
    verifier: Verifier, inputs: Sequence[ScoreInput]
) -> list[Score | PromptRefused]:
    """Scores of all inputs that have one; asks again without those that are refused."""
    outcomes: dict[int, Score | PromptRefused] = {}
    while left := [index for index in range(len(inputs)) if index not in outcomes]:
        try:
            scores = verifier.score([inputs[index] for index in left])
            outcomes |= dict(zip(left, scores, strict=True))
        except PromptRefused as refusal:
            for position, reason in refusal.refused.items():
                outcomes[left[position]] = PromptRefused({left[position]: reason})
    return [outcomes[index] for index in range(len(inputs))]


class PerplexityVerifier:
    """exp of the mean log-probability: the inverse perplexity, in (0, 1]."""

    name = PERPLEXITY
    needs_audio = False

    def __init__(self, generator: Checkpoint) -> None:
        self.checkpoints = {PERPLEXITY: generator}

    def score(self, inputs: Sequence[ScoreInput]) -> list[Score]:
        unscored = {
            index: f"{PERPLEXITY}: the log-probability is {item.log_prob}"
            for index, item in enumerate(inputs)
            if not math.isfinite(item.log_prob)
        }
        if unscored:
            raise PromptRefused(unscored)
        return [
            Score(value=math.exp(item.log_prob), components={"log_prob": item.log_prob})
            for item in inputs
        ]

    def take_usage(self) -> Ledger:
        return Ledger()


class HttpVerifier:
    """One of the server's verifiers. checkpoint: what the server said it hosts under that name."""

    needs_audio = True

    def __init__(self, client: ServerClient, name: str, checkpoint: Checkpoint) -> None:
        self.name = name
        self.client = client
        self.checkpoints = {name: checkpoint}

    def score(self, inputs: Sequence[ScoreInput]) -> list[Score]:
        return _ask(self.client, self.checkpoints, inputs)[self.name].scores

    def take_usage(self) -> Ledger:
        return self.client.take_usage()


class SumVerifier:
    """A weighted sum; scales: each part's within-prompt standard deviation.

    All parts that hear audio are asked in one request. A score's components are the parts' own
    values, unweighted.
    """

    def __init__(
        self,
        name: str,
        weights: dict[str, float],
        scales: dict[str, float],
        checkpoints: dict[str, Checkpoint],
        client: ServerClient | None,
    ) -> None:
        self.name = name
        self.weights = weights
        self.scales = scales
        self.checkpoints = checkpoints
        self.needs_audio = any(part != PERPLEXITY for part in weights)
        self.client = client if self.needs_audio else None

    def score(self, inputs: Sequence[ScoreInput]) -> list[Score]:
        parts: dict[str, list[Score]] = {}
        if PERPLEXITY in self.weights:
            local = PerplexityVerifier(self.checkpoints[PERPLEXITY])
            parts[PERPLEXITY] = local.score(inputs)
        if self.client is not None:
            remote = {p: c for p, c in self.checkpoints.items() if p != PERPLEXITY}
            results = _ask(self.client, remote, inputs)
            parts |= {part: result.scores for part, result in results.items()}
        sums = []
        for index in range(len(inputs)):
            values = {part: parts[part][index].value for part in self.weights}
            total = sum(self.weights[p] * value / self.scales[p] for p, value in values.items())
            sums.append(Score(value=total, components=values))
        return sums

    def take_usage(self) -> Ledger:
        return Ledger() if self.client is None else self.client.take_usage()


def components(expression: str) -> dict[str, float]:
    """The parts of a --verifier with their weights. Raises ExpressionError.

    >>> components("0.7*tags + perplexity")
    {'tags': 0.7, 'perplexity': 1.0}
    Raises ExpressionError.
    """
    weights: dict[str, float] = {}
    at = 0
    while True:
        term = _TERM.match(expression, at)
        if term is None or (term.end() < len(expression) and expression[term.end()] != "+"):
            raise ExpressionError(
                f"--verifier {expression!r} is not a verifier or a sum of them; "
                "write tags, tags+perplexity or 0.7*tags+0.3*perplexity"
            )
        name, weight = term["name"], _weight(term["weight"], expression)
        if name in weights:
            raise ExpressionError(f"--verifier {expression!r} names {name} twice")
        weights[name] = weight
        if term.end() == len(expression):
            return weights
        at = term.end() + 1


def build_verifier(
    expression: str,
    generator: Checkpoint | None,
    server: ServerClient | None,
    calibration: Calibration | None,
) -> Verifier:
    """The verifier that `expression` names.

    generator: needed by perplexity and by sums. server: needed by all but perplexity. calibration:
    needed by sums. Raises ExpressionError, CalibrationError, or what the server's client raises.
    """
    weights = components(expression)
    remote = [name for name in weights if name != PERPLEXITY]
    checkpoints: dict[str, Checkpoint] = {}
    if PERPLEXITY in weights:
        if generator is None:
            raise VerifierError(f"{PERPLEXITY} needs a generator")
        checkpoints[PERPLEXITY] = generator
    if remote:
        if server is None:
            raise VerifierError(f"{', '.join(remote)}: needs a verifier server (--server)")
        checkpoints |= server_checkpoints(server, remote)
    if len(weights) == 1 and "*" not in expression:
        if not remote:
            return PerplexityVerifier(checkpoints[PERPLEXITY])
        assert server is not None
        return HttpVerifier(server, remote[0], checkpoints[remote[0]])
    if generator is None:
        raise VerifierError(f"{expression}: a sum's constants belong to a generator; none is given")
    checkpoints = {name: checkpoints[name] for name in weights}
    scales = (calibration or Calibration(generator=generator)).scales(generator, checkpoints)
    return SumVerifier(expression, weights, scales, checkpoints, server)


def server_checkpoints(server: ServerClient, names: Sequence[str]) -> dict[str, Checkpoint]:
    """The weights of the server's verifiers `names`, once they are loaded. Raises ServerError."""
    checkpoints = {}
    for name, info in server.infos(names).items():
        if info.checkpoint is None:
            raise ServerError(f"{server.url} does not say which weights {name} has")
        checkpoints[name] = info.checkpoint
    return checkpoints


def _weight(text: str | None, expression: str) -> float:
    try:
        weight = 1.0 if text is None else float(text)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight > 0):
        raise ExpressionError(
            f"--verifier {expression!r}: the weight {text!r} is not a positive number"
        )
    return weight


def _ask(
    client: ServerClient, checkpoints: dict[str, Checkpoint], inputs: Sequence[ScoreInput]
) -> dict[str, VerifierResult]:
    """One request for several verifiers; their weights must be those that the run began with."""
    clips = [item.clip for item in inputs if item.clip is not None]
    if len(clips) != len(inputs):
        raise VerifierError(f"{', '.join(checkpoints)}: a candidate came without its audio")
    results = client.score(list(checkpoints), [item.prompt for item in inputs], clips)
    for name, result in results.items():
        if result.checkpoint != checkpoints[name]:
            raise ServerError(
                f"{client.url} now scores {name} with other weights "
                f"({result.checkpoint}, before: {checkpoints[name]}); start a new run"
            )
    return results
