"""Small pools for tests: a generator, a server's client and judges whose numbers follow from
hashes."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from src.budget import Ledger
from src.client import ServerError, ServerUnreachable
from src.data.audio import Clip
from src.data.prompts import Prompt
from src.experiments.pool_generating import generate
from src.experiments.pool_outcome import Scorer
from src.experiments.pool_scoring import Hearers, score
from src.experiments.scaling import open_pool
from src.experiments.scaling_settings import ExperimentSettings
from src.judges.base import SetJudge
from src.protocol import Checkpoint, EmbeddedScore, NoScore, Score, VerifierResult
from src.runs.measures import Measure
from src.runs.run import Run
from src.runs.work import here
from tests.generator.fake_search import FakeGenerator, FakeJudge, value_of

PROMPTS = [
    Prompt(id=name, text=f"a {name}", key=f"key {name}") for name in ("waltz", "jig", "reel")
]
WEIGHTS = Checkpoint(name="fake", sha256="3" * 64)
OTHER_WEIGHTS = Checkpoint(name="fake", sha256="4" * 64)


class FakeClient:
    """Scores by the verifier's name, the prompt and what is heard.

    refuses: (verifier, prompt text) that have no score. unheard: (verifier, prompt text, value)
    likewise. lives: requests until it is lost.
    asked: of each request the verifiers, the first prompt and its clip's frames. values: what was
    scored, by verifier and prompt.
    """

    def __init__(
        self,
        refuses: Sequence[tuple[str, str]] = (),
        lives: int = 10**6,
        checkpoint: Checkpoint = WEIGHTS,
        unheard: Sequence[tuple[str, str, float]] = (),
    ) -> None:
        self.unheard = set(unheard)
        self.refuses, self.lives, self.checkpoint = set(refuses), lives, checkpoint
        self.asked: list[tuple[tuple[str, ...], str, int]] = []
        self.values: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.usage = Ledger()

    def checkpoints(self, names: Sequence[str]) -> dict[str, Checkpoint]:
        return dict.fromkeys(names, self.checkpoint)

    def score(self, verifiers, prompts, clips, embeddings=()) -> dict[str, VerifierResult]:
        if {*verifiers.values()} != {self.checkpoint}:
            raise ServerError("it now scores with other weights")
        self.lives -= 1
        if self.lives < 0:
            raise ServerUnreachable("the server is lost")
        self.usage.seconds["http"] += 4.0
        self.asked.append((tuple(verifiers), prompts[0], clips[0].samples.shape[1]))
        answers = {name: self._answer(name, prompts, clips) for name in verifiers}
        for name in embeddings:
            answers[name].scores = [
                EmbeddedScore(value=score.value, embedding=embedding_of(clip))
                if isinstance(score, Score)
                else score
                for score, clip in zip(answers[name].scores, clips, strict=True)
            ]
        return answers

    def take_usage(self) -> Ledger:
        usage, self.usage = self.usage, Ledger()
        return usage

    def _answer(self, name: str, prompts: Sequence[str], clips: Sequence[Clip]) -> VerifierResult:
        scores: list[Score | NoScore] = []
        for text, clip in zip(prompts, clips, strict=True):
            value = value_of(name + text, [int(x) for x in clip.samples[0]])
            if (name, text) in self.refuses:
                scores.append(NoScore(reason="it names nothing that can be heard"))
            elif (name, text, value) in self.unheard:
                scores.append(NoScore(reason=f"{value:g} is unheard of"))
            else:
                scores.append(Score(value=value))
                self.values[name, text].append(value)
        return VerifierResult(
            checkpoint=self.checkpoint, scores=scores, queue_seconds=0.5, compute_seconds=1.5
        )


def embedding_of(clip: Clip) -> list[float]:
    """Some direction in a plane, by what is heard."""
    angle = value_of("embedding", [int(x) for x in clip.samples[0]])
    return [math.cos(angle), math.sin(angle)]


def settings_for(output: Path, **changed: object) -> ExperimentSettings:
    """A pool of four clips of 0.4 s, scored at 0.1 and 0.2 s too."""
    usual: dict = {
        "profile": "builtin",
        "output": output,
        "pool_size": 4,
        "budgets": (1, 2),
        "duration": 0.4,
        "prefixes": ("0.1", "0.2"),
        "step_size": 0.2,
    }
    return ExperimentSettings(**usual | changed).resolved()


def made_pool(output: Path, generator: FakeGenerator | None = None, **changed: object) -> Run:
    """The open run of a pool of PROMPTS that has its candidates."""
    settings, generator = settings_for(output, **changed), generator or FakeGenerator()
    run = open_pool(settings, PROMPTS, generator)  # type: ignore[arg-type]
    generate(run, PROMPTS, generator, settings)  # type: ignore[arg-type]
    return run


def verifier(
    name: str, checkpoint: Checkpoint = WEIGHTS, prefixes: tuple[float, ...] = (0.1, 0.2)
) -> Scorer:
    return Scorer(Measure(name, "verifier", is_verifier=(name,)), checkpoint, prefixes)


def judge(name: str, problem: str = "") -> Scorer:
    """A judge of the clips' loudest sample, lower is better; with a problem, of none of them."""
    heard = FakeJudge(name, problem=problem)
    return Scorer(Measure(name, "judge", higher_is_better=False), heard.checkpoint, judge=heard)


def hears(
    run: Run,
    scorers: Sequence[Scorer],
    client: FakeClient | None = None,
    generator: FakeGenerator | None = None,
    networks: Mapping[str, SetJudge] | None = None,
) -> int:
    """Score a pool. Returns how many (prompt, measure) have no score."""
    codec: Any = generator or FakeGenerator()
    hearers = Hearers({s.name: s for s in scorers}, networks or {}, codec, client)  # type: ignore[arg-type]
    return score(run, PROMPTS, hearers, here(hearers))


def without_clock(records: Iterable[dict]) -> list[dict]:
    """Records without what depends on the clock and on the number of starts."""
    clock = ("time", "start", "seconds", "ledger", "load", "memory", "wall_seconds")
    return [{k: v for k, v in record.items() if k not in clock} for record in records]
