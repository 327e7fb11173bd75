"""Judges: measures of final clips that no search saw.

    (judge,) = build_judges(["msd_kld"], "cpu", None)
    judge.judge([clip], [prompt])   # one float per clip; judge.higher_is_better tells the direction

The registry; what a judge is stands in src/judges/base.py. Besides these, every verifier of the
server can judge under its own name (`ServedJudge`), all with one upload of a clip.

The primary judge of the built-in stack, fixed before any result was seen, is `msd_kld`: another
data set than the verifier's, and it compares with reference audio instead of reading the prompt. No
torch is imported until a judge is used.
"""

from collections.abc import Iterable, Sequence
from functools import cache, lru_cache

from src.client import PromptRefused, ServerClient
from src.data.audio import Clip
from src.data.prompts import Prompt
from src.judges.base import CLIPS_KEPT, ClipJudge, Judge, JudgeError
from src.judges.clap_score import ClapScore, FadClap
from src.judges.passt import KldBoth, KldPq, KldQp
from src.judges.tags import FadMsd, MsdKld, MsdVggKld, MttVgg
from src.protocol import Checkpoint, VerifierResult
from src.verifier_core import shares_data_with

JUDGES: dict[str, type[Judge]] = {
    judge.name: judge
    for judge in (
        *(MsdKld, MttVgg, MsdVggKld, FadMsd),
        *(ClapScore, KldPq, KldQp, KldBoth, FadClap),
    )
}


def served(names: Iterable[str]) -> list[str]:
    """Those judges that are verifiers of the server."""
    return [name for name in names if name not in JUDGES]


def build_judges(names: Sequence[str], device: str, client: ServerClient | None) -> list[Judge]:
    """Judges by name, in order.

    client: of their own. A client counts what it sends and how long it waits, and the search's
    count becomes the cost of a method, which judging is no part of. Raises ServerError for a
    verifier that the server does not host.
    """
    remote: dict[str, Judge] = {}
    if client is not None:
        for name, checkpoint in client.checkpoints(served(names)).items():
            remote[name] = ServedJudge(name, client, checkpoint)
    return [remote.get(name) or JUDGES[name](device) for name in names]


class ServedJudge(ClipJudge):
    """A verifier of the server, judging. checkpoint: what the server hosts under that name.

    The server's weights are held to it: a server that changes them ends the run. `judge` raises
    VerifierError, besides JudgeError, when the server is lost.
    """

    name: str  # type: ignore[misc]  # one class, many judges
    higher_is_better = True
    needs_reference = False
    is_verifier: tuple[str, ...]  # type: ignore[misc]
    shares_data_with: tuple[str, ...]  # type: ignore[misc]

    def __init__(self, name: str, client: ServerClient, checkpoint: Checkpoint) -> None:
        self.name = name
        self.is_verifier = (name,)
        self.shares_data_with = shares_data_with(name)
        self.client = client
        _judging(client)[name] = checkpoint

    @property
    def checkpoint(self) -> Checkpoint:
        return _judging(self.client)[self.name]

    def number(self, clip: Clip, prompt: Prompt) -> float:
        answer = _ask(self.client, clip, prompt.text, tuple(_judging(self.client)))[self.name]
        if isinstance(answer, PromptRefused):
            raise JudgeError(f"the clip of {prompt.id}: {answer.reason}") from answer
        return answer.scores[0].value


@cache
def _judging(client: ServerClient) -> dict[str, Checkpoint]:  # noqa: ARG001 (its key)
    """All verifiers that judge by this client: they are asked at once."""
    return {}


@lru_cache(maxsize=CLIPS_KEPT)
def _ask(
    client: ServerClient, clip: Clip, text: str, names: tuple[str, ...]
) -> dict[str, VerifierResult | PromptRefused]:
    """What each verifier says of a clip, or why it has no score; kept for the judge that asks next.

    Raises ServerUnreachable, or ServerError if the server now has other weights.
    """
    return client.score_each(names, [text], [clip], _judging(client))
