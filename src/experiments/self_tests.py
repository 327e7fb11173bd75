"""What doctor tries on each model that is there. The clip and its prompt are the built-in stack's.

Each test returns what it found in a few words, and raises Problem, or whatever the model raises.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src.client import ServerClient
from src.data.audio import Clip, read_audio
from src.data.prompts import Prompt, Selection, load_prompts
from src.generator import load_renderer
from src.judges.base import ClipJudge, ReferenceJudge, SetJudge
from src.judges.registry import JUDGES
from src.protocol import Score

PROMPT = "builtin-26"  # "This is an instrumental medium-tempo piece featuring a grand piano .."
SECONDS = 1.0  # that the generator decodes
EXACT_FRAMES = 5  # later on rounding may flip a token, and with it all that follow
TOLERANCE = 1e-3  # between a clip's score in a batch and alone: a GPU rounds by a batch's shape


class Problem(Exception):
    """What is wrong, as a sentence."""


def clips() -> tuple[Prompt, Clip, Clip, Clip]:
    """A prompt, its reference of 10 s, white noise as loud as that, and digital silence."""
    prompts = load_prompts("builtin", Selection(limit=None), Path())
    prompt = next(p for p in prompts if p.id == PROMPT)
    assert prompt.reference is not None
    music = read_audio(prompt.reference)
    level = math.sqrt(float(np.square(music.samples).mean()))
    noise = np.random.default_rng(0).normal(0, level, music.samples.shape).astype(np.float32)
    return prompt, music, Clip(noise, music.rate), Clip(np.zeros_like(noise), music.rate)


def try_generator(model: str) -> str:
    """Decodes with finite log-probabilities, beside another prompt as alone, and is heard."""
    from src.generator import load_generator

    generator = load_generator(model)
    prompt, frames = clips()[0].text, round(SECONDS * generator.frame_rate)
    alone = generator.begin([prompt], ["a"], 1, frames, seed=1)
    beside = generator.begin([prompt, "Fast drums."], ["a", "b"], 1, frames, seed=1)
    for decoding in (alone, beside):
        decoding.advance(frames)
    log_prob = float(alone.mean_log_prob()[0])
    if not math.isfinite(log_prob):
        raise Problem(f"the log-probability is {log_prob}")
    same = (beside.tokens()[0] == alone.tokens()[0]).all(dim=0).tolist()
    equal = [*same, False].index(False)
    if equal < EXACT_FRAMES:
        raise Problem(f"beside another prompt, frame {equal} has other tokens than alone")
    audio = generator.render(alone.tokens())[0].samples
    if not np.isfinite(audio).all() or not audio.any():
        raise Problem("its audio is silent, or not finite")
    return (
        f"{generator.device}, {generator.dtype}: log-probability {log_prob:.2f} nats; beside "
        f"another prompt {equal} of {frames} frames are as alone"
    )


def try_verifier(name: str, client: ServerClient) -> str:
    """Scores music above noise and silence, which it may refuse, and a batch as its clips alone."""
    prompt, *heard = clips()
    together = _scores(name, client, prompt, heard[:2])
    alone = [score for clip in heard for score in _scores(name, client, prompt, [clip])]
    shown = ["refused" if math.isnan(score) else f"{score:.3g}" for score in alone]
    text = "music {}, noise {}, silence {}".format(*shown)
    if math.isnan(alone[0]) or any(score >= alone[0] for score in alone[1:]):
        raise Problem(f"music is not above noise and silence: {text}")
    if not np.allclose(together, alone[:2], rtol=TOLERANCE, atol=0, equal_nan=True):
        raise Problem(f"a batch has other scores than its clips alone: {together}, {alone[:2]}")
    return f"{text}; a batch as its clips alone"


def _scores(name: str, client: ServerClient, prompt: Prompt, heard: Sequence[Clip]) -> list[float]:
    """Not a number for a clip without a score."""
    weights = client.checkpoints([name])  # waits until it is loaded
    scores = client.score(weights, [prompt.text] * len(heard), heard)[name].scores
    return [score.value if isinstance(score, Score) else math.nan for score in scores]


def try_judge(name: str) -> str:
    """A clip is nearer to its reference, or to its prompt, than noise is."""
    kind = JUDGES[name]
    through = issubclass(kind, ReferenceJudge) and kind.through_codec
    judge = kind("cpu", load_renderer("builtin", "cpu") if through else None)
    prompt, *heard = clips()
    if isinstance(judge, SetJudge):
        centre = judge.hear_reference(prompt).mean(0)
        music, noise = (
            float(np.linalg.norm(judge.hear(c, prompt).mean(0) - centre)) for c in heard[:2]
        )
    else:
        assert isinstance(judge, ClipJudge)
        music, noise = (judge.judge(clip, prompt) for clip in heard[:2])
    text = f"music {music:.3g}, noise {noise:.3g}"
    higher = judge.higher_is_better and isinstance(judge, ClipJudge)
    if not (music > noise if higher else music < noise):
        raise Problem(f"music is not better than noise: {text}")
    return text
