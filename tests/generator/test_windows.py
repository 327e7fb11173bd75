"""Clips beyond the model's window: against audiocraft's own, and against unpaused runs."""

from types import SimpleNamespace

import pytest
import torch

from src.budget import Span
from src.decoding.decoder import Decoder, Sampling
from src.decoding.windows import Windows
from src.generator import audiocraft_without_clap
from tests.generator.random_models import condition, random_lm

with audiocraft_without_clap():
    from audiocraft.models import MusicGen

RATE = 1.0  # frames a second; the window is longer than audiocraft's stride of 18 s
PROMPTS = ("a slow harp", "fast loud drums with a guitar")
SPAN, FRAMES = Span(20, 12), 50  # windows that end at 20, 32, 44 and 50


@pytest.fixture(scope="module")
def lm():
    return random_lm()


def begin(
    lm, prompts=PROMPTS, candidates=4, frames=FRAMES, span=SPAN, given=None, rows=64, **sampling
) -> Windows:
    decoder = Decoder(lm, Sampling(**sampling), max_rows=rows)
    conditions = [condition(lm, prompt) for prompt in prompts]
    return Windows(decoder, conditions, candidates, frames, prompts, 1, span, given)


@torch.inference_mode()
def audiocrafts(lm, prompt: str, frames: int, span: Span, given=None, **options) -> torch.Tensor:
    """What audiocraft's MusicGen decodes greedily, for a model whose window is span.length."""
    codec = SimpleNamespace(eval=lambda: None, frame_rate=RATE, sample_rate=16000)
    model = MusicGen("random", codec, lm, max_duration=span.length / RATE)
    stride = span.stride / RATE
    model.set_generation_params(False, duration=frames / RATE, extend_stride=stride, **options)
    rows = 1 if given is None else len(given)
    attributes, _ = model._prepare_tokens_and_attributes([prompt] * rows, None)
    return model._generate_tokens(attributes, given)


@pytest.mark.parametrize("guidance", [3.0, 1.0])
@pytest.mark.parametrize("stride", [1, 7, 12, 19])
@pytest.mark.parametrize("frames", [21, 50])
def test_greedy_tokens_of_windows_are_audiocrafts(lm, frames, stride, guidance):
    span = Span(20, stride)
    decoding = begin(lm, PROMPTS[:1], 1, frames, span, guidance=guidance)
    decoding.advance(frames, greedy=True)
    expected = audiocrafts(lm, PROMPTS[0], frames, span, cfg_coef=guidance)
    assert torch.equal(decoding.tokens(), expected)
