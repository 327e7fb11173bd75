"""Verifiers of the server as judges: each under its own name, all with one upload of a clip.

    judge = ServedJudge("clap", client, server_checkpoints(client, ["clap"])["clap"])
    judge.judge([clip], [prompt])

The client of judges is one of their own, not the search's: a client counts what it sends and how
long it waits, and the search's count becomes the cost of a method, which judging is no part of.
"""

from functools import cache

from src.client.server_client import PromptRefused, ServerClient, ServerError
from src.data.audio import Clip
from src.data.prompts import Prompt
from src.judges.base import ClipJudge, JudgeError, Recent
from src.protocol import Checkpoint
from src.verifier_core import shares_data_with

Answers = dict[str, float | PromptRefused]


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
        answers = self._answers.get(
            clip, asked, lambda: _score_each(self.client, self.checkpoints, text, clip)
        )
        answer = answers[name]
        if isinstance(answer, PromptRefused):
            raise answer
        return answer


def _score_each(
    client: ServerClient, checkpoints: dict[str, Checkpoint], text: str, clip: Clip
) -> Answers:
    """Each verifier's score of a clip, or why it has none; the weights must be `checkpoints`."""
    try:
        results = client.score(list(checkpoints), [text], [clip])
    except PromptRefused as refusal:
        if len(checkpoints) == 1:
            return dict.fromkeys(checkpoints, refusal)
        # A request is refused as a whole: what one verifier cannot score another may.
        answers: Answers = {}
        for name, checkpoint in checkpoints.items():
            answers |= _score_each(client, {name: checkpoint}, text, clip)
        return answers
    for name, result in results.items():
        if result.checkpoint != checkpoints[name]:
            raise ServerError(
                f"{client.url} now scores {name} with other weights "
                f"({result.checkpoint}, before: {checkpoints[name]}); start a new run"
            )
    return {name: result.scores[0].value for name, result in results.items()}


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
