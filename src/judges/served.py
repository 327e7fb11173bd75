"""Verifiers of the server as judges: each under its own name, all with one upload of a clip.

    judge = ServedJudge("clap", client, client.checkpoints(["clap"])["clap"])
    judge.judge([clip], [prompt])

The client of judges is one of their own, not the search's: a client counts what it sends and how
long it waits, and the search's count becomes the cost of a method, which judging is no part of.
"""

from functools import cache

from src.client import PromptRefused, ServerClient
from src.data.audio import Clip
from src.data.prompts import Prompt
from src.judges.base import ClipJudge, JudgeError, Recent
from src.protocol import Checkpoint, VerifierResult
from src.verifier_core import shares_data_with

Answers = dict[str, VerifierResult | PromptRefused]


class ServedListener:
    """Asks a server for all its judges at once and keeps the answer for those that come next."""

    def __init__(self, client: ServerClient) -> None:
        self.client = client
        self.checkpoints: dict[str, Checkpoint] = {}
        self._answers: Recent[Answers] = Recent()

    def number(self, name: str, clip: Clip, text: str) -> float:
        """What a verifier says of a clip.

        Raises PromptRefused for a clip or a prompt that it has no score for, and ServerUnreachable
        or ServerError when the server is lost or has other weights than at the start.
        """
        asked = (text, *self.checkpoints)
        names = list(self.checkpoints)
        answers = self._answers.get(
            clip, asked, lambda: self.client.score_each(names, [text], [clip], self.checkpoints)
        )
        answer = answers[name]
        if isinstance(answer, PromptRefused):
            raise answer
        return answer.scores[0].value


@cache
def _listener(client: ServerClient) -> ServedListener:
    return ServedListener(client)


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
        self._server = _listener(client)
        self._server.checkpoints[name] = checkpoint

    @property
    def checkpoint(self) -> Checkpoint:
        return self._server.checkpoints[self.name]

    def number(self, clip: Clip, prompt: Prompt) -> float:
        try:
            return self._server.number(self.name, clip, prompt.text)
        except PromptRefused as refusal:
            raise JudgeError(f"the clip of {prompt.id}: {refusal.reason}") from refusal
