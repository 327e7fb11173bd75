"""Scoring pools: every verifier and judge hears each candidate once.

    score(run, prompts, list_scorers(["tags"], ["msd_kld"], hosted, (), "cpu"), generator, client)

Each measure of each prompt is a record of its own in the pool's folder: scoring may be killed
anywhere and goes on there, and what is named later is added. Scores of other weights than a
measure's are taken anew.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from src.budget import Ledger
from src.client import PromptRefused, ServerClient, ServerError
from src.data.audio import Clip
from src.data.progress import bar
from src.data.prompts import Prompt
from src.experiments.pool_generation import short
from src.generator import Renderer
from src.judges.base import ClipJudge, JudgeError
from src.judges.registry import JUDGES
from src.protocol import Checkpoint, VerifierResult
from src.runs.evaluation import measure_of
from src.runs.measures import Measure, Role
from src.runs.pool import FACTS, WHOLE, load_tokens, prefix_key
from src.runs.records import CANDIDATES, Record, Run, scores_key
from src.verifier_core import shares_data_with

log = logging.getLogger(__name__)

# A record that has these as the one before it had them, such as a refusal, is not written again.
TOLD = ("status", "values", "reason", "checkpoint", "role")


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
    def keys(self) -> dict[str, float | None]:
        """What it scores: seconds (None: the whole clip) by the records' names for them.

        The whole clip comes first: who refuses it is not asked about its beginnings.
        """
        return {prefix_key(at): at for at in (None, *self.prefixes)}

    def scored(self, record: Record | None) -> dict[str, list[float]]:
        """What a record of one prompt holds that still stands; nothing when weights changed."""
        if record is None or record["checkpoint"] != self.checkpoint.model_dump():
            return {}
        return dict(record["values"]) if record["status"] == "ok" else {}

    def lacks(self, record: Record | None) -> bool:
        """Whether anything is left to do after this record."""
        scored = self.scored(record)
        promoted = record is not None and record.get("role") == "judge" != self.measure.role
        return promoted or not scored.keys() >= self.keys.keys()


def list_scorers(
    verifiers: Sequence[str],
    judges: Sequence[str],
    hosted: Mapping[str, Checkpoint],
    prefixes: Sequence[float],
    device: str,
) -> list[Scorer]:
    """What is to score: verifiers at prefixes and whole, then judges, whole.

    hosted: the server's checkpoints, of verifiers and of those that judge. A verifier that is asked
    to judge as well is a verifier.
    """
    listed = []
    for name in dict.fromkeys((*verifiers, *judges)):
        role: Role = "verifier" if name in verifiers else "judge"
        if name in JUDGES:
            judge = JUDGES[name](device)
            assert isinstance(judge, ClipJudge)
            listed.append(Scorer(measure_of(judge, role), judge.checkpoint, judge=judge))
            continue
        shared = shares_data_with(name)
        measure = Measure(name, role, is_verifier=(name,), shares_data_with=shared)
        heard = tuple(prefixes) if role == "verifier" else ()
        listed.append(Scorer(measure, hosted[name], heard))
    return listed


def score(
    run: Run,
    prompts: Sequence[Prompt],
    scorers: Sequence[Scorer],
    renderer: Renderer,
    client: ServerClient | None,
) -> int:
    """Score whatever is lacking. Returns how many (prompt, measure) have no score."""
    if not scorers:
        return 0
    known = [prompt for prompt in prompts if run.is_done(CANDIDATES, prompt.id)]
    lacking = {
        prompt.id: [s for s in scorers if s.lacks(run.latest(scores_key(s.name), prompt.id))]
        for prompt in known
    }
    total, left = len(known) * len(scorers), sum(map(len, lacking.values()))
    failed = 0
    with bar("score", total, total - left, "prompt x measure") as progress:
        for prompt in known:
            for record in score_prompt(run, prompt, lacking[prompt.id], renderer, client):
                before = run.latest(scores_key(record["measure"]), prompt.id) or {}
                if any(record[name] != before.get(name) for name in TOLD):
                    run.append(record)
                progress.update()
                if record["reason"]:
                    log.warning("%s of %s: %s", record["measure"], prompt.id, record["reason"])
                failed += record["status"] == "failed"
    return failed


def score_prompt(
    run: Run,
    prompt: Prompt,
    lacking: Sequence[Scorer],
    renderer: Renderer,
    client: ServerClient | None,
) -> Iterator[Record]:
    """Records of one prompt's candidates by each scorer that lacks it, verifiers first.

    Clips are rendered once a prefix and sent once for all verifiers; a prefix is rendered from its
    own frames alone, as a search at that point renders it. Raises VerifierError.
    """
    if not lacking:
        return
    outcomes = {s.name: Outcome(s, run.latest(scores_key(s.name), prompt.id)) for s in lacking}
    remote = [s for s in lacking if s.judge is None]
    tokens = torch.from_numpy(load_tokens(run.folder, prompt.id)).long()
    whole: list[Clip] = []
    for key, seconds in {key: at for s in remote for key, at in s.keys.items()}.items():
        asked = [s.name for s in remote if outcomes[s.name].wants(key)]
        if not asked:
            continue
        assert client is not None
        frames = None if seconds is None else round(seconds * renderer.frame_rate)
        begin = time.perf_counter()
        clips = renderer.render(tokens[:, :, :frames])
        rendering = time.perf_counter() - begin
        client.take_usage()  # of what came before
        answers = client.score_each(asked, [prompt.text] * len(clips), clips)
        usage = client.take_usage()
        for name, answer in answers.items():
            outcomes[name].take(key, answer, usage, rendering)
        whole = clips if seconds is None else whole
    yield from (outcomes[s.name].as_record(prompt) for s in remote if s.measure.role == "verifier")
    judging = [outcomes[s.name] for s in lacking if s.judge is not None]
    whole = whole or (renderer.render(tokens) if judging else [])
    # Clip by clip: judges that share a network hear through it once.
    for index, clip in enumerate(whole):
        for outcome in judging:
            outcome.judge(index, clip, prompt)
    yield from (outcomes[s.name].as_record(prompt) for s in lacking if s.measure.role == "judge")


class Outcome:
    """What is becoming one measure's record of one prompt.

    values: by key, one per candidate; seconds: wall seconds a clip; reasons: why a key has none.
    """

    def __init__(self, scorer: Scorer, before: Record | None) -> None:
        self.scorer = scorer
        self.values = scorer.scored(before)
        self.seconds: dict[str, float] = dict(before["seconds"]) if before and self.values else {}
        self.reasons: dict[str, str] = {}

    def wants(self, key: str) -> bool:
        """Whether the verifier is to be asked for this key."""
        refused = WHOLE in self.reasons
        return key in self.scorer.keys and key not in self.values and not refused

    def take(
        self, key: str, answer: VerifierResult | PromptRefused, usage: Ledger, rendering: float
    ) -> None:
        """Note a server's answer.

        Its seconds are what this verifier alone would have taken: rendering, encoding and sending,
        which all verifiers share, and its own queue and model.
        """
        if isinstance(answer, PromptRefused):
            self.reasons[key] = f"candidate {answer.index}: {answer.reason}"
            return
        if answer.checkpoint != self.scorer.checkpoint:
            raise ServerError(f"the server now scores {self.scorer.name} with other weights")
        own = answer.queue_seconds + answer.compute_seconds
        shared = rendering + usage.seconds["wav"] + usage.seconds["http"]
        self.values[key] = short([score.value for score in answer.scores])
        self.seconds[key] = (own + shared) / len(answer.scores)

    def judge(self, index: int, clip: Clip, prompt: Prompt) -> None:
        """Let the judge hear a candidate. One without a number leaves the prompt without one."""
        assert self.scorer.judge is not None
        if WHOLE in self.reasons:
            return
        begin = time.perf_counter()
        try:
            heard = self.scorer.judge.judge([clip], [prompt])
        except JudgeError as error:
            self.reasons[WHOLE] = f"candidate {index}: {error}"
            self.values.pop(WHOLE, None)
            return
        self.values.setdefault(WHOLE, []).extend(short(heard))
        spent = self.seconds.get(WHOLE, 0.0) * index + time.perf_counter() - begin
        self.seconds[WHOLE] = spent / (index + 1)

    def as_record(self, prompt: Prompt) -> Record:
        """Failed when the whole clips have no number; a prefix without one is left out."""
        reasons = [
            reason if key == WHOLE else f"of the first {key} s: {reason}"
            for key, reason in self.reasons.items()
        ]
        measure = self.scorer.measure
        return {
            **scores_key(measure.name),
            "prompt_id": prompt.id,
            "status": "ok" if WHOLE in self.values else "failed",
            "checkpoint": self.scorer.checkpoint.model_dump(),
            **{name: value for name, value in measure.as_record().items() if name in FACTS},
            "values": self.values,
            "seconds": {key: round(self.seconds[key], 6) for key in self.values},
            "reason": "; ".join(reasons),
        }
