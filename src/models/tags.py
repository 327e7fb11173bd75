"""musicnn's taggers as verifiers: which of a tagger's tags a prompt names, and which it negates.

    named_tags("A slow classical guitar piece, no drums.", "tags")
    # Named(wanted=("slow", "guitar"), unwanted=("drums",))

The longest phrase of the table wins at each place ("classical guitar" is a guitar, not classical
music), and what means something else beside another word ("an Asian country", "a metal gate") names
no tag. What is negated ("no drums or bass", "vocals are absent") is found by rules over words, for
captions of music. They lean towards reading a phrase as meant: a negation reaches over "or", over
adjectives and over lists that end in "or", and stops at most other things. No model is involved:
what a prompt names can be read off vocabulary.toml.
"""

import re
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from src.models.adapter import (
    EPSILON,
    Adapter,
    PromptUnusable,
    computing,
    finite_score,
    must_be_audible,
)
from src.protocol import Checkpoint, Score

if TYPE_CHECKING:
    from src.models.tagger import Tagger

_TABLE = tomllib.loads(Path(__file__).with_name("vocabulary.toml").read_text())
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

SHOWN_CHARS = 60  # of a prompt that is refused
_KINDS = {tuple(p.split()): kind for kind, listed in _TABLE["negators"].items() for p in listed}
_FILLERS, _ENDS = frozenset(_TABLE["words"]["fillers"]), frozenset(_TABLE["words"]["ends"])
_FREE_WORDS = 3  # that may stand between a negation and a noun


def _one_of(patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns.split()))


_MUSIC = _one_of(_TABLE["beside"]["music"])
# Of each sense that names no tag: the phrases that can have it, what it follows, what follows it.
_SENSES = [
    (sense["of"].split(), _one_of(sense.get("after", "")), _one_of(sense.get("before", "")))
    for sense in _TABLE["senses"]
]
# What follows a phrase that is not there.
_ABSENT = re.compile(
    r"(?:is |are |was |were )?(?:entirely |completely )?"
    r"(?:absent|missing|not (?:present|heard|used|included|audible|there|played|playing))\b"
)


class TaggerVerifier(Adapter):
    """musicnn's taggers: mean log-odds of the tags a prompt names, less those it negates.

    A clip's embedding: the network's layer before its tags, the mean over windows, none negative.
    """

    summary = "log-odds of the tags that the prompt names (musicnn)"
    licence = "ISC"
    sample_rate = 16_000
    needs_text = True
    embeds = True
    tagger: "Tagger"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.vocabulary = TAGS[name]
        other = name.removesuffix("_vgg")  # of two architectures
        self.shares_data_with = (other if other != name else f"{name}_vgg",)

    def load(self, device: str, dtype: str = "float32") -> Checkpoint:
        from src.models.tagger import load_tagger

        self.tagger = load_tagger(self.name).to(device)
        self.device, self.dtype = device, dtype
        return self.tagger.checkpoint

    def check(self, prompt: str) -> None:
        named_tags(prompt, self.name)

    def score(self, clips: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Score]:
        import torch

        for clip in clips:
            must_be_audible(clip)
        with computing(self.device, self.dtype):
            waves = [torch.from_numpy(clip).to(self.device) for clip in clips]
            heard = self.tagger.embeddings_of(waves)
            posteriors = torch.stack([self.tagger.tags_of(windows) for windows in heard]).float()
            logits = torch.logit(posteriors, eps=EPSILON)
        scores = []
        for row, windows, prompt in zip(logits.tolist(), heard, prompts, strict=True):
            log_odds = dict(zip(self.tagger.tags, row, strict=True))
            named = named_tags(prompt, self.name)
            components = {tag: log_odds[tag] for tag in (*named.wanted, *named.unwanted)}
            scores.append(finite_score(named.log_odds(log_odds), components, windows.mean(0)))
        return scores


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
class Phrase:
    """Words start..end-1 of a prompt and the tags that they name; none where they hide a tag.

    adjective: what follows it may belong to it.
    """

    start: int
    end: int
    adjective: bool
    tags: tuple[str, ...]


@lru_cache(maxsize=1024)  # a search asks for the same prompts again
def named_tags(prompt: str, tagger: str) -> Named:
    """What `prompt` names in the vocabulary of `tagger`, a key of TAGS.

    A tag that is named in one place and negated in another is wanted. Raises PromptUnusable.
    """
    words = _words(prompt)
    phrases = list(_phrases(words, tagger))
    absent = _negated(words, phrases)
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
        shown = prompt if len(prompt) <= SHOWN_CHARS else prompt[:SHOWN_CHARS] + ".."
        raise PromptUnusable(
            f"{shown!r} names no tag that {tagger!r} knows (listed in src/models/vocabulary.toml)"
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
            tags = () if _in_another_sense(words, start, end) else lexicon[tuple(words[start:end])]
            yield Phrase(start, end, any(tag in _TABLE["adjectives"] for tag in tags), tags)
        start = end or start + 1


def _in_another_sense(words: Sequence[str], start: int, end: int) -> bool:
    """Whether the words beside the phrase start..end-1 say that it means no tag."""
    phrase = " ".join(words[start:end])
    previous, following = [".", *words][start], [*words, "."][end]
    return any(
        phrase in of
        and (
            before.fullmatch(following)
            or (after.fullmatch(previous) and not _MUSIC.fullmatch(following))
        )
        for of, after, before in _SENSES
    )


def _negated(words: Sequence[str], phrases: Sequence[Phrase]) -> set[Phrase]:
    """Those of the phrases that the text negates.

    words: lower case, punctuation marks as words of their own. phrases: disjoint, in order.
    """
    starts = {phrase.start: phrase for phrase in phrases}
    found: set[Phrase] = set()
    place = 0
    while place < len(words):
        length, kind = _negator_at(words, place)
        if kind != "none":
            # "no vocals" may be a phrase itself; "no vocals or drums" negates drums all the same.
            own = starts.get(place)
            after = own.end if own else place + length
            found.update(_scope(words, starts, after, kind, closed=own is not None))
        place += max(length, 1)
    for previous, phrase in pairwise([None, *phrases]):
        if phrase and _ABSENT.match(" ".join(words[phrase.end : phrase.end + 4])):
            found.add(phrase)
            if previous and {"and"} <= {*words[previous.end : phrase.start]} <= {"and", "the"}:
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
    words: Sequence[str], starts: Mapping[int, Phrase], place: int, kind: str, closed: bool
) -> Iterator[Phrase]:
    """The phrases that a negator of this kind, which ends before word `place`, reaches.

    closed: a phrase was reached, and only a link opens the way to the next one.
    """
    free = _FREE_WORDS
    while place < len(words):
        word, phrase = words[place], starts.get(place)
        if _negator_at(words, place)[1] != "none" or (phrase is not None and closed):
            return
        if phrase is not None:
            yield phrase
            place = phrase.end
            closed = kind == "not" or not phrase.adjective
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
