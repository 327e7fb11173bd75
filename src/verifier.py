"""The verifiers that a search can have, built from what the user wrote; no torch here.

What a verifier is, and which there are, stands in src/scoring.py.
"""

import math
from collections.abc import Mapping, Sequence

from src.budget import Ledger
from src.client import ServerClient
from src.data.scales import Calibration
from src.protocol import Checkpoint, Score
from src.scoring import (
    LIKELIHOODS,
    NEEDS_GUIDANCE,
    PromptRefused,
    ScoreInput,
    Verifier,
    VerifierError,
    components,
    remote_parts,
)


class SearchVerifier:
    """One verifier, or a weighted sum of several.

    checkpoints: by part; of a part that the server has, what it said it hosts under that name.
    client: of the server, where a part needs one. weights, scales: of a sum: each part's weight and
    its within-prompt standard deviation; None where there is one part and its own value is the
    score. A sum's components are its parts' own values, unweighted. All parts that hear audio are
    asked in one request.
    """

    def __init__(
        self,
        name: str,
        checkpoints: dict[str, Checkpoint],
        client: ServerClient | None,
        weights: Mapping[str, float] | None = None,
        scales: Mapping[str, float] | None = None,
    ) -> None:
        self.name, self.checkpoints = name, checkpoints
        self.weights, self.scales = weights, scales
        self.remote = {part: checkpoints[part] for part in remote_parts(checkpoints)}
        self.needs_audio = bool(self.remote)
        self.client = client if self.needs_audio else None

    def score(self, inputs: Sequence[ScoreInput]) -> list[Score]:
        local = self.checkpoints.keys() - self.remote.keys()
        parts = {part: _likelihoods(part, inputs) for part in local}
        if self.client is not None:
            clips = [item.clip for item in inputs if item.clip is not None]
            if len(clips) < len(inputs):
                raise VerifierError(f"{self.name}: a candidate came without its audio")
            prompts = [item.prompt for item in inputs]
            # The server's weights must be those that the run began with.
            answers = self.client.score(list(self.remote), prompts, clips, self.remote)
            parts |= {part: answer.scores for part, answer in answers.items()}
        if self.weights is None or self.scales is None:
            return parts[self.name]
        sums = []
        for index in range(len(inputs)):
            values = {part: parts[part][index].value for part in self.weights}
            total = sum(self.weights[p] * value / self.scales[p] for p, value in values.items())
            sums.append(Score(value=total, components=values))
        return sums

    def take_usage(self) -> Ledger:
        return Ledger() if self.client is None else self.client.take_usage()


def _likelihoods(name: str, inputs: Sequence[ScoreInput]) -> list[Score]:
    """What the generator says itself. name: of LIKELIHOODS."""
    if name in NEEDS_GUIDANCE and any(item.unconditional is None for item in inputs):
        raise VerifierError(f"{name} needs guidance, and decoding is not guided")
    scores: list[Score] = []
    unscored: dict[int, str] = {}
    for index, item in enumerate(inputs):
        known = {"log_prob": item.log_prob}
        known |= {} if item.unconditional is None else {"unconditional": item.unconditional}
        value = float(LIKELIHOODS[name](item.log_prob, item.unconditional))
        if math.isfinite(value):
            scores.append(Score(value=value, components=known))
        else:
            unscored[index] = f"{name}: the log-probabilities are {known}"
    if unscored:
        raise PromptRefused(unscored)
    return scores


def build_verifier(
    expression: str,
    generator: Checkpoint,
    server: ServerClient | None = None,
    calibration: Calibration | None = None,
) -> Verifier:
    """The verifier that `expression` names.

    server: needed by all but perplexity and pmi. calibration: needed by sums. Raises
    ExpressionError, CalibrationError, VerifierError, or what the server's client raises.
    """
    weights = components(expression)
    hosted: dict[str, Checkpoint] = {}
    if remote := remote_parts(weights):
        if server is None:
            raise VerifierError(f"{', '.join(remote)}: needs a verifier server (--server)")
        hosted = server.checkpoints(remote)
    checkpoints = {name: hosted.get(name, generator) for name in weights}
    if len(weights) == 1 and "*" not in expression:
        return SearchVerifier(expression.strip(), checkpoints, server)
    scales = (calibration or Calibration(generator=generator)).scales(generator, checkpoints)
    return SearchVerifier(expression, checkpoints, server, weights, scales)
