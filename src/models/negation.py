"""Which phrases of an English text are negated: "no drums or bass", "vocals are absent".

Rules over words, for captions of music. They lean towards reading a phrase as meant: a negation
reaches over "or", over adjectives and over lists that end in "or", and stops at most other things.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
_KINDS = {tuple(p.split()): kind for kind, listed in _TABLE["negators"].items() for p in listed}
_FILLERS, _ENDS = frozenset(_TABLE["words"]["fillers"]), frozenset(_TABLE["words"]["ends"])
_FREE_WORDS = 3  # that may stand between a negation and a noun
# What follows a phrase that is not there.
_ABSENT = re.compile(
    r"(?:is |are |was |were )?(?:entirely |completely )?"
    r"(?:absent|missing|not (?:present|heard|used|included|audible|there|played))\b"
)


@dataclass(frozen=True)
class Span:
    """Words start..end-1 of a text; `adjective`: what follows it may belong to it."""

    start: int
    end: int
    adjective: bool


def negated(words: Sequence[str], spans: Sequence[Span]) -> set[Span]:
    """Those of the spans that the text negates.

    words: lower case, punctuation marks as words of their own. spans: disjoint, in order.
    """
    starts = {span.start: span for span in spans}
    found: set[Span] = set()
    place = 0
    while place < len(words):
        length, kind = _negator_at(words, place)
        if kind != "none":
            # "no vocals" may be a phrase itself; "no vocals or drums" negates drums all the same.
            own = starts.get(place)
            after = own.end if own else place + length
            found.update(_scope(words, starts, after, kind, closed=own is not None))
        place += max(length, 1)
    for previous, span in pairwise([None, *spans]):
        if span and _ABSENT.match(" ".join(words[span.end : span.end + 4])):
            found.add(span)
            if previous and {"and"} <= {*words[previous.end : span.start]} <= {"and", "the"}:
                found.add(previous)
    return found


def _negator_at(words: Sequence[str], place: int) -> tuple[int, str]:
    """Length and kind (a key of the table) of the negating phrase that begins at this word.

    Kind "none" where nothing is negated: no such phrase (length 0), or one that only looks like it.
    """
    for length in (3, 2, 1):
        kind = _KINDS.get(tuple(words[place : place + length]))
        if kind is not None:
            return length, kind
    return 0, "none"


def _scope(
    words: Sequence[str], starts: Mapping[int, Span], place: int, kind: str, closed: bool
) -> Iterator[Span]:
    """The spans that a negator of this kind, which ends before word `place`, reaches.

    closed: a span was reached, and only a link opens the way to the next one.
    """
    free = _FREE_WORDS
    while place < len(words):
        word, span = words[place], starts.get(place)
        if _negator_at(words, place)[1] != "none" or (span is not None and closed):
            return
        if span is not None:
            yield span
            place = span.end
            closed = kind == "not" or not span.adjective
            continue
        linked = word == "or" or (word == "and" and kind == "without")
        if linked or (word == "," and kind != "not" and _is_list(words, place)):
            closed, free = False, _FREE_WORDS
        elif word in _ENDS or word in (",", "and"):
            return
        elif word not in _FILLERS:
            free -= 1
            if free < 0 or (kind == "not" and not closed):
                return
        place += 1


def _is_list(words: Sequence[str], comma: int) -> bool:
    """Whether items of a few words, between commas, follow up to an "or": ", bass or vocals"."""
    length = 0
    for place in range(comma + 1, len(words)):
        word = words[place]
        if word == "or":
            return True
        length = 0 if word == "," else length + 1
        if length > _FREE_WORDS or word in _ENDS or word == "and":
            return False
        if _negator_at(words, place)[1] != "none":
            return False
    return False
