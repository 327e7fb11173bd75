"""A generator and a server's client for pools, whose tokens and scores follow from hashes."""

from collections.abc import Sequence
from pathlib import Path

from src.budget import Ledger
from src.client import PromptRefused, ServerUnreachable
from src.data.audio import Clip
from src.data.prompts import Prompt
from src.experiments.pool_scoring import Measure
from src.experiments.scaling_settings import ExperimentSettings
from src.protocol import Checkpoint, Score, VerifierResult
from tests.generator.fake_search import FakeGenerator, value_of

PROMPTS = [
    Prompt(id=name, text=f"a {name}", key=f"key {name}") for name in ("waltz", "jig", "reel")
]
WEIGHTS = Checkpoint(name="fake", sha256="3" * 64)
OTHER_WEIGHTS = Checkpoint(name="fake", sha256="4" * 64)


class PoolGenerator(FakeGenerator):
    """Counts the groups that it begins, and remembers how long the rendered clips were."""

    device, dtype = "cpu", "float32"

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[tuple[str, ...]] = []
        self.lengths: list[int] = []

    def begin(self, prompts, keys, candidates, frames, seed):
        self.begun.append(tuple(keys))
        return super().begin(prompts, keys, candidates, frames, seed)

    def render(self, tokens):
        self.lengths.append(tokens.shape[-1])
        return super().render(tokens)


class FakeClient:
    """Scores by the verifier's name, the prompt and what is heard; refuses and dies as told.

    refuses: (verifier, prompt text) that have no score. lives: requests until it is lost.
    """

    def __init__(
        self,
        refuses: Sequence[tuple[str, str]] = (),
        lives: int = 10**6,
        checkpoint: Checkpoint = WEIGHTS,
    ) -> None:
        self.refuses, self.lives, self.checkpoint = set(refuses), lives, checkpoint
        self.asked: list[tuple[tuple[str, ...], str, int]] = []
        self.usage = Ledger()

    def score(
        self, names: Sequence[str], prompts: Sequence[str], clips: Sequence[Clip]
    ) -> dict[str, VerifierResult]:
        self.lives -= 1
        if self.lives < 0:
            raise ServerUnreachable("the server is lost")
        self.usage.seconds["http"] += 4.0
        self.asked.append((tuple(names), prompts[0], clips[0].samples.shape[1]))
        if any((name, prompts[0]) in self.refuses for name in names):
            raise PromptRefused({0: "it names nothing that can be heard"})
        return {
            name: VerifierResult(
                checkpoint=self.checkpoint,
                scores=[
                    Score(value=value_of(name + text, [int(x) for x in clip.samples[0]]))
                    for text, clip in zip(prompts, clips, strict=True)
                ],
                queue_seconds=0.5,
                compute_seconds=1.5,
            )
            for name in names
        }

    def take_usage(self) -> Ledger:
        usage, self.usage = self.usage, Ledger()
        return usage


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


def verifier(name: str, checkpoint: Checkpoint = WEIGHTS, prefixes=(0.1, 0.2)) -> Measure:
    return Measure(name, "verifier", checkpoint, True, (name,), (), prefixes=prefixes)


def told(records) -> list[dict]:
    """Records without what depends on the clock and on the number of starts."""
    clock = ("time", "start", "seconds", "ledger")
    return [{k: v for k, v in r.items() if k not in clock} for r in records]
