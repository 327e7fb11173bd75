"""The two controls of a judge that compares with references: what it says of wrong ones."""

from typing import ClassVar

import numpy as np

from src.data.audio import Clip
from src.data.prompts import Prompt
from src.judges.base import CONTRAST, WRONG, ClipJudge, Codec, JudgeError, ReferenceJudge


class Wrong(ClipJudge):
    """The mean over other prompts' references: what a clip gains by it, it gains whatever was asked
    for. Those that cannot be heard are left out."""

    of: ClassVar[type[ReferenceJudge]]
    suffix: ClassVar[str] = WRONG

    def __init__(self, device: str = "cpu", codec: Codec | None = None) -> None:
        super().__init__(device, codec)
        self.judge_of = self.of(device, codec)

    def number(self, clip: Clip, prompt: Prompt) -> float:
        found, reason = [], f"prompt {prompt.id} has no other prompt's reference to compare with"
        for reference in prompt.wrong:
            try:
                found.append(self.judge_of.compare(clip, prompt, reference))
            except JudgeError as error:  # of its own prompt the run says so
                reason = str(error)
        if not found:
            raise JudgeError(reason)
        return float(np.mean(found))


class Contrast(Wrong):
    """Own minus wrong: what of a clip's number belongs to its prompt. Better as the judge is."""

    suffix = CONTRAST

    def number(self, clip: Clip, prompt: Prompt) -> float:
        return self.judge_of.number(clip, prompt) - super().number(clip, prompt)


def with_controls(judge: type[ReferenceJudge]) -> tuple[type[ClipJudge], ...]:
    """A judge, and its two controls as judges of their own."""
    facts = ("higher_is_better", "needs_reference", "shares_data_with", "definition", "licence")
    same = {fact: getattr(judge, fact) for fact in (*facts, "listener_class")} | {"of": judge}
    contrast, wrong = (
        type(judge.__name__ + of.__name__, (of,), same | {"name": judge.name + of.suffix})
        for of in (Contrast, Wrong)
    )
    return contrast, wrong, judge
