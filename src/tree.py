"""What a search returns: its winner, its whole tree and its cost; and how that is written down."""

import hashlib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from src.budget import Ledger
from src.data.prompts import Prompt

if TYPE_CHECKING:
    from src.data.audio import Clip
    from src.protocol import Score


@dataclass
class Node:
    """One candidate at the end of one step, as the search saw it.

    parent: slot of the previous step that it continues; None at the first step.
    score: the verifier's, at the end of the candidate's rollout where there is one.
    log_prob: mean log-probability of the candidate itself, in nats.
    kept: it went on; of the last step, it won.
    """

    step: int
    slot: int
    parent: int | None
    score: "Score"
    log_prob: float
    kept: bool = False


@dataclass(frozen=True)
class Winner:
    """The clip that a search ends with. tokens: int16 [codebooks, frames]."""

    slot: int
    score: "Score"
    log_prob: float
    tokens: np.ndarray
    clip: "Clip"

    def as_record(self) -> dict[str, Any]:
        """JSON values; of the tokens their hash, by which two runs can be compared."""
        return {
            "slot": self.slot,
            "score": self.score.model_dump(),
            "log_prob": self.log_prob,
            "seconds": self.clip.seconds,
            "tokens_sha256": hashlib.sha256(self.tokens.astype("<i2").tobytes()).hexdigest(),
        }


@dataclass(frozen=True)
class SearchResult:
    """One prompt's search: its winner, its whole tree, and its share of the cost.

    leaves: the clips of the last step's candidates by slot, where they were asked for.
    """

    prompt: Prompt
    method: str
    winner: Winner
    nodes: list[Node]
    ledger: Ledger
    leaves: dict[int, "Clip"] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        return {
            **_asked(self.prompt, self.method),
            "status": "ok",
            "winner": self.winner.as_record(),
            "tree": [{**vars(node), "score": node.score.model_dump()} for node in self.nodes],
            "ledger": asdict(self.ledger),
        }


@dataclass(frozen=True)
class Failure:
    """A prompt that dropped out of its group: which candidate, which verifier, why."""

    prompt: Prompt
    method: str
    step: int
    slot: int
    verifier: str
    reason: str
    ledger: Ledger

    def as_record(self) -> dict[str, Any]:
        return {
            **_asked(self.prompt, self.method),
            "status": "failed",
            "step": self.step,
            "slot": self.slot,
            "verifier": self.verifier,
            "reason": self.reason,
            "ledger": asdict(self.ledger),
        }


def _asked(prompt: Prompt, method: str) -> dict[str, Any]:
    return {"method": method, "prompt_id": prompt.id, "prompt": prompt.text, "key": prompt.key}
