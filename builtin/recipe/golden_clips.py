"""Render the few short clips on which the taggers are compared with the original.

    envs/training/.venv/bin/python builtin/recipe/golden_clips.py

Public-domain pieces from music21's corpus, played by FluidSynth with FluidR3_GM (Debian packages
fluidsynth and fluid-soundfont-gm), 16 kHz mono FLAC. The lengths leave all kinds of tails after
whole windows of 3 s. convert_musicnn.py --golden then has the original network hear them.
"""

from pathlib import Path

import fluidsynth
import numpy as np
import soundfile
from music21 import chord, corpus, stream
from music21.note import Note

SOUNDFONT = "/usr/share/sounds/sf2/FluidR3_GM.sf2"
OUTPUT = Path(__file__).resolve().parents[2] / "tests" / "generator" / "data" / "tagger"
RATE = 16000
DRUM_PATTERN = [(0.0, 36), (0.5, 42), (1.0, 38), (1.5, 42)]  # quarters, General MIDI percussion

# name: piece, General MIDI program, quarters a minute, drums, seconds, gain
CLIPS = {
    "choir": ("bach/bwv66.6", 52, 76, False, 7.5, 0.9),
    "piano": ("bach/bwv846", 0, 88, False, 10.0, 0.9),
    "guitar": ("bach/bwv269", 24, 132, True, 5.0, 1.2),
    "flute": ("ryansMammoth/7thRegimentReel", 73, 160, False, 3.2, 0.6),
    "synth": ("bach/bwv253", 81, 140, True, 9.1, 1.5),
    "violin": ("ryansMammoth/AcaciaReel", 40, 120, False, 2.4, 0.8),
}


def note_events(score: stream.Score, quarter: float) -> list[tuple[float, float, int]]:
    """(start s, end s, MIDI pitch) of every note."""
    events = []
    for element in score.flatten().notes:
        pitches = element.pitches if isinstance(element, chord.Chord) else [element.pitch]
        if isinstance(element, (Note, chord.Chord)):
            start = float(element.offset) * quarter
            length = max(float(element.quarterLength), 0.1) * quarter
            events += [(start, start + length, pitch.midi) for pitch in pitches]
    return events


def render(piece: str, program: int, tempo: int, drums: bool, seconds: float) -> np.ndarray:
    """float32 [T] in -1..1."""
    synth = fluidsynth.Synth(gain=0.5, samplerate=float(RATE))
    font = synth.sfload(SOUNDFONT)
    synth.program_select(0, font, 0, program)
    synth.program_select(9, font, 128, 0)
    quarter = 60 / tempo
    changes = []
    for start, end, pitch in note_events(corpus.parse(piece), quarter):
        changes += [(start, 1, 0, pitch), (end * 0.999, 0, 0, pitch)]
    if drums:
        for bar in range(int(seconds / quarter / 2) + 1):
            for beat, pitch in DRUM_PATTERN:
                changes.append(((bar * 2 + beat) * quarter, 1, 9, pitch))
    parts, now = [], 0
    for time, on, channel, pitch in sorted(changes):
        if time >= seconds:
            break
        parts.append(synth.get_samples(round(time * RATE) - now))
        now = round(time * RATE)
        if on:
            synth.noteon(channel, pitch, 90)
        else:
            synth.noteoff(channel, pitch)
    parts.append(synth.get_samples(round(seconds * RATE) - now))
    synth.delete()
    stereo = np.concatenate(parts).reshape(-1, 2).astype(np.float32) / 32768
    return stereo.mean(1)


def main() -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for name, (piece, program, tempo, drums, seconds, gain) in CLIPS.items():
        samples = np.clip(gain * render(piece, program, tempo, drums, seconds), -1, 1)
        soundfile.write(OUTPUT / f"{name}.flac", samples, RATE, subtype="PCM_16")


if __name__ == "__main__":
    main()
