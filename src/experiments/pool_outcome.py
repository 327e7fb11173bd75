"""What one measure says of one prompt's candidates, on its way to a record of the pool."""

import math
import time
from dataclasses import dataclass

from src.budget import Ledger
from src.data.audio import Clip
from src.data.prompts import Prompt
from src.judges.base import ClipJudge, JudgeError
from src.protocol import Checkpoint, NoScore, VerifierResult
from src.runs.measures import Measure
from src.runs.pool import FACTS, WHOLE, Numbers, prefix_key, short
from src.runs.records import Record, scores_key
from src.runs.run import Finished
from src.scoring import host_of, is_medoid


@dataclass(frozen=True)
class Scorer:
    """What scores a pool by a measure: a verifier of the server or, where it is there, a judge.

    prefixes: seconds at which it scores the clips' beginnings too.
    """

    measure: Measure
    checkpoint: Checkpoint
    prefixes: tuple[float, ...] = ()
    judge: ClipJudge | None = None

    @property
    def name(self) -> str:
        return self.measure.name

    @property
    def is_medoid(self) -> bool:
        return self.judge is None and is_medoid(self.name)

    @property
    def verifier(self) -> str:
        """The server's that it is, or is the medoid of."""
        return host_of(self.name)


class Outcome:
    """What is becoming one measure's record of one prompt.

    before: the record that is there; nothing of it stands when weights changed. values: by key, one
    per candidate, None for one without a number; seconds: wall seconds a clip; reasons: by key and
    candidate, why. keys: what is scored: seconds (None: the whole clip) by the records' names for
    them. The whole clip comes first: who has no number for any is not asked about beginnings.
    """

    def __init__(self, scorer: Scorer, prompt: Prompt, before: Record | None) -> None:
        self.scorer, self.prompt, self.before = scorer, prompt, before or {}
        known = {"status": "ok", "checkpoint": scorer.checkpoint.model_dump()}
        known["definition"] = scorer.measure.definition
        stands = known.items() <= self.before.items()
        self.values: dict[str, Numbers] = dict(self.before["values"]) if stands else {}
        self.seconds: dict[str, float] = dict(self.before["seconds"]) if stands else {}
        self.reasons: dict[str, dict[int, str]] = {}
        self.keys = {prefix_key(at): at for at in (None, *scorer.prefixes)}

    @property
    def is_lacking(self) -> bool:
        """Whether anything is left to do."""
        promoted = self.before.get("role") == "judge" != self.scorer.measure.role
        return promoted or not self.values.keys() >= self.keys.keys()

    def wants(self, key: str) -> bool:
        """Whether the verifier is to be asked for this key."""
        refuses = WHOLE in self.reasons and WHOLE not in self.values
        return key in self.keys and key not in self.values and not refuses

    def take(self, key: str, answer: VerifierResult, usage: Ledger, rendering: float) -> None:
        """Note a server's answer.

        Its seconds are what this verifier alone would have taken: rendering, encoding and sending,
        which all verifiers share, and its own queue and model.
        """
        out = {i: s.reason for i, s in enumerate(answer.scores) if isinstance(s, NoScore)}
        self.reasons |= {key: out} if out else {}
        if len(out) == len(answer.scores):
            return
        own = answer.queue_seconds + answer.compute_seconds
        shared = rendering + usage.seconds["wav"] + usage.seconds["http"]
        self.values[key] = short([getattr(score, "value", math.nan) for score in answer.scores])
        self.seconds[key] = (own + shared) / len(answer.scores)

    def judge(self, index: int, clip: Clip) -> None:
        """Let the judge hear a candidate."""
        assert self.scorer.judge is not None
        begin = time.perf_counter()
        try:
            heard = self.scorer.judge.judge(clip, self.prompt)
        except JudgeError as error:
            heard = math.nan
            self.reasons.setdefault(WHOLE, {})[index] = str(error)
        self.values.setdefault(WHOLE, []).extend(short([heard]))
        spent = self.seconds.get(WHOLE, 0.0) * index + time.perf_counter() - begin
        self.seconds[WHOLE] = spent / (index + 1)

    @property
    def finished(self) -> Finished:
        """Failed when no whole clip has a number; a prefix without any is left out."""
        values = {key: of for key, of in self.values.items() if {*of} != {None}}
        reasons = []
        for key, out in self.reasons.items():
            first = min(out)
            told = f"candidate {first}: {out[first]}"
            told += f" ({len(out)} candidates have no number)" if len(out) > 1 else ""
            reasons.append(told if key == WHOLE else f"of the first {key} s: {told}")
        measure = self.scorer.measure
        record = {
            **scores_key(measure.name),
            "prompt_id": self.prompt.id,
            "status": "ok" if WHOLE in values else "failed",
            "checkpoint": self.scorer.checkpoint.model_dump(),
            **{name: value for name, value in measure.as_record().items() if name in FACTS},
            "values": values,
            "seconds": {key: round(self.seconds[key], 6) for key in values},
            "reason": "; ".join(reasons),
        }
        return Finished(record)
