"""Critics: in place of a verifier's score of an unfinished clip, a prediction of its final score.

`python -m src.experiments.critic POOL --train tags` trains one on a pool and writes it to a file,
and `benchmark.py --value FILE` prunes by it. It belongs to one generator's and one verifier's
weights, told by their hashes, and to clips of one length. No torch here.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from src.budget import Ledger, Plan
from src.protocol import Checkpoint, NoScore, Score
from src.runs.settings import UsageError
from src.scoring import ScoreInput, Verifier, parse


class CriticError(UsageError):
    """A critic that is damaged, or not of this search; the message says of which."""


def features_of(
    own: Any, log_prob: Any, unconditional: Any | None, parts: Mapping[str, Any]
) -> dict[str, Any]:
    """What a critic goes by, by name: the verifier's score of the beginning, the mean
    log-probabilities so far, and of an expression its parts' own numbers. Numbers, or arrays."""
    without = {} if unconditional is None else {"unconditional": unconditional}
    return {"own": own, "log_prob": log_prob, **without, **parts}


class Critic(BaseModel, frozen=True):
    """Predicts a verifier's score of a whole clip, in that score's unit, from its beginning."""

    selector: str = Field(description="the verifier or expression that it stands for")
    generator: Checkpoint
    verifiers: dict[str, Checkpoint] = Field(description="of its parts, by name")
    deviations: dict[str, FiniteFloat] = Field(description="of an expression's parts")
    means: dict[str, FiniteFloat] = Field(description="of an expression's parts")
    frames: int = Field(description="of a whole clip")
    weights: dict[int, dict[str, FiniteFloat]] = Field(
        description="by the beginning's frames, of `features_of` by name; and a `constant`"
    )
    pool: str = Field(description="hash of the pool's settings")
    num_prompts: int

    def check(self, selector: str, plans: Sequence[Plan], guided: bool = True) -> None:
        """Raise CriticError unless it predicts all that these searches prune by. guided: whether
        log-probabilities without the text are known."""
        if selector != self.selector:
            said = f"a critic of {self.selector} says nothing of {selector}"
            raise CriticError(f"{said}: train one with --train {selector!r}")
        if not guided and any("unconditional" in of for of in self.weights.values()):
            raise CriticError(
                "the critic goes by how likely a clip is without its text, which is known under "
                "guidance only: take a --guidance other than 1, or one of a pool without guidance"
            )
        for plan in plans:
            heard = {*plan.heard()[:-1]} - {0}
            if heard and plan.frames != self.frames:
                own, asked = (frames / plan.frame_rate for frames in (self.frames, plan.frames))
                said = f"a critic of clips of {own:g} s says nothing of {asked:g} s"
                raise CriticError(f"{said}: train one on a pool of such clips")
            if not heard <= self.weights.keys():
                at, known = (
                    ", ".join(f"{frames / plan.frame_rate:g}" for frames in sorted(found))
                    for found in (heard, self.weights)
                )
                raise CriticError(
                    f"{plan.method.name} prunes by what is heard of {at} s: change --step_size, "
                    f"for the critic was trained on beginnings of {known} s"
                )

    def predict(self, item: ScoreInput, score: Score) -> float:
        """score: the verifier's, of the beginning."""
        own, parts = score.value, {}
        if self.deviations:  # an expression, in the units of the pool that it was trained on
            parts = {part: score.components[part] for part in self.verifiers}
            own = float(parse(self.selector).value(parts, self.deviations, self.means))
        found = {"constant": 1.0} | features_of(own, item.log_prob, item.unconditional, parts)
        return float(sum(x * found[name] for name, x in self.weights[item.frames].items()))


class CriticVerifier:
    """Scores beginnings by a critic, from one request to the verifier; the verifier's own number is
    among the components, under its name.

    Raises CriticError where the critic was trained with other weights.
    """

    def __init__(self, critic: Critic, verifier: Verifier, generator: Checkpoint) -> None:
        self.critic, self.verifier = critic, verifier
        self.name, self.needs_audio = f"critic of {verifier.name}", verifier.needs_audio
        self.checkpoints = verifier.checkpoints
        digest = hashlib.sha256(critic.model_dump_json().encode()).hexdigest()
        self.checkpoint = Checkpoint(name=self.name, sha256=digest)
        trained = {"generator": critic.generator, **critic.verifiers}
        for name, own in {"generator": generator, **verifier.checkpoints}.items():
            if name not in trained or trained[name].sha256 != own.sha256:
                raise CriticError(
                    f"the critic was trained with other weights of {name} than {own.name} "
                    f"({own.sha256[:8]}): train one on a pool of these"
                )

    def score(self, inputs: Sequence[ScoreInput]) -> list[Score | NoScore]:
        return [
            Score(
                value=self.critic.predict(item, score),
                components={**score.components, self.verifier.name: score.value},
            )
            if isinstance(score, Score)
            else score
            for item, score in zip(inputs, self.verifier.score(inputs), strict=True)
        ]

    def take_usage(self) -> Ledger:
        return self.verifier.take_usage()


def load_critic(path: Path) -> Critic:
    """Raises CriticError."""
    try:
        return Critic.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        how = "python -m src.experiments.critic POOL --train VERIFIER writes one"
        said = str(error).splitlines()[0]
        raise CriticError(f"{path} is no critic ({said}): {how}") from error
