"""Which of a tagger's tags a prompt names, and which it negates.

    named_tags("A slow classical guitar piece, no drums.", "tags")
    # Named(wanted=("slow", "guitar"), unwanted=("drums",))

The longest phrase of the table wins at each place ("classical guitar" is a guitar, not classical
music); src/models/negation.py finds what is negated. No model is involved: what a prompt names
can be read off vocabulary.toml.
"""

import re
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from src.models.negation import Span, negated

# Probabilities of tags are kept this far from 0 and 1 before their logarithms are taken: log-odds
# are within +-13.8, and no tag weighs over ln 1e6 in a divergence.
EPSILON = 1e-6

_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
_MAGNATAGATUNE, _MILLION_SONGS = (tuple(tags) for tags in _TABLE["tags"].values())

# The tags of each tagger, by its verifier's name, in the order of the network's outputs.
TAGS: dict[str, tuple[str, ...]] = {
    "tags": _MAGNATAGATUNE,
    "tags_vgg": _MAGNATAGATUNE,
    "tags_msd": _MILLION_SONGS,
    "tags_msd_vgg": _MILLION_SONGS,
}
SYNONYMS: dict[str, list[str]] = _TABLE["synonyms"]
NOT_TAGS: list[str] = _TABLE["not_tags"]
OPPOSITES: dict[str, str] = _TABLE["opposites"]


class NoTagNamed(ValueError):
    """A prompt that names none of a tagger's tags; the message lists them."""


@dataclass(frozen=True)
class Named:
    """The tags that a prompt wants and those that it wants absent, in order of first mention."""

    wanted: tuple[str, ...]
    unwanted: tuple[str, ...]

    def log_odds(self, of_tags: Mapping[str, float]) -> float:
        """The mean of the wanted tags' log-odds, less the mean of the unwanted ones'."""
        value = 0.0
        for sign, chosen in ((1, self.wanted), (-1, self.unwanted)):
            if chosen:
                value += sign * sum(of_tags[tag] for tag in chosen) / len(chosen)
        return value


@dataclass(frozen=True)
class Phrase(Span):
    """Words of a prompt and the tags that they name; none for a phrase that hides a tag."""

    tags: tuple[str, ...]


def named_tags(prompt: str, tagger: str) -> Named:
    """What `prompt` names in the vocabulary of `tagger`, a key of TAGS.

    A tag that is named in one place and negated in another is wanted. Raises NoTagNamed.
    """
    words = _words(prompt)
    phrases = list(_phrases(words, tagger))
    absent = negated(words, phrases)
    wanted: dict[str, None] = {}
    unwanted: dict[str, None] = {}
    for phrase in phrases:
        for tag in phrase.tags:
            if phrase not in absent:
                wanted[tag] = None
            elif tag in OPPOSITES:
                wanted[OPPOSITES[tag]] = None
            else:
                unwanted[tag] = None
    named = Named(tuple(wanted), tuple(tag for tag in unwanted if tag not in wanted))
    if named == Named((), ()):
        raise NoTagNamed(
            f"the prompt {prompt!r} names no tag that {tagger!r} knows; name one of: "
            f"{', '.join(TAGS[tagger])} (or a synonym, such as violinist or adagio)"
        )
    return named


def _words(text: str) -> list[str]:
    """Lower-case words without accents, and punctuation marks as words of their own."""
    text = unicodedata.normalize("NFKD", text.casefold())
    text = "".join(c for c in text if not unicodedata.combining(c)).replace("’", "'")
    text = re.sub(r"n't\b", " not", text)
    text = re.sub(r"\b(\w+)-free\b|\b(drum|beat|vocal|guitar|piano)-?less\b", r"no \1\2", text)
    return re.findall(r"[a-z0-9]+|[.,;:!?()]", text)


def _expand(phrases: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Phrases as words; "harp(s)" is harp and harps."""
    for phrase in phrases:
        *first, last = phrase.split()
        yield (*first, last.removesuffix("(s)"))
        if last.endswith("(s)"):
            yield (*first, last.removesuffix("(s)") + "s")


@cache
def _lexicon(tagger: str) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Phrase, as words -> the tags of this tagger that it names."""
    named: dict[tuple[str, ...], tuple[str, ...]] = dict.fromkeys(_expand(NOT_TAGS), ())
    for tag, phrases in SYNONYMS.items():
        for phrase in _expand(phrases):
            named[phrase] = named.get(phrase, ()) + ((tag,) if tag in TAGS[tagger] else ())
    return named | {tuple(_words(tag)): (tag,) for tag in TAGS[tagger]}


def _phrases(words: Sequence[str], tagger: str) -> Iterator[Phrase]:
    """The longest phrase at each place, from left to right."""
    lexicon = _lexicon(tagger)
    longest = max(map(len, lexicon))
    start = 0
    while start < len(words):
        ends = range(min(start + longest, len(words)), start, -1)
        end = next((end for end in ends if tuple(words[start:end]) in lexicon), None)
        if end is not None:
            tags = lexicon[tuple(words[start:end])]
            yield Phrase(start, end, any(tag in _TABLE["adjectives"] for tag in tags), tags)
        start = end or start + 1
