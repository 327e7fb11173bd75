"""References made comparable with a pool's clips: of the generator's rate, channels and length."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from src.data.audio import AudioError, Clip, read_audio, resample, to_mono, write_wav
from src.data.prompts import Prompt
from src.decoding.renderer import Renderer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reference:
    """A prompt's reference, cut to what is compared.

    whole: its beginning, as long as a generated clip; `prompt` has this as its reference audio.
    other: what comes after its first part, as long as this; `halved` has the first part as its
    reference audio.
    """

    prompt: Prompt
    halved: Prompt
    whole: Clip
    other: Clip


def load_references(
    prompts: Sequence[Prompt], seconds: float, renderer: Renderer, folder: Path
) -> Iterator[Reference]:
    """Of the prompts that have one that can be read, cut to `seconds`.

    What judges compare with is written to `folder`. A part is `seconds` long too, or half of a
    reference that is shorter than both.
    """
    for prompt in prompts:
        if prompt.reference is None or not prompt.is_referenced:
            continue
        try:
            clip = as_generated(read_audio(prompt.reference), renderer)
        except AudioError as error:
            log.warning("the reference of %s is left out: %s", prompt.id, error)
            continue
        part = min(seconds, clip.seconds / 2)
        whole, first, other = cut(clip, 0, seconds), cut(clip, 0, part), cut(clip, part, 2 * part)
        beginning, before = (folder / name / f"{prompt.id}.wav" for name in ("whole", "first"))
        write_wav(beginning, whole)
        write_wav(before, first)
        own, halved = replace(prompt, reference=beginning), replace(prompt, reference=before)
        yield Reference(own, halved, whole, other)


def as_generated(clip: Clip, renderer: Renderer) -> Clip:
    """A clip of the codec's rate and channels."""
    if clip.channels != renderer.channels:
        mono = to_mono(clip)
        clip = Clip(np.repeat(mono.samples, renderer.channels, axis=0), mono.rate)
    return resample(clip, renderer.sample_rate)


def cut(clip: Clip, start: float, end: float) -> Clip:
    """What is between two seconds of a clip."""
    first, last = round(start * clip.rate), round(end * clip.rate)
    return Clip(np.ascontiguousarray(clip.samples[:, first:last]), clip.rate)
