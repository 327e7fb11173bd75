"""Which phrases of an English text are negated: "no drums or bass", "vocals are absent".

Rules over words, for captions of music. They lean towards reading a phrase as meant: a negation
reaches over "or", over adjectives and over lists that end in "or", and stops at most other things.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

# Before a noun: up to three words may stand between ("no sort of heavy drums").
_NO = "no, non, neither, nor, zero"
# The same, and it reaches over "and" too ("without drums and bass").
_WITHOUT = """without, with no, lack of, lacks, lacking, absence of, devoid of, free of, free from,
minus, instead of, rather than, not accompanied by, unaccompanied by"""
# Before a verb or an adjective: only the words of _FILLERS may stand between.
_NOT = "not, never"
_NO_NEGATION = """not only, not just, not without, nothing but, no longer, no doubt, without doubt,
without a doubt, no less, not least, none other than"""

_FREE_WORDS = 3
_FILLERS = """a an the any very too so really particularly especially overly quite exactly much all
at have has include includes contain contains feature features use uses be sound"""
# Where a negation ends, whatever it is: at another one (which takes over), and at
_ENDS = """. ; : ! ? ( ) but with in on by to from for as is are was were than besides except while
whereas though although however if plays play played playing featuring only just this that these
those which it its where when then there over under against alongside accompanied yet because"""
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
    rules = _rules()
    starts = {span.start: span for span in spans}
    found: set[Span] = set()
    place = 0
    while place < len(words):
        length, kind = rules.negator_at(words, place)
        if kind:
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


class _Rules:
    """The lists above as sets and dictionaries."""

    def __init__(self) -> None:
        kinds = {"no": _NO, "without": _WITHOUT, "not": _NOT, "": _NO_NEGATION}
        self.negators = {
            tuple(phrase.split()): kind
            for kind, phrases in kinds.items()
            for phrase in phrases.split(",")
        }
        self.fillers = frozenset(_FILLERS.split())
        self.ends = frozenset(_ENDS.split())

    def negator_at(self, words: Sequence[str], place: int) -> tuple[int, str]:
        """Length and kind of the negating phrase that begins here; (0, "") when none does.

        The empty kind with a length is a phrase that only looks like a negation.
        """
        for length in (3, 2, 1):
            kind = self.negators.get(tuple(words[place : place + length]))
            if kind is not None:
                return length, kind
        return 0, ""


@cache
def _rules() -> _Rules:
    return _Rules()


def _scope(
    words: Sequence[str], starts: Mapping[int, Span], place: int, kind: str, closed: bool
) -> Iterator[Span]:
    """The spans that a negator of this kind, which ends before word `place`, reaches.

    closed: a span was reached, and only a link opens the way to the next one.
    """
    rules = _rules()
    free = _FREE_WORDS
    while place < len(words):
        word, span = words[place], starts.get(place)
        if rules.negator_at(words, place)[1] or (span is not None and closed):
            return
        if span is not None:
            yield span
            place = span.end
            closed = kind == "not" or not span.adjective
            continue
        linked = word == "or" or (word == "and" and kind == "without")
        if linked or (word == "," and kind != "not" and _is_list(words, place)):
            closed, free = False, _FREE_WORDS
        elif word in rules.ends or word in (",", "and"):
            return
        elif word not in rules.fillers:
            free -= 1
            if free < 0 or (kind == "not" and not closed):
                return
        place += 1


def _is_list(words: Sequence[str], comma: int) -> bool:
    """Whether items of a few words, between commas, follow up to an "or": ", bass or vocals"."""
    rules = _rules()
    length = 0
    for place in range(comma + 1, len(words)):
        word = words[place]
        if word == "or":
            return True
        length = 0 if word == "," else length + 1
        if length > _FREE_WORDS or word in rules.ends or word == "and":
            return False
        if rules.negator_at(words, place)[1]:
            return False
    return False
