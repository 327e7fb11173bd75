"""The sentences of all reports: what a table cannot say, or what matters most in it.

Tables have the numbers and a verdict for each; a sentence is here only where a reader would
overlook or misread them. Each function makes one, and knows nothing of how a study is made.
"""

import textwrap
from collections.abc import Iterable

from src.runs.measures import Measure

LONGEST_REASON = 200  # characters; records have it whole
FEW_PROMPTS = 10  # a bootstrap over fewer gives intervals that are too narrow


def weights(measures: Iterable[Measure]) -> list[str]:
    """Which weights each measure is made with."""
    named = [f"  {m.name}: {m.checkpoint}" for m in measures if m.checkpoint]
    return ["Weights, and how their SHA-256 begins:", *named] if named else []


def few_prompts(prompts: int) -> str:
    """Whether intervals over so many prompts are to be relied on; empty where they are."""
    if prompts < 2:
        return "No intervals are given: they need 2 finished prompts or more."
    if prompts < FEW_PROMPTS:
        return f"{prompts} prompts are too few to rely on these intervals."
    return ""


def shortened(reason: str) -> str:
    return textwrap.shorten(reason, LONGEST_REASON, placeholder=" ..")
