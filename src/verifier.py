"""The verifiers that a search can have, built from what the user wrote; and the constants of
expressions: a verifier's mean, and how far its scores spread within a prompt. No torch here.

    python -m src.experiments.calibration --profile builtin --server auto --verifiers tags pmi

makes a pool of candidates per prompt, scores it, and writes each verifier's within-prompt standard
deviation and the mean of all its scores, with where they came from: the units in which an
expression has its verifiers (src/scoring.py). Constants belong to one generator's and one
verifier's weights, told by their hashes.

What a verifier is, and which there are, stands in src/scoring.py.
"""

import logging
import math
import shlex
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from src.budget import Ledger
from src.client import ServerClient
from src.data.files import ROOT
from src.protocol import Checkpoint, EmbeddedScore, NoScore, Score
from src.scoring import (
    LIKELIHOODS,
    ScoreInput,
    Verifier,
    VerifierError,
    canonical,
    host_of,
    is_medoid,
    likelihood,
    parse,
    remote_parts,
)

logger = logging.getLogger(__name__)

BUILTIN_FILE = ROOT / "builtin" / "calibration.json"


class CalibrationError(ValueError):
    """Constants that are absent or damaged; the message says how to make them."""


class Constant(BaseModel, frozen=True):
    """One verifier's spread, and where the figure came from."""

    checkpoint: Checkpoint
    deviation: FiniteFloat = Field(gt=0, description="within-prompt standard deviation")
    mean: FiniteFloat
    prompts: str = Field(description="the prompt set")
    prompts_sha256: str
    num_prompts: int = Field(description="those that had a score")
    candidates: int = Field(description="per prompt")
    duration: float = Field(description="seconds of a clip")
    seed: int
    temperature: float
    top_k: int
    guidance: float
    dtype: str
    commit: str | None
    date: str = Field(description="UTC")


class Calibration(BaseModel):
    """All constants of one generator."""

    generator: Checkpoint
    constants: dict[str, Constant] = Field(default_factory=dict, description="by verifier")

    def of(self, generator: Checkpoint, verifiers: Mapping[str, Checkpoint]) -> dict[str, Constant]:
        """By verifier. Raises CalibrationError for any that is absent."""
        known = self.constants if self.generator.sha256 == generator.sha256 else {}
        absent = [
            name
            for name, checkpoint in verifiers.items()
            if name not in known or known[name].checkpoint.sha256 != checkpoint.sha256
        ]
        if absent:
            source = (
                "--profile builtin"
                if generator.name == "builtin"
                else f"--model {shlex.quote(generator.name)}"
            )
            raise CalibrationError(
                f"an expression needs the spread of {', '.join(absent)} under {generator.name} "
                f"({generator.sha256[:8]}), which was not measured with these weights. Measure it: "
                f"python -m src.experiments.calibration {source} --verifiers {' '.join(verifiers)}"
            )
        return {name: known[name] for name in verifiers}


def calibration_file(generator: Checkpoint, folder: Path) -> Path:
    """Where a generator's constants are kept: the built-in one's beside its weights."""
    if generator.name == "builtin":
        return BUILTIN_FILE
    slug = "".join(c if c.isalnum() else "-" for c in Path(generator.name).name)
    return folder / f"{slug}-{generator.sha256[:8]}.json"


def load_calibration(generator: Checkpoint, folder: Path) -> Calibration:
    """A generator's constants; none when they were never measured. Raises CalibrationError."""
    path = calibration_file(generator, folder)
    try:
        found = Calibration.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Calibration(generator=generator)
    except (OSError, ValidationError) as error:
        raise CalibrationError(f"{path} cannot be used: {error}") from error
    if found.generator.sha256 != generator.sha256:
        logger.warning("%s was measured with other weights of %s", path, generator.name)
        return Calibration(generator=generator)
    return found


class SearchVerifier:
    """One verifier, its medoid, or an expression of several.

    name: the expression. checkpoints: by part; of a part that the server has, what it said it hosts
    under that name. client: of the server, where a part needs one. deviations, means: of an
    expression, by part, as `Expression.value` takes them; None where there is one part and its own
    value is the score. An expression's components are its parts' own values; without one of them it
    has no score. All parts that hear audio are asked in one request.
    """

    def __init__(
        self,
        name: str,
        checkpoints: dict[str, Checkpoint],
        client: ServerClient | None,
        deviations: Mapping[str, float] | None = None,
        means: Mapping[str, float] | None = None,
    ) -> None:
        self.name, self.checkpoints = name, checkpoints
        self.expression, self.deviations, self.means = parse(name), deviations, means or {}
        self.remote = {host_of(p): c for p, c in checkpoints.items() if p not in LIKELIHOODS}
        self.needs_audio = bool(self.remote)
        self.client = client if self.needs_audio else None

    def score(self, inputs: Sequence[ScoreInput]) -> list[Score | NoScore]:
        local = [part for part in self.checkpoints if part in LIKELIHOODS]
        parts = {part: [_likelihood(part, item) for item in inputs] for part in local}
        if self.client is not None:
            clips = [item.clip for item in inputs if item.clip is not None]  # all: needs_audio
            prompts = [item.prompt for item in inputs]
            # The server's weights must be those that the run began with.
            medoids = [part for part in self.checkpoints if is_medoid(part)]
            answers = self.client.score(self.remote, prompts, clips, [*map(host_of, medoids)])
            parts |= {part: answer.scores for part, answer in answers.items()}
            keys = [(item.key, item.prompt) for item in inputs]
            parts |= {part: medoid(parts[host_of(part)], keys) for part in medoids}
        if self.deviations is None:
            return parts[self.name]
        combined: list[Score | NoScore] = []
        for index in range(len(inputs)):
            found = {part: parts[part][index] for part in self.expression.verifiers}
            values = {part: s.value for part, s in found.items() if isinstance(s, Score)}
            out = [f"{p}: {s.reason}" for p, s in found.items() if isinstance(s, NoScore)]
            if out:
                combined.append(NoScore(reason="; ".join(out)))
                continue
            total = float(self.expression.value(values, self.deviations, self.means))
            combined.append(Score(value=total, components=values))
        return combined

    def take_usage(self) -> Ledger:
        return Ledger() if self.client is None else self.client.take_usage()


def medoid(scores: Sequence[Score | NoScore], prompts: Sequence[Hashable]) -> list[Score | NoScore]:
    """How near each candidate is to those of its prompt, by embeddings; one per score, in order.

    The mean cosine similarity to all candidates of the prompt that have a score, itself included,
    less the mean of that over them: 0 for the average candidate, and so for one that is alone. Two
    are equally near to each other. component `similarity`: the mean to the others. (The choice of
    least expected risk where the risk is 1 - cosine: Kumar and Byrne, HLT-NAACL 2004; Eikema and
    Aziz, arXiv 2108.04718.) scores: EmbeddedScores, or why there is none.
    """
    found = list(scores)
    places = defaultdict[Hashable, list[int]](list)
    for index, (score, prompt) in enumerate(zip(scores, prompts, strict=True)):
        if not isinstance(score, EmbeddedScore):
            continue
        if any(score.embedding):
            places[prompt].append(index)
        else:
            found[index] = NoScore(reason="its embedding is all zeros: it has no direction")
    for indices in places.values():
        vectors = np.array([scores[i].embedding for i in indices])  # type: ignore[union-attr]
        vectors /= np.abs(vectors).max(axis=1, keepdims=True)  # the squares of any float are finite
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        similar = units @ units.T
        np.fill_diagonal(similar, 1.0)  # without rounding, so that two tie
        near, others = similar.mean(axis=1), len(indices) - 1
        for index, own, value in zip(indices, similar, near - near.mean(), strict=True):
            rest = {"similarity": float(own.sum() - 1) / others} if others else {}
            found[index] = Score(value=float(value), components=rest)
    return found


def _likelihood(name: str, item: ScoreInput) -> Score | NoScore:
    """What the generator says itself. name: of LIKELIHOODS."""
    known = {"log_prob": item.log_prob}
    known |= {} if item.unconditional is None else {"unconditional": item.unconditional}
    value = float(likelihood(name, item.log_prob, item.unconditional))
    if math.isfinite(value):
        return Score(value=value, components=known)
    return NoScore(reason=f"the log-probabilities are {known}")


def build_verifier(
    expression: str,
    generator: Checkpoint,
    server: ServerClient | None = None,
    calibration: Calibration | None = None,
) -> Verifier:
    """The verifier that `expression` names.

    server: needed by all but perplexity and pmi. calibration: needed by expressions. Raises
    ExpressionError, CalibrationError, VerifierError, or what the server's client raises.
    """
    parsed = parse(expression)
    hosted: dict[str, Checkpoint] = {}
    if remote := remote_parts(parsed.verifiers):
        if server is None:
            raise VerifierError(f"{', '.join(remote)}: needs a verifier server (--server)")
        hosted = server.checkpoints(remote)
    checkpoints = {name: hosted.get(host_of(name), generator) for name in parsed.verifiers}
    if parsed.name:
        return SearchVerifier(parsed.name, checkpoints, server)
    constants = (calibration or Calibration(generator=generator)).of(generator, checkpoints)
    deviations = {name: constant.deviation for name, constant in constants.items()}
    means = {n: constant.mean for n, constant in constants.items() if parsed.is_centred}
    return SearchVerifier(canonical(expression), checkpoints, server, deviations, means)
