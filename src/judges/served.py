"""Verifiers of the server as judges: each under its own name, all with one upload of a clip.

    judge = ServedJudge("clap", client, server_checkpoints(client, ["clap"])["clap"])
    judge.judge([clip], [prompt])

The client of judges is one of their own, not the search's: a client counts what it sends and how
long it waits, and the search's count becomes the cost of a method, which judging is no part of.
"""

from collections.abc import Sequence
from functools import cache

from src.client import ServerClient
from src.data.audio import Clip
from src.data.prompts import Prompt
from src.judges.base import ClipJudge, JudgeError
from src.protocol import Checkpoint
from src.verifier import PromptRefused, ScoreInput, SumVerifier

# Networks of another architecture trained on the same data and labels (TAGGERS).
SHARED_DATA = {
    "tags": ("tags_vgg",),
    "tags_vgg": ("tags",),
    "tags_msd": ("tags_msd_vgg",),
    "tags_msd_vgg": ("tags_msd",),
}


class ServedListener:
    """Asks a server for all its judges at once and keeps the answer for those that come next."""

    def __init__(self, client: ServerClient) -> None:
        self.client = client
        self.checkpoints: dict[str, Checkpoint] = {}
        self._asked: tuple[Clip, str] | None = None
        self._answers: dict[str, float | PromptRefused] = {}

    def number(self, name: str, clip: Clip, text: str) -> float:
        """What a verifier says of a clip.

        Raises PromptRefused for a clip or a prompt that it has no score for, and ServerUnreachable
        or ServerError when the server is lost or has other weights than at the start.
        """
        asked_before = self._asked and self._asked[0] is clip and self._asked[1] == text
        if not asked_before or name not in self._answers:
            self._answers = self._ask(clip, text)
            self._asked = clip, text
        answer = self._answers[name]
        if isinstance(answer, PromptRefused):
            raise answer
        return answer

    def _ask(self, clip: Clip, text: str) -> dict[str, float | PromptRefused]:
        try:
            return {**self._scores(list(self.checkpoints), clip, text)}
        except PromptRefused as refusal:
            if len(self.checkpoints) == 1:
                return dict.fromkeys(self.checkpoints, refusal)
        # A request is refused as a whole: what one verifier cannot score another may.
        answers: dict[str, float | PromptRefused] = {}
        for name in self.checkpoints:
            try:
                answers |= self._scores([name], clip, text)
            except PromptRefused as refusal:
                answers[name] = refusal
        return answers

    def _scores(self, names: Sequence[str], clip: Clip, text: str) -> dict[str, float]:
        # A sum is asked for in one request, and keeps its parts' own values.
        checkpoints = {name: self.checkpoints[name] for name in names}
        ones = dict.fromkeys(names, 1.0)
        parts = SumVerifier(" + ".join(names), ones, ones, checkpoints, self.client)
        (score,) = parts.score([ScoreInput(text, clip, log_prob=0.0)])
        return score.components


@cache
def _listener(client: ServerClient) -> ServedListener:
    return ServedListener(client)


class ServedJudge(ClipJudge):
    """A verifier of the server, judging. checkpoint: what the server hosts under that name.

    The server's weights are held to it: a server that changes them ends the run.
    """

    name: str  # type: ignore[misc]  # one class, many judges
    higher_is_better = True
    needs_reference = False
    is_verifier: tuple[str, ...]  # type: ignore[misc]
    shares_data_with: tuple[str, ...]  # type: ignore[misc]

    def __init__(self, name: str, client: ServerClient, checkpoint: Checkpoint) -> None:
        self.name = name
        self.is_verifier = (name,)
        self.shares_data_with = SHARED_DATA.get(name, ())
        self._server = _listener(client)
        self._server.checkpoints[name] = checkpoint

    @property
    def checkpoint(self) -> Checkpoint:
        return self._server.checkpoints[self.name]

    def judge(self, clips: Sequence[Clip], prompts: Sequence[Prompt]) -> list[float]:
        """Scores, one a clip. Raises JudgeError, and VerifierError when the server is lost."""
        return [self._one(clip, prompt) for clip, prompt in zip(clips, prompts, strict=True)]

    def _one(self, clip: Clip, prompt: Prompt) -> float:
        try:
            return self._server.number(self.name, clip, prompt.text)
        except PromptRefused as refusal:
            raise JudgeError(f"the clip of {prompt.id}: {refusal.reason}") from refusal
