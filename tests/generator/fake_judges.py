"""Judges whose numbers follow from the clip alone."""

import numpy as np

from src.data.audio import Clip
from src.data.prompts import Prompt
from src.judges.base import ClipJudge, JudgeError, SetJudge
from src.protocol import Checkpoint


class FakeJudge(ClipJudge):
    """Judges by the loudest sample; fails with `problem` where there is one."""

    higher_is_better = False
    needs_reference = False
    checkpoint = Checkpoint(name="fake", sha256="2" * 64)

    def __init__(
        self, name: str, shares: tuple[str, ...] = (), problem: str = "", own: tuple[str, ...] = ()
    ) -> None:
        self.name, self.shares_data_with, self.problem = name, shares, problem  # type: ignore[misc]
        self.is_verifier = own  # type: ignore[misc]
        self.calls = 0

    def number(self, clip: Clip, prompt: Prompt) -> float:
        self.calls += 1
        if self.problem:
            raise JudgeError(self.problem)
        return float(np.abs(clip.samples).max())


class FakeSetJudge(SetJudge):
    """Embeds a clip as its mean, and each reference as zero."""

    name = "fake_set"
    checkpoint = Checkpoint(name="fake", sha256="2" * 64)

    def __init__(self) -> None:
        pass

    def hear(self, clip: Clip, prompt: Prompt) -> np.ndarray:
        return clip.samples.mean(1, keepdims=True)

    def hear_reference(self, prompt: Prompt) -> np.ndarray:
        if prompt.id == "unreferenced":
            raise JudgeError("no reference")
        return np.zeros((1, 1), dtype=np.float32)
