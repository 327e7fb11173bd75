"""What a search returns: its winner, its whole tree and its cost; and how that is written down.
And how slots go to the children of those that are kept."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from src.budget import Ledger
from src.data.audio import SILENT
from src.data.prompts import Prompt, digest_of_tokens

if TYPE_CHECKING:
    from src.data.audio import Clip
    from src.protocol import NoScore, Score


@dataclass
class Node:
    """One candidate at the end of one step, as the search saw it.

    parent: slot of the previous step that it continues; None at the first step.
    score: the verifier's, at the end of the candidate's rollout where there is one; a candidate
    with NoScore is out: it is never kept.
    log_prob: mean log-probability of the candidate itself, in nats; NaN where the model overflowed.
    kept: it went on; of the last step, it won.
    """

    step: int
    slot: int
    parent: int | None
    score: "Score | NoScore"
    log_prob: float
    kept: bool = False

    @property
    def value(self) -> float:
        """Its score; -inf for a candidate that is out."""
        return getattr(self.score, "value", -math.inf)

    def as_record(self) -> dict[str, Any]:
        """JSON values; of a score its fields, or the `reason` why there is none."""
        log_prob = self.log_prob if math.isfinite(self.log_prob) else None
        return {**vars(self), "score": self.score.model_dump(), "log_prob": log_prob}


@dataclass(frozen=True)
class Winner:
    """The clip that a search ends with. tokens: int16 [codebooks, frames]."""

    slot: int
    score: "Score"
    log_prob: float
    tokens: np.ndarray
    clip: "Clip"

    def as_record(self) -> dict[str, Any]:
        """JSON values; of the tokens their hash, by which two runs can be compared. level: dB
        relative to full scale, None for nothing but zeros."""
        level = self.clip.level
        return {
            "slot": self.slot,
            "score": self.score.model_dump(),
            "log_prob": self.log_prob,
            "seconds": self.clip.seconds,
            "level": round(level, 1) if math.isfinite(level) else None,
            "silent": level < SILENT,
            "tokens_sha256": digest_of_tokens(self.tokens),
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
            "tree": [node.as_record() for node in self.nodes],
            "ledger": asdict(self.ledger),
        }


@dataclass(frozen=True)
class Failure:
    """A prompt that dropped out of its group: none of its candidates had a score at this step.

    slot, reason: of the first of them. nodes: its tree up to here.
    """

    prompt: Prompt
    method: str
    step: int
    slot: int
    verifier: str
    reason: str
    ledger: Ledger
    nodes: list[Node] = field(default_factory=list)

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


def joined(first: SearchResult | Failure, second: SearchResult | Failure) -> SearchResult | Failure:
    """One prompt's searches of different slots as one: the better winner, all nodes, both costs.

    The first where both winners score the same or both failed.
    """
    found = [result for result in (first, second) if isinstance(result, SearchResult)]
    best = max(found, key=lambda result: result.winner.score.value) if found else first
    nodes = [*first.nodes, *second.nodes]
    if isinstance(best, Failure):
        return replace(best, nodes=nodes, ledger=first.ledger + second.ledger)
    for node in nodes:
        node.kept = node.slot == best.winner.slot
    leaves = {slot: clip for result in found for slot, clip in result.leaves.items()}
    return replace(best, nodes=nodes, ledger=first.ledger + second.ledger, leaves=leaves)


def _asked(prompt: Prompt, method: str) -> dict[str, Any]:
    return {"method": method, "prompt_id": prompt.id, "prompt": prompt.text, "key": prompt.key}


def children(kept: Sequence[int], families: int, width: int) -> list[int]:
    """The parent of each slot, when so many families of `width` children are dealt to the `kept`
    slots (best first) in turn: one to each, or to few of them several.

    >>> children([3, 0], 2, 2)
    [0, 3, 0, 3]
    >>> children([3, 0], 3, 2)
    [0, 3, 3, 3, 3, 0]
    """
    slots = range(families * width)
    freed = iter(sorted(set(slots) - set(kept)))
    parents = {slot: slot for slot in kept}
    for rank, parent in enumerate(kept):
        others = width * len(range(rank, families, len(kept))) - 1
        parents |= {next(freed): parent for _ in range(others)}
    return [parents[slot] for slot in slots]


def copies(counts: Sequence[int]) -> list[int]:
    """The parent of each slot, when slot i has counts[i] children: the first stays in its slot, the
    others fill the freed ones in ascending order.

    >>> copies([0, 3, 0, 1])
    [1, 1, 1, 3]
    """
    parents = list(range(len(counts)))
    freed = iter([slot for slot, count in enumerate(counts) if not count])
    for slot, count in enumerate(counts):
        for _ in range(count - 1):
            parents[next(freed)] = slot
    return parents
