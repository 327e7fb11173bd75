"""Step 2 of the recipe: notes -> arranged, captioned and rendered clips of 10 s.

    envs/training/.venv/bin/python -m builtin.recipe.corpus --work build/recipe

Renders with FluidSynth and the free FluidR3 soundfont (Debian packages libfluidsynth3 and
fluid-soundfont-gm). What is rendered is made to be predictable, which is what lets a small language
model learn it: every onset falls on the codec's frame grid (20 ms), effects are off, velocities are
few and levels fixed. Variety comes from tunes, keys, instruments, textures and tempi.

Writes `audio.npy` (int16 [clips, 160000]), `clips.jsonl` (split, attributes, caption, piece). Whole
pieces are held out by a hash of their name; the combinations of `HELD_OUT` are never trained on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass

import fluidsynth
import numpy as np
import soxr
from tqdm import tqdm

from builtin.recipe.arguments import recipe_parser
from builtin.recipe.captions import Attributes, caption

log = logging.getLogger("corpus")

RATE, SECONDS, HOP = 16_000, 10, 320
FRAMES = RATE * SECONDS // HOP
RENDER_RATE = 2 * RATE  # rendered at twice the rate and band-limited: FluidSynth itself aliases
SOUNDFONT = "/usr/share/sounds/sf2/FluidR3_GM.sf2"


@dataclass(frozen=True)
class Instrument:
    """General MIDI program (0-based), range of a lead line, channel volume, plays chords."""

    program: int
    low: int
    high: int
    volume: int
    chords: bool


INSTRUMENTS = {
    "piano": Instrument(0, 55, 84, 127, True),
    "harpsichord": Instrument(6, 53, 81, 90, True),
    "guitar": Instrument(24, 52, 77, 95, True),
    "violin": Instrument(40, 57, 88, 110, False),
    "cello": Instrument(42, 40, 65, 118, False),
    "strings": Instrument(48, 55, 82, 115, True),
    "harp": Instrument(46, 55, 86, 95, True),
    "flute": Instrument(73, 62, 91, 85, False),
    "choir": Instrument(52, 52, 77, 110, True),
    "synth": Instrument(81, 52, 80, 95, True),
    "sitar": Instrument(104, 50, 74, 105, False),
}
ACCOMPANISTS = ("piano", "guitar", "harp", "strings", "harpsichord", "choir")
BEAT_FRAMES = {"slow": (46, 50, 56), "moderate": (30, 32, 36), "fast": (20, 22, 24)}
COMPOUND = {"6/8", "9/8", "3/8", "6/4"}
# (lead, tempo) and (lead, with drums) that training never sees: the test asks for them.
HELD_OUT = {
    ("flute", "slow"),
    ("cello", "fast"),
    ("harp", "moderate"),
    ("violin", True),
    ("piano", True),
}
TRIADS = {
    "major": {0: (0, 4, 7), 2: (2, 5, 9), 5: (5, 9, 0), 7: (7, 11, 2), 9: (9, 0, 4)},
    "minor": {
        0: (0, 3, 7),
        5: (5, 8, 0),
        7: (7, 11, 2),
        8: (8, 0, 3),
        10: (10, 2, 5),
        3: (3, 7, 10),
    },
}
KICK, SNARE, HAT = 36, 38, 42


@dataclass
class Event:
    """One note: frames of its on and off, channel, MIDI pitch, velocity."""

    on: int
    off: int
    channel: int
    pitch: int
    velocity: int


def split_of(piece_id: str) -> str:
    """train, valid or test, by the piece's name alone."""
    bucket = int(hashlib.sha256(piece_id.encode()).hexdigest(), 16) % 100
    return "test" if bucket < 6 else "valid" if bucket < 10 else "train"


def held_out(a: Attributes) -> bool:
    """Whether training must not see this combination."""
    return (a.lead, a.tempo) in HELD_OUT or (a.lead, a.drums) in HELD_OUT


def harmony(
    melody: list[tuple[float, float, int]], start: float, length: float, tonic: int, mode: str
) -> int:
    """Root (pitch class above the tonic) of the triad that covers most of a span of melody."""
    weights = np.zeros(12)
    for onset, duration, pitch in melody:
        overlap = min(onset + duration, start + length) - max(onset, start)
        if overlap > 0:
            weights[(pitch - tonic) % 12] += overlap * (1.3 if abs(onset - start) < 1e-6 else 1)
    bonus = {0: 0.25, 7: 0.15, 5: 0.1}
    return max(
        TRIADS[mode],
        key=lambda root: sum(weights[p] for p in TRIADS[mode][root]) + bonus.get(root, 0) * length,
    )


def arrange(piece: dict, rng: random.Random) -> tuple[Attributes, list[Event]] | None:
    """One clip's events from a piece, or None when this draw does not work out."""
    tempo = rng.choice(("slow", "moderate", "fast"))
    frames_per_quarter = rng.choice(BEAT_FRAMES[tempo]) * (
        2 / 3 if piece["meter"] in COMPOUND else 1
    )
    quarters = FRAMES / frames_per_quarter
    bars = [b for b in piece["bars"] if b + quarters * 0.8 < piece["bars"][-1]]
    if not bars:
        return None
    start = rng.choice(bars[: max(1, len(bars))])
    lead = rng.choice(list(INSTRUMENTS))
    chorale = len(piece["parts"]) == 4
    can_chord = INSTRUMENTS[lead].chords
    draw = rng.random()
    if chorale:
        texture = "voices" if can_chord else "duet"
    elif draw < 0.4:
        texture = "line"
    elif draw < 0.7 and can_chord:
        texture = "chords"
    else:
        texture = "duet"
    accompaniment = {"line": None, "chords": lead, "voices": lead}.get(texture)
    if texture == "duet":
        accompaniment = rng.choice([name for name in ACCOMPANISTS if name != lead])
    drums = not chorale and rng.random() < 0.25
    attributes = Attributes(
        lead, accompaniment, texture, tempo, piece["mode"], piece["style"], drums
    )

    melody = [
        n for n in piece["parts"][0] if n[0] + n[1] > start + 1e-6 and n[0] < start + quarters
    ]
    if len(melody) < 6 or melody[0][0] > start + 1.01 or melody[-1][0] < start + quarters * 0.7:
        return None
    instrument = INSTRUMENTS[lead]
    centre = (instrument.low + instrument.high) / 2
    mean = float(np.mean([p for _, _, p in melody]))
    shift = round((centre - mean) / 12) * 12 + rng.randint(-3, 3)
    lowest, highest = min(p for *_, p in melody) + shift, max(p for *_, p in melody) + shift
    if lowest < instrument.low - 4 or highest > instrument.high + 4:
        return None

    def frame(quarter: float) -> int:
        return round((quarter - start) * frames_per_quarter)

    events: list[Event] = []

    def play(onset: float, duration: float, channel: int, pitch: int, velocity: int) -> None:
        on, off = max(0, frame(onset)), frame(onset + duration)
        if on < FRAMES and off > on:
            events.append(Event(on, max(on + 1, off - 1), channel, pitch, velocity))

    for onset, duration, pitch in melody:
        play(onset, duration, 0, pitch + shift, 100)
    if chorale:
        channel = 0 if texture == "voices" else 1
        near = (
            shift if channel == 0 else (shift + 6) % 12 - 6
        )  # same key, in the voices' own register
        for part in piece["parts"][1:]:
            for onset, duration, pitch in part:
                if onset + duration > start and onset < start + quarters:
                    play(onset, duration, channel, pitch + near, 80)
    elif accompaniment:
        add_chords(piece, start, quarters, shift, 0 if texture == "chords" else 1, rng, play)
    if drums:
        add_drums(piece["meter"], start, quarters, play)
    return attributes, events


def add_chords(
    piece: dict, start: float, quarters: float, shift: int, channel: int, rng: random.Random, play
) -> None:
    """Bass and triad under the melody, one harmony per half bar (per bar in triple time)."""
    top, bottom = (int(x) for x in piece["meter"].split("/"))
    bar = 4 * top / bottom
    span = bar if top in (3, 9) or bar <= 2 else bar / 2
    pattern = rng.choice(("block", "bass-chord", "broken"))
    tonic = piece["tonic"]
    position = start
    while position < start + quarters:
        root = harmony(piece["parts"][0], position, span, tonic, piece["mode"])
        pitches = [tonic + shift + p for p in TRIADS[piece["mode"]][root]]
        bass = 40 + (pitches[0] - 40) % 12
        chord = sorted(52 + (p - 52) % 12 for p in pitches)
        if pattern == "block":
            for pitch in (bass, *chord):
                play(position, span, channel, pitch, 70)
        elif pattern == "bass-chord":
            play(position, span / 2, channel, bass, 75)
            for pitch in chord:
                play(position + span / 2, span / 2, channel, pitch, 65)
        else:
            play(position, span, channel, bass, 75)
            for index, pitch in enumerate((chord[0], chord[1], chord[2], chord[1])):
                play(position + index * span / 4, span / 4, channel, pitch, 65)
        position += span


def add_drums(time_signature: str, start: float, quarters: float, play) -> None:
    """Kick on strong beats, snare on weak ones, a hi-hat on every division."""
    compound = time_signature in COMPOUND
    beat = 1.5 if compound else 1.0
    triple = time_signature in {"3/4", "3/2", "9/8"}
    hat_step = 0.5
    position, index = start, 0
    while position < start + quarters:
        strong = index % 3 == 0 if triple else index % 2 == 0
        play(position, 0.2, 9, KICK if strong else SNARE, 95)
        for hat in range(round(beat / hat_step)):
            play(position + hat * hat_step, 0.2, 9, HAT, 70)
        position += beat
        index += 1


class Renderer:
    """FluidSynth without effects, at a fixed gain; deterministic from one clip to the next."""

    def __init__(self) -> None:
        self.synth = fluidsynth.Synth(gain=0.8, samplerate=RENDER_RATE)
        for name in ("synth.reverb.active", "synth.chorus.active"):
            self.synth.setting(name, 0)
        self.soundfont = self.synth.sfload(SOUNDFONT)

    def __call__(self, attributes: Attributes, events: list[Event]) -> np.ndarray:
        """The clip as int16 [160000]."""
        synth = self.synth
        synth.system_reset()
        for channel, name in ((0, attributes.lead), (1, attributes.accompaniment)):
            if name:
                synth.program_select(channel, self.soundfont, 0, INSTRUMENTS[name].program)
                synth.cc(channel, 7, INSTRUMENTS[name].volume)
        synth.program_select(9, self.soundfont, 128, 0)
        synth.cc(9, 7, 85)
        timeline: list[tuple[int, int, Event]] = []
        for event in events:
            timeline += [(event.on, 1, event), (min(event.off, FRAMES), 0, event)]
        timeline.sort(key=lambda item: (item[0], item[1], item[2].channel, item[2].pitch))
        pieces, now = [], 0
        for at, kind, event in timeline:
            if at > now:
                pieces.append(synth.get_samples((at - now) * HOP * 2))
                now = at
            if kind:
                synth.noteon(event.channel, event.pitch, event.velocity)
            else:
                synth.noteoff(event.channel, event.pitch)
        if now < FRAMES:
            pieces.append(synth.get_samples((FRAMES - now) * HOP * 2))
        stereo = np.concatenate(pieces).reshape(-1, 2).astype(np.float32)
        mono = soxr.resample(stereo.mean(1), RENDER_RATE, RATE)[: RATE * SECONDS]
        return np.clip(np.round(mono), -32768, 32767).astype(np.int16)


def described(piece: dict, attributes: Attributes, text: str) -> dict:
    """A clip's row in clips.jsonl. text: its caption."""
    return {
        "split": split_of(piece["id"]),
        "caption": text,
        "piece": piece["id"],
        "held_out_combination": held_out(attributes),
        **asdict(attributes),
    }


def make(job: tuple[str, int, int, list[dict], int]) -> tuple[int, np.ndarray, list[dict]]:
    """Render `count` clips of one split; clip i depends only on the seed and i."""
    split, first, count, pieces, seed = job
    renderer = Renderer()
    audio, rows = np.zeros((count, RATE * SECONDS), np.int16), []
    for index in range(count):
        rng = random.Random(f"{seed}/{split}/{first + index}")
        while True:
            # chorales carry the four-part writing: a tenth of the pieces, a quarter of the clips
            source = "bach" if rng.random() < 0.25 else "tune"
            piece = rng.choice([p for p in pieces if (p["source"] == "bach") == (source == "bach")])
            arranged = arrange(piece, rng)
            if arranged is None or (split == "train" and held_out(arranged[0])):
                continue
            attributes, events = arranged
            audio[index] = renderer(attributes, events)
            break
        rows.append(described(piece, attributes, caption(attributes, rng)))
    return first, audio, rows


def main() -> None:
    """Render the corpus, block by block; blocks that are there already are kept."""
    parser = recipe_parser(__doc__)
    parser.add_argument("--train", type=int, default=9000, help="training clips of 10 s")
    parser.add_argument("--valid", type=int, default=300)
    parser.add_argument(
        "--test", type=int, default=600, help="held-out clips to choose the prompts from"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    pieces: dict[str, list[dict]] = {"train": [], "valid": [], "test": []}
    for line in (options.work / "pieces.jsonl").open():
        piece = json.loads(line)
        pieces[split_of(piece["id"])].append(piece)
    log.info("pieces: %s", {name: len(group) for name, group in pieces.items()})
    block, jobs, offset = 100, [], 0
    for split in ("train", "valid", "test"):
        total = getattr(options, split)
        for first in range(0, total, block):
            jobs.append(
                (
                    offset + first,
                    (split, first, min(block, total - first), pieces[split], options.seed),
                )
            )
        offset += total
    folder = options.work / "blocks"
    folder.mkdir(exist_ok=True)
    todo = [(at, job) for at, job in jobs if not (folder / f"{at}.json").exists()]
    with ProcessPoolExecutor(options.workers) as pool:
        results = pool.map(make, [job for _, job in todo])
        for (at, _), (_, audio, rows) in zip(
            todo, tqdm(results, total=len(todo), unit="block"), strict=True
        ):
            np.save(folder / f"{at}.npy", audio)
            (folder / f"{at}.json").write_text(json.dumps(rows))
    whole = np.lib.format.open_memmap(
        options.work / "audio.npy", "w+", np.int16, (offset, RATE * SECONDS)
    )
    with (options.work / "clips.jsonl").open("w") as out:
        for at, _ in jobs:
            audio = np.load(folder / f"{at}.npy")
            whole[at : at + len(audio)] = audio
            for row in json.loads((folder / f"{at}.json").read_text()):
                out.write(json.dumps(row) + "\n")
    log.info("%d clips in %s", offset, options.work / "audio.npy")


if __name__ == "__main__":
    main()
