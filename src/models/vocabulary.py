"""Which of a tagger's tags a prompt names, and which it negates.

    named_tags("A slow classical guitar piece, no drums.", "tags")
    # Named(wanted=("slow", "guitar"), unwanted=("drums",))

The longest phrase of the table wins at each place ("classical guitar" is a guitar, not classical
music); src/models/negation.py finds what is negated. No model is involved: what a prompt names
can be read off the table below.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from src.models.negation import Span, negated

# Probabilities of tags are kept this far from 0 and 1 before their logarithms are taken: log-odds
# are within +-13.8, and no tag weighs over ln 1e6 in a divergence.
EPSILON = 1e-6

_MAGNATAGATUNE = """guitar, classical, slow, techno, strings, drums, electronic, rock, fast, piano,
ambient, beat, violin, vocal, synth, female, indian, opera, male, singing, vocals, no vocals,
harpsichord, loud, quiet, flute, woman, male vocal, no vocal, pop, soft, sitar, solo, man, classic,
choir, voice, new age, dance, male voice, female vocal, beats, harp, cello, no voice, weird,
country, metal, female voice, choral"""
_MILLION_SONGS = """rock, pop, alternative, indie, electronic, female vocalists, dance, 00s,
alternative rock, jazz, beautiful, metal, chillout, male vocalists, classic rock, soul, indie rock,
Mellow, electronica, 80s, folk, 90s, chill, instrumental, punk, oldies, blues, hard rock, ambient,
acoustic, experimental, female vocalist, guitar, Hip-Hop, 70s, party, country, easy listening, sexy,
catchy, funk, electro, heavy metal, Progressive rock, 60s, rnb, indie pop, sad, House, happy"""

# The tags of each tagger, by its verifier's name, in the order of the network's outputs.
TAGS: dict[str, tuple[str, ...]] = {
    name: tuple(tags.replace("\n", " ").split(", "))
    for name, tags in {
        "tags": _MAGNATAGATUNE,
        "tags_vgg": _MAGNATAGATUNE,
        "tags_msd": _MILLION_SONGS,
        "tags_msd_vgg": _MILLION_SONGS,
    }.items()
}

# tag: phrases that name it, beside its own name. "(s)" allows a plural; hyphens count as spaces. A
# phrase may stand under several tags; one that is itself a tag of the tagger names that tag alone.
SYNONYMS: dict[str, str] = {
    # instruments
    "guitar": """guitars, guitarist(s), acoustic guitar(s), classical guitar(s), electric guitar(s),
        nylon string guitar(s), nylon string(s), steel string guitar(s), steel string(s), strummed,
        guitar string(s), strumming, fingerpicked, fingerpicking, ukulele(s), harp guitar(s)""",
    "piano": """pianos, pianist(s), grand piano(s), acoustic piano(s), electric piano(s),
        fortepiano, pianoforte""",
    "harpsichord": "harpsichords, harpsichordist(s), cembalo, clavecin",
    "violin": "violins, violinist(s), fiddle(s), fiddler(s)",
    "cello": "cellos, celli, cellist(s), violoncello(s)",
    "strings": """string ensemble(s), string section(s), string orchestra(s), string quartet(s),
        string trio(s), string instrument(s), orchestra of strings, orchestral strings, viola(s)""",
    "harp": "harps, harpist(s), plucked harp(s), concert harp(s)",
    "flute": "flutes, flutist(s), flautist(s), piccolo(s), bansuri",
    "sitar": "sitars, sitarist(s)",
    "synth": """synths, synthesizer(s), synthesiser(s), synthesized, synthesised,
        electronic synth(s)""",
    "drums": """drum, drum kit(s), drum set(s), drum beat(s), drum machine(s), drummer(s), drumming,
        percussion, percussionist(s), snare(s), hi hat(s), hihat(s), cymbal(s), bongo(s), conga(s),
        tabla(s), djembe(s)""",
    "beat": "backbeat",
    # voices
    "choir": "choirs, chorus, chorus of voices, choir of voices, vocal choir(s), vocal ensemble(s)",
    "choral": "gregorian chant(s), choral singing",
    "vocals": "vocalist(s), singer(s)",
    "singing": "sing, sings, sung, sang",
    "voice": "voices",
    "female vocal": """female vocals, female vocalist(s), female singer(s), female singing,
        woman singing, woman sings""",
    "female vocalists": """female vocal(s), female singer(s), female voice(s), female singing,
        woman singing, woman sings""",
    "female voice": "female voices, woman s voice",
    "woman": "women",
    "male vocal": """male vocals, male vocalist(s), male singer(s), male singing, man singing,
        man sings""",
    "male vocalists": """male vocal(s), male vocalist, male singer(s), male voice(s), male singing,
        man singing, man sings""",
    "male voice": "male voices, man s voice",
    "man": "men",
    "no vocals": "instrumental, instrumentals, no singing, without vocals, without singing",
    "instrumental": "instrumentals, no vocals, no singing, without vocals, without singing",
    "solo": "solos, soloist(s), unaccompanied",
    # tempo and loudness
    "slow": """slowly, slower, adagio, lento, largo, larghetto, unhurried, leisurely, languid,
        down tempo, downtempo, low tempo""",
    "fast": """faster, quick, quickly, lively, rapid, rapidly, speedy, brisk, briskly, up tempo,
        uptempo, high tempo, presto, prestissimo, allegro, vivace""",
    "loud": "loudly, louder, fortissimo",
    "quiet": "quietly, quieter, hushed, pianissimo",
    "soft": "softly, softer, gentle, gently, mellow",
    # styles
    "classical": """baroque, orchestra(s), orchestral, symphony, symphonic, chamber music,
        sonata(s), concerto(s)""",
    "opera": "operas, operatic, aria(s)",
    "electronic": "electronica, electro, edm",
    "dance": "danceable, edm",
    "rock": """rock and roll, rock n roll, hard rock, classic rock, punk rock, alternative rock,
        indie rock, progressive rock""",
    "metal": "heavy metal, death metal, black metal, thrash metal",
    "pop": "indie pop",
    "indian": "hindustani, carnatic, bollywood, raga(s)",
    "new age": "newage",
    "weird": "strange, bizarre",
    # of the Million Song Dataset alone
    "Hip-Hop": "hiphop, rap, rapper(s), rapping",
    "rnb": "r and b, r n b, rhythm and blues",
    "House": "house music, deep house",
    "Progressive rock": "prog rock",
    "jazz": "jazzy",
    "blues": "bluesy",
    "funk": "funky",
    "soul": "soulful",
    "punk": "punk rock",
    "acoustic": "acoustic guitar(s), acoustic piano(s)",
    "sad": "sadness, sorrowful, mournful",
    "happy": "happiness, joyful, cheerful",
    "00s": "2000s",
    "90s": "1990s",
    "80s": "1980s",
    "70s": "1970s",
    "60s": "1960s",
}

# Phrases with a tag's word in them that do not name the tag: they hide it.
NOT_TAGS = """bass guitar(s), jaw harp(s), mouth harp(s), blues harp(s), chorus effect(s),
the chorus, verse and chorus, soap opera(s), voice over(s), scottish dance(s), folk dance(s),
irish dance(s), square dance(s), country dance(s), court dance(s), traditional dance(s),
sword dance(s), ambient noise(s), ambient sound(s), ambient room, metal bar(s), metal plate(s),
metal object(s), native indian, american indian, the house, the instrumental, singing bowl(s),
tongue drum(s)"""

# Negations of the voice that are tags themselves.
OPPOSITES = {
    "vocals": "no vocals",
    "singing": "no vocals",
    "vocal": "no vocal",
    "voice": "no voice",
}

# Tags that describe a noun: "no loud drums" negates both words.
_ADJECTIVES = """slow, fast, loud, quiet, soft, weird, electronic, ambient, classical, indian, male,
female, solo, acoustic, Mellow, sad, happy, beautiful, experimental"""


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


def _expand(phrases: str) -> Iterator[tuple[str, ...]]:
    """Comma-separated phrases, as words; "harp(s)" is harp and harps."""
    for phrase in phrases.split(","):
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
    adjectives = _ADJECTIVES.replace("\n", " ").split(", ")
    longest = max(map(len, lexicon))
    start = 0
    while start < len(words):
        ends = range(min(start + longest, len(words)), start, -1)
        end = next((end for end in ends if tuple(words[start:end]) in lexicon), None)
        if end is not None:
            tags = lexicon[tuple(words[start:end])]
            yield Phrase(start, end, any(tag in adjectives for tag in tags), tags)
        start = end or start + 1
