"""Does a measure know what belongs together? Shares of wrong pairs that score worse than the right
one, which wrong ones are hard to tell from it, and how many prompts a gain needs. numpy and scipy.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from src.stats.intervals import StatsError

SIMILAR = 5  # others that share most words with a prompt
POWER, SIGNIFICANCE = 0.8, 0.05  # two-sided
REACH = norm.ppf(1 - SIGNIFICANCE / 2) + norm.ppf(POWER)  # standard errors
# Traits in which others with the same first aspect may differ: what an aspect is that names one.
TRAITS = {
    "drums": re.compile(r"(no )?drums"),
    "tempo": re.compile(r"(slow|moderate|medium|fast)( tempo)?"),
}

Aspects = Mapping[str, Sequence[str]]  # of each prompt, by id


def rank(own: float, wrong: ArrayLike) -> tuple[float, float]:
    """Whether the right one is first (1 or 0), and the share of the wrong ones that score worse.

    Higher is better. Ties count as halves; among k that tie for the first place each is first by
    1/k. Wrong ones without a number (NaN) do not count. NaN where the right one has none, or no
    wrong one has.
    """
    others = np.asarray(wrong, dtype=np.float64)
    others = others[~np.isnan(others)]
    if math.isnan(own) or not others.size:
        return math.nan, math.nan
    above, ties = (others > own).sum(), (others == own).sum()
    share = ((others < own).sum() + ties / 2) / others.size
    return (0.0 if above else float(1 / (1 + ties))), float(share)


def hard_negatives(aspects: Aspects) -> dict[str, dict[str, list[str]]]:
    """By kind and prompt, the others that are hard to tell from it by what the table lists.

    similar: those SIMILAR that share most words of their aspects, in the table's order where
    several share as many. drums, tempo: with the same first aspect, but another word for this
    trait. A prompt with the very same aspects is none.
    """
    words = {p: {*" ".join(own).lower().split()} for p, own in aspects.items()}
    found: dict[str, dict[str, list[str]]] = {kind: {} for kind in ("similar", *TRAITS)}
    for prompt, own in aspects.items():
        others = [p for p in aspects if {*aspects[p]} != {*own}]
        shared = {p: len(words[prompt] & words[p]) for p in others}
        closest = sorted((p for p in others if shared[p]), key=lambda p: -shared[p])
        found["similar"][prompt] = closest[:SIMILAR]
        alike = [p for p in others if own and aspects[p] and aspects[p][0] == own[0]]
        for kind in TRAITS:
            here = trait(own, kind)
            found[kind][prompt] = [
                p for p in alike if here and trait(aspects[p], kind) not in (here, None)
            ]
    return found


def trait(aspects: Iterable[str], kind: str) -> str | None:
    """The first aspect that names this trait (of TRAITS), without the word tempo."""
    named = (a.lower() for a in aspects if TRAITS[kind].fullmatch(a.lower()))
    return next((a.removesuffix(" tempo") for a in named), None)


def prompts_needed(variance: float, gain: float) -> float:
    """How many prompts show a mean gain as not zero: POWER, at SIGNIFICANCE.

    variance: of a prompt's gain, in squares of the gain's unit. Normal approximation:
    (z_(1 - a/2) + z_power)^2 variance / gain^2. Raises StatsError for a gain that is not positive.
    """
    if not gain > 0:
        raise StatsError(f"the gain is to be positive, not {gain:g}")
    return float(REACH**2 * variance / gain**2)


def detectable(variance: float, prompts: int) -> float:
    """The mean gain that so many prompts show as not zero: `prompts_needed` turned round."""
    return float(REACH * (variance / prompts) ** 0.5)
