"""What a search sees of a verifier: a name, whether it hears audio, and `score`.

    perplexity, pmi          local: how likely the generator finds the tokens (src/likelihood.py)
    tags, clap, ...          over HTTP, from the verifier server
    0.7*tags+0.3*perplexity  a sum, each part in units of its spread within a prompt

`build_verifier` makes one from what the user wrote; higher is better, always. No torch here.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from src.budget import Ledger
from src.client import PromptRefused, ServerClient, VerifierError
from src.data.audio import Clip
from src.data.scales import Calibration
from src.likelihood import LIKELIHOODS, NEEDS_GUIDANCE
from src.protocol import Checkpoint, Score, VerifierResult

_TERM = re.compile(r"\s*(?:(?P<weight>[^\s*+]+)\s*\*\s*)?(?P<name>[A-Za-z_]\w*)\s*")


class ExpressionError(ValueError):
    """A --verifier that cannot be understood; the message shows how to write one."""


@dataclass(frozen=True)
class ScoreInput:
    """A candidate, as verifiers see it.

    clip: None where no verifier of the run hears audio. log_prob: mean conditional log-probability
    over codebooks and finished frames, in nats; unconditional: the same without the text, None
    where decoding is not guided.
    """

    prompt: str
    clip: Clip | None
    log_prob: float
    unconditional: float | None = None


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


class LikelihoodVerifier:
    """What the generator says itself. name: of LIKELIHOODS; generator: whose probabilities."""

    needs_audio = False

    def __init__(self, name: str, generator: Checkpoint) -> None:
        self.name = name
        self.checkpoints = {name: generator}

    def score(self, inputs: Sequence[ScoreInput]) -> list[Score]:
        if self.name in NEEDS_GUIDANCE and any(item.unconditional is None for item in inputs):
            raise VerifierError(f"{self.name} needs guidance, and decoding is not guided")
        value_of = LIKELIHOODS[self.name]
        values = [float(value_of(item.log_prob, item.unconditional)) for item in inputs]
        unscored = {
            index: f"{self.name}: the log-probabilities are {_told(inputs[index])}"
            for index, value in enumerate(values)
            if not math.isfinite(value)
        }
        if unscored:
            raise PromptRefused(unscored)
        return [
            Score(value=value, components=_told(item))
            for item, value in zip(inputs, values, strict=True)
        ]

    def take_usage(self) -> Ledger:
        return Ledger()


def _told(item: ScoreInput) -> dict[str, float]:
    told = {"log_prob": item.log_prob}
    return told if item.unconditional is None else told | {"unconditional": item.unconditional}


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
        self.needs_audio = bool(remote_parts(weights))
        self.client = client if self.needs_audio else None

    def score(self, inputs: Sequence[ScoreInput]) -> list[Score]:
        parts: dict[str, list[Score]] = {}
        for part in self.weights.keys() & LIKELIHOODS.keys():
            parts[part] = LikelihoodVerifier(part, self.checkpoints[part]).score(inputs)
        if self.client is not None:
            remote = {part: self.checkpoints[part] for part in remote_parts(self.weights)}
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


def remote_parts(names: Iterable[str]) -> list[str]:
    """Those verifiers that the server has, each once."""
    return [name for name in dict.fromkeys(names) if name not in LIKELIHOODS]


def build_verifier(
    expression: str,
    generator: Checkpoint | None,
    server: ServerClient | None,
    calibration: Calibration | None,
) -> Verifier:
    """The verifier that `expression` names.

    generator: needed by perplexity, pmi and sums. server: needed by all but these. calibration:
    needed by sums. Raises ExpressionError, CalibrationError, or what the server's client raises.
    """
    weights = components(expression)
    remote = remote_parts(weights)
    checkpoints: dict[str, Checkpoint] = {}
    for name in weights.keys() & LIKELIHOODS.keys():
        if generator is None:
            raise VerifierError(f"{name} needs a generator")
        checkpoints[name] = generator
    if remote:
        if server is None:
            raise VerifierError(f"{', '.join(remote)}: needs a verifier server (--server)")
        checkpoints |= server.checkpoints(remote)
    if len(weights) == 1 and "*" not in expression:
        if not remote:
            return LikelihoodVerifier(expression.strip(), checkpoints[expression.strip()])
        assert server is not None
        return HttpVerifier(server, remote[0], checkpoints[remote[0]])
    if generator is None:
        raise VerifierError(f"{expression}: a sum's constants belong to a generator; none is given")
    checkpoints = {name: checkpoints[name] for name in weights}
    scales = (calibration or Calibration(generator=generator)).scales(generator, checkpoints)
    return SumVerifier(expression, weights, scales, checkpoints, server)


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
    prompts = [item.prompt for item in inputs]
    return client.score(list(checkpoints), prompts, clips, checkpoints)
