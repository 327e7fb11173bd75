"""Verifiers of the server as judges: one upload for all, reasons, and what ends a run."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from src.client import ServerUnreachable
from src.data.audio import Clip
from src.data.prompts import Prompt
from src.judges.base import JudgeError
from src.judges.registry import build_judges
from src.protocol import Checkpoint
from tests.generator.fake_pool import WEIGHTS, FakeClient

NAMES = ("clap", "muq", "tags")


class Client(FakeClient):
    """Notes to which checkpoints it is asked to hold the server."""

    held: Mapping[str, Checkpoint] = {}

    def score_each(self, names, prompts, clips, checkpoints=None):
        self.held = checkpoints
        return super().score_each(names, prompts, clips)


def judges(client: FakeClient, *names: str) -> list[Any]:
    return build_judges(names or NAMES, "cpu", client)  # type: ignore[arg-type]


def clip(level: float) -> Clip:
    return Clip(np.full((1, 100), level, dtype=np.float32), 16_000)


def prompt(text: str = "slow piano") -> Prompt:
    return Prompt(id="p", text=text, key="k")


def test_a_clip_is_sent_once_for_all_judges_and_the_server_held_to_their_weights() -> None:
    client = Client()
    all_judges = judges(client)
    for level in (1, 2):
        heard = clip(level)
        values = [judge.judge(heard, prompt()) for judge in all_judges]
        assert values == [client.values[name, "slow piano"][-1] for name in NAMES]
    assert client.asked == [(NAMES, "slow piano", 100)] * 2
    assert client.held == dict.fromkeys(NAMES, WEIGHTS)


def test_another_clip_or_prompt_is_another_question() -> None:
    client = FakeClient()
    (judge,) = judges(client, "clap")
    same = clip(1)
    for heard, text in ((same, "a"), (same, "b"), (clip(2), "b")):
        judge.judge(heard, prompt(text))
    assert [text for _, text, _ in client.asked] == ["a", "b", "b"]


def test_what_one_verifier_refuses_the_others_still_judge_and_it_is_asked_once() -> None:
    client = FakeClient(refuses=[("tags", "slow piano")])
    clap, _, tags = judges(client)
    heard = clip(1)
    for _ in range(2):
        with pytest.raises(JudgeError, match="the clip of p: it names nothing"):
            tags.judge(heard, prompt())
    assert clap.judge(heard, prompt()) == client.values["clap", "slow piano"][0]
    assert len(client.asked) == 1


def test_a_lost_server_is_no_matter_of_one_clip() -> None:
    client, heard = FakeClient(lives=0), clip(1)
    (clap,) = judges(client, "clap")
    with pytest.raises(ServerUnreachable):
        clap.judge(heard, prompt())
    client.lives = 1
    assert np.isfinite(clap.judge(heard, prompt()))


def test_a_served_judge_says_whose_number_it_is() -> None:
    clap, _, tags = judges(FakeClient())
    assert (clap.name, clap.is_verifier, clap.shares_data_with) == ("clap", ("clap",), ())
    assert (tags.is_verifier, tags.shares_data_with) == (("tags",), ("tags_vgg",))
    assert clap.checkpoint == WEIGHTS
    assert clap.higher_is_better
    assert not clap.needs_reference
