"""The wording of the built-in corpus: attributes of a clip -> a caption in varied natural English.

Captions name instrument, accompaniment, tempo, mode, style and drums in MusicCaps' manner; each
attribute but the lead instrument is left out now and then, so that a model learns to fill in.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

INSTRUMENT_WORDS: dict[str, tuple[str, ...]] = {
    "piano": ("piano", "grand piano", "acoustic piano"),
    "harpsichord": ("harpsichord", "baroque harpsichord"),
    "guitar": ("acoustic guitar", "classical guitar", "nylon-string guitar", "guitar"),
    "violin": ("violin", "solo violin", "bowed violin"),
    "cello": ("cello", "solo cello", "bowed cello"),
    "strings": ("string ensemble", "string section", "orchestra of strings"),
    "harp": ("harp", "concert harp"),
    "flute": ("flute", "concert flute", "wooden flute"),
    "choir": ("choir", "choir of voices", "vocal choir"),
    "synth": ("synth", "synthesizer", "electronic synth"),
    "sitar": ("sitar", "Indian sitar"),
}
TEMPO_WORDS = {
    "slow": ("slow", "slow and calm", "unhurried, slow", "gentle, slow"),
    "moderate": ("mid-tempo", "medium-tempo", "moderately paced"),
    "fast": ("fast", "quick", "lively, fast", "up-tempo"),
}
TEMPO_PHRASES = {
    "slow": ("at a slow tempo", "slowly"),
    "moderate": ("at a medium tempo", "at a moderate pace"),
    "fast": ("at a fast tempo", "quickly"),
}
MODE_PHRASES = {
    "major": ("in a major key", "in a bright major key", "in a happy major mode"),
    "minor": ("in a minor key", "in a dark minor key", "in a sad minor mode"),
}
STYLE_WORDS = {
    "chorale": ("chorale", "hymn", "baroque chorale"),
    "folk tune": ("folk tune", "traditional folk melody"),
    "reel": ("reel", "folk reel"),
    "jig": ("jig", "folk jig"),
    "hornpipe": ("hornpipe", "folk hornpipe"),
    "strathspey": ("strathspey", "Scottish dance"),
    "waltz": ("waltz", "folk waltz"),
    "march": ("march", "traditional march"),
    "polka": ("polka", "folk polka"),
    "air": ("air", "folk air"),
}
DRUMS = ("with drums", "over a drum beat", "with a steady drum kit", "backed by drums")
NO_DRUMS = ("no drums", "without drums", "there are no drums")


@dataclass(frozen=True)
class Attributes:
    """What a clip is, as its caption may tell it."""

    lead: str
    accompaniment: str | None
    texture: str
    tempo: str
    mode: str
    style: str
    drums: bool


def article(phrase: str) -> str:
    """The phrase with its indefinite article."""
    return ("an " if phrase[0].lower() in "aeiou" else "a ") + phrase


def sentence(text: str) -> str:
    """The text with a capital and a full stop, and without the gaps that left-out parts leave."""
    text = re.sub(r"(\s*,)+\s*", ", ", " ".join(text.split())).strip(" ,")
    return text[0].upper() + text[1:] + "."


def caption(a: Attributes, rng: random.Random) -> str:
    """A caption of the attributes; the same `rng` state gives the same words."""
    lead = rng.choice(INSTRUMENT_WORDS[a.lead])
    bare = lead.removeprefix("solo ")
    tempo = rng.choice(TEMPO_WORDS[a.tempo]) if rng.random() < 0.85 else ""
    mode = rng.choice(MODE_PHRASES[a.mode]) if rng.random() < 0.7 else ""
    style = rng.choice(STYLE_WORDS[a.style]) if rng.random() < 0.75 else "piece"
    drums = ""
    if a.drums and rng.random() < 0.95:
        drums = rng.choice(DRUMS)
    elif not a.drums and rng.random() < 0.3:
        drums = rng.choice(NO_DRUMS)
    backing = ""
    if a.accompaniment and a.accompaniment != a.lead:
        other = rng.choice(INSTRUMENT_WORDS[a.accompaniment]).removeprefix("solo ")
        backing = rng.choice(
            (f"accompanied by {other}", f"with {other} accompaniment", f"over {other} chords")
        )
    elif a.texture == "chords" and rng.random() < 0.7:
        backing = rng.choice(("with chords", "with bass and chords", "melody and chords"))
    elif a.texture == "voices" and rng.random() < 0.6:
        backing = rng.choice(("in four parts", "in four-part harmony"))
    elif a.texture == "line" and rng.random() < 0.5:
        backing = rng.choice(("a single melody line", "unaccompanied", "melody only"))
    form = rng.randrange(5)
    if form == 0:
        named = article(f"{tempo} {style}".strip())
        return sentence(f"{named} played on {bare} {backing}, {drums}, {mode}")
    if form == 1:
        second = " ".join(sentence(s) for s in (backing, drums, mode and f"it is {mode}") if s)
        pace = f" {rng.choice(TEMPO_PHRASES[a.tempo])}" if tempo else ""
        return f"{sentence(f'{article(bare)} plays {article(style)}{pace}')} {second}".strip()
    if form == 2:
        rest = [
            tempo,
            mode.removeprefix("in a "),
            style if style != "piece" else "",
            backing,
            drums,
        ]
        rest = [part for part in rest if part]
        rng.shuffle(rest)
        return ", ".join([lead, *rest])
    if form == 3:
        first = f"This is an instrumental {tempo} {style} featuring {article(bare)}"
        return sentence(f"{first} {backing} {mode}, {drums}")
    kind = style if style != "piece" else ""
    return sentence(f"{tempo} {bare} music, {kind}, {backing}, {drums}, {mode}")
