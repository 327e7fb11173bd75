"""Judges: measures of final clips that no search saw.

    (judge,) = build_judges(["msd_kld"], "cpu", None)
    judge.judge(clip, prompt)   # a float; judge.higher_is_better tells the direction

The registry; what a judge is stands in src/judges/base.py. Besides these, every verifier of the
server can judge under its own name (`ServedJudge`), all with one upload of a clip.

Each judge X that compares with references has two controls (controls.py): X_wrong, the mean over
other prompts' references, and X_contrast, own minus wrong. Whoever names one of the three gets them
all, X_contrast first (`all_three`). No torch is imported until a judge is used.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from src.client import ServerClient
from src.data.audio import Clip
from src.data.prompts import Prompt
from src.judges.base import (
    CLIPS_KEPT,
    CONTRAST,
    WRONG,
    ClipJudge,
    Codec,
    Judge,
    JudgeError,
    ReferenceJudge,
)
from src.judges.clap_score import ClapScore, FadClap, KadClap, SpreadClap
from src.judges.controls import Wrong, with_controls
from src.judges.passt import KldBoth, KldPq, KldQp
from src.judges.tags import (
    FadMsd,
    KadMsd,
    MsdCosine,
    MsdCosineCodec,
    MsdKld,
    MsdKldCodec,
    MsdVggKld,
    MsdVggKldCodec,
    MttVgg,
    SpreadMsd,
)
from src.protocol import Checkpoint, NoScore, Score, VerifierResult
from src.verifier_core import axes_of, shares_data_with

LISTED: tuple[type[Judge], ...] = (
    *(MsdCosine, MsdCosineCodec, MsdKld, MsdKldCodec, MsdVggKld, MsdVggKldCodec, MttVgg),
    *(ClapScore, KldPq, KldQp, KldBoth),
    *(FadMsd, KadMsd, SpreadMsd, FadClap, KadClap, SpreadClap),
)
JUDGES: dict[str, type[Judge]] = {
    judge.name: judge
    for listed in LISTED
    for judge in (with_controls(listed) if issubclass(listed, ReferenceJudge) else (listed,))
}

Answers = dict[str, VerifierResult]  # by verifier


def served(names: Iterable[str]) -> list[str]:
    """Those judges that are verifiers of the server."""
    return [name for name in names if name not in JUDGES]


def all_three(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each judge that compares with references together with its controls."""
    found: list[str] = []
    for name in names:
        judge = JUDGES.get(name, Judge)
        of = judge.of if issubclass(judge, Wrong) else judge
        compares = issubclass(of, ReferenceJudge)
        found += [of.name + CONTRAST, of.name, of.name + WRONG] if compares else [name]
    return tuple(dict.fromkeys(found))


def build_judges(
    names: Sequence[str],
    device: str,
    client: ServerClient | None,
    codec: Codec | None = None,
) -> list[Judge]:
    """Judges by name, in order.

    codec: the generator's, for those that hear references through it. client: of their own. A
    client counts what it sends and how long it waits, and the search's count becomes the cost of a
    method, which judging is no part of. Raises ServerError for a verifier that the server does not
    host.
    """
    remote: dict[str, Judge] = {}
    if client is not None:
        hosted = client.checkpoints(served(names))

        @lru_cache(maxsize=CLIPS_KEPT)
        def ask(clip: Clip, text: str) -> Answers:
            return client.score(hosted, [text], [clip])

        remote = {name: ServedJudge(name, weights, ask) for name, weights in hosted.items()}
    return [remote.get(name) or JUDGES[name](device, codec) for name in names]


class ServedJudge(ClipJudge):
    """A verifier of the server, judging. checkpoint: what the server hosts under that name.

    ask: what each verifier that judges says of a clip and a text, or why it has no score; all are
    asked at once, and the answer is kept for the judge that asks next. The server is held to the
    weights: one that changes them ends the run. `judge` raises VerifierError, besides JudgeError,
    when the server is lost.
    """

    higher_is_better = True
    needs_reference = False

    def __init__(
        self, name: str, checkpoint: Checkpoint, ask: Callable[[Clip, str], Answers]
    ) -> None:
        self.name, self.checkpoint, self.ask = name, checkpoint, ask  # type: ignore[misc]
        self.is_verifier = (name,)  # type: ignore[misc]
        self.shares_data_with = shares_data_with(name)  # type: ignore[misc]
        self.axes = {f"{name}_{axis.lower()}": axis for axis in axes_of(name)}
        self.parts = tuple(self.axes)  # type: ignore[misc]

    def number(self, clip: Clip, prompt: Prompt) -> float:
        return self._score(clip, prompt).value

    def parts_of(self, clip: Clip, prompt: Prompt) -> dict[str, float]:
        components = self._score(clip, prompt).components
        return {n: components[axis] for n, axis in self.axes.items() if axis in components}

    def _score(self, clip: Clip, prompt: Prompt) -> Score:
        (score,) = self.ask(clip, prompt.text)[self.name].scores
        if isinstance(score, NoScore):
            raise JudgeError(f"the clip of {prompt.id}: {score.reason}")
        return score
