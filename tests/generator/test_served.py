"""Verifiers of the server as judges: one upload for all, reasons, and what ends a run."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from src.client import PromptRefused, ServerClient, ServerError, ServerUnreachable
from src.data.audio import Clip
from src.data.prompts import Prompt
from src.judges.base import JudgeError
from src.judges.registry import ServedJudge
from src.protocol import Checkpoint, Score, VerifierResult

NAMES = ("clap", "muq", "tags")
LEVEL = {"clap": 1.0, "muq": 10.0, "tags": 100.0}


def weights(name: str) -> Checkpoint:
    return Checkpoint(name=f"{name}.pt", sha256="ab" * 32)


class Server(ServerClient):
    """Scores a clip by its first sample and a level of each verifier's own."""

    def __init__(self) -> None:
        super().__init__("http://nowhere")
        self.asked: list[tuple[tuple[str, ...], str]] = []
        self.weights = {name: weights(name) for name in NAMES}
        self.lost = False

    def score(
        self,
        names: Sequence[str],
        prompts: Sequence[str],
        clips: Sequence[Clip],
        checkpoints: Mapping[str, Checkpoint] | None = None,
    ) -> dict[str, VerifierResult]:
        assert checkpoints is not None  # which the client holds the server to
        for name in names:
            if self.weights[name] != checkpoints[name]:
                raise ServerError(f"now scores {name} with other weights")
        self.asked += [(tuple(names), prompt) for prompt in prompts]
        if self.lost:
            raise ServerUnreachable("no verifier server answers")
        if prompts[0] == "silence":
            raise PromptRefused({0: "the clip is silent"})
        if "tags" in names and prompts[0] == "nothing":
            raise PromptRefused({0: "tags: names no tag"})
        return {
            name: VerifierResult(
                checkpoint=self.weights[name],
                scores=[Score(value=LEVEL[name] * float(clip.samples[0, 0])) for clip in clips],
                queue_seconds=0,
                compute_seconds=0,
            )
            for name in names
        }


@pytest.fixture
def server() -> Server:
    return Server()


def judges(server: Server, *names: str) -> list[ServedJudge]:
    return [ServedJudge(name, server, weights(name)) for name in names or NAMES]


def clip(level: float) -> Clip:
    return Clip(np.full((1, 100), level, dtype=np.float32), 16_000)


def prompt(text: str = "slow piano") -> Prompt:
    return Prompt(id="p", text=text, key="k")


def test_a_clip_is_sent_once_for_all_judges(server: Server) -> None:
    all_judges = judges(server)
    for level in (0.25, 0.5):
        heard = clip(level)
        values = [judge.judge([heard], [prompt()]) for judge in all_judges]
        assert values == [[level], [10 * level], [100 * level]]
    assert server.asked == [(NAMES, "slow piano")] * 2


def test_another_clip_or_prompt_is_another_question(server: Server) -> None:
    (judge,) = judges(server, "clap")
    same = clip(0.5)
    assert judge.judge([same, same], [prompt("a"), prompt("b")]) == [0.5, 0.5]
    assert judge.judge([clip(0.25)], [prompt("b")]) == [0.25]
    assert [text for _, text in server.asked] == ["a", "b", "b"]


def test_a_judge_that_joins_later_is_asked_for_too(server: Server) -> None:
    (first,) = judges(server, "clap")
    heard = clip(0.5)
    first.judge([heard], [prompt()])
    (second,) = judges(server, "muq")
    assert second.judge([heard], [prompt()]) == [5.0]


def test_judges_of_two_servers_do_not_answer_for_each_other(server: Server) -> None:
    other = Server()
    heard = clip(0.5)
    for client in (server, other):
        judges(client, "clap")[0].judge([heard], [prompt()])
    assert len(server.asked) == len(other.asked) == 1


def test_what_one_verifier_refuses_the_others_still_judge(server: Server) -> None:
    clap, muq, tags = judges(server)
    heard = clip(0.5)
    assert clap.judge([heard], [prompt("nothing")]) == [0.5]
    assert muq.judge([heard], [prompt("nothing")]) == [5.0]
    with pytest.raises(JudgeError, match="the clip of p: tags: names no tag"):
        tags.judge([heard], [prompt("nothing")])
    assert [names for names, _ in server.asked] == [NAMES, ("clap",), ("muq",), ("tags",)]


def test_what_all_refuse_is_refused_with_its_reason_and_asked_once(server: Server) -> None:
    (clap,) = judges(server, "clap")
    heard = clip(0.0)
    for _ in range(2):
        with pytest.raises(JudgeError, match="the clip of p: the clip is silent"):
            clap.judge([heard], [prompt("silence")])
    assert len(server.asked) == 1


def test_a_lost_server_is_no_matter_of_one_clip(server: Server) -> None:
    (clap,) = judges(server, "clap")
    heard = clip(0.5)
    server.lost = True
    with pytest.raises(ServerUnreachable):
        clap.judge([heard], [prompt()])
    server.lost = False
    assert clap.judge([heard], [prompt()]) == [0.5]


def test_a_server_that_changes_its_weights_ends_the_run(server: Server) -> None:
    clap, _, _ = judges(server)
    server.weights["muq"] = Checkpoint(name="muq.pt", sha256="cd" * 32)
    with pytest.raises(ServerError, match="now scores muq with other weights"):
        clap.judge([clip(0.5)], [prompt()])


def test_a_served_judge_says_whose_number_it_is(server: Server) -> None:
    clap, _, tags = judges(server)
    assert (clap.name, clap.is_verifier, clap.shares_data_with) == ("clap", ("clap",), ())
    assert (tags.is_verifier, tags.shares_data_with) == (("tags",), ("tags_vgg",))
    assert clap.checkpoint == weights("clap")
    assert clap.higher_is_better
    assert not clap.needs_reference
