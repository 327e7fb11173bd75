"""Clips beyond the model's window: against audiocraft's own, and against unpaused runs."""

from types import SimpleNamespace

import pytest
import torch

from src.budget import Span
from src.decoding.decoder import Decoder, Sampling
from src.decoding.sampling import NoiseKey, uniforms
from src.decoding.windows import Windows
from src.generator import audiocraft_without_clap, span_of
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
@pytest.mark.parametrize(("frames", "stride"), [(21, 12), (50, 1), (50, 7), (50, 12), (50, 19)])
def test_greedy_tokens_of_windows_are_audiocrafts(lm, frames, stride, guidance):
    span = Span(20, stride)
    decoding = begin(lm, PROMPTS[:1], 1, frames, span, guidance=guidance)
    decoding.advance(frames, greedy=True)
    expected = audiocrafts(lm, PROMPTS[0], frames, span, cfg_coef=guidance)
    assert torch.equal(decoding.tokens(), expected)


@pytest.mark.parametrize("given", [9, 20, 26, 44])
def test_greedy_tokens_go_on_from_given_ones_as_audiocrafts(lm, given):
    """audiocraft takes a window's frames at most: of more, its later windows see the last ones."""
    tokens = torch.randint(0, lm.card, (2, 4, given), generator=torch.manual_seed(3))
    decoding = begin(lm, PROMPTS[:1], 2, given=tokens)
    assert decoding.finished == given
    decoding.advance(FRAMES - given, greedy=True)
    first = SPAN.stride * max(0, -(-(given + 1 - SPAN.length) // SPAN.stride))  # of the window
    expected = audiocrafts(lm, PROMPTS[0], FRAMES - first, SPAN, tokens[..., first:])
    assert torch.equal(decoding.tokens(), torch.cat([tokens[..., :first], expected], -1))


def whole(lm, **options) -> Windows:
    decoding = begin(lm, **options)
    decoding.advance(FRAMES)
    return decoding


def alike(a: Windows, b: Windows, rows: slice | list[int] = slice(None)) -> bool:
    """Whether the rows of a are those of b: tokens, and but for rounding log-probabilities."""
    torch.testing.assert_close(a.all_log_probs(), b.all_log_probs()[:, rows], atol=1e-5, rtol=1e-5)
    return torch.equal(a.tokens(), b.tokens()[rows])


@pytest.mark.parametrize("pauses", [[20, 12, 12, 6], [19, 1, 1, 29], [5] * 10, [0, 33, 0, 17]])
@pytest.mark.parametrize("rows", [64, 3])
def test_a_pause_changes_nothing_wherever_it_is(lm, pauses, rows):
    paused = begin(lm, rows=rows)
    for frames in pauses:
        paused.advance(frames)
    assert alike(paused, whole(lm))


@pytest.mark.parametrize(("at", "rollout"), [(0, 6), (15, 5), (15, 35), (20, 1), (30, 4), (44, 6)])
def test_a_rollout_across_a_windows_end_leaves_no_trace(lm, at, rollout):
    decoding = begin(lm)
    decoding.advance(at)
    mark = decoding.mark()
    decoding.advance(rollout, greedy=True)
    decoding.tokens()
    decoding.rewind(mark)
    assert decoding.finished == at
    decoding.advance(FRAMES - at)
    assert alike(decoding, whole(lm))


@pytest.mark.parametrize(("at", "ahead"), [(15, 8), (15, 20), (20, 0), (20, 12), (25, 4), (32, 20)])
def test_branches_and_rows_that_are_kept_are_those_of_a_run_without_marks(lm, at, ahead):
    """Also where they are chosen beyond the end of a window that is marked, and then rewound."""
    parents, kept = [2, 2, 1, 1, 7, 5, 5, 5], [0, 3, 4, 6]
    plain, marked = begin(lm), begin(lm)
    for decoding in (plain, marked):
        decoding.advance(at)
        mark = decoding.mark() if decoding is marked else None
        if mark is not None:
            decoding.advance(min(ahead, FRAMES - at))
        decoding.select(parents)
        decoding.keep(kept)
        if mark is not None:
            decoding.rewind(mark)
        decoding.advance(FRAMES - at)
    assert alike(marked, plain)
    before = whole(lm).tokens()[[parents[row] for row in kept], :, :at]
    assert torch.equal(plain.tokens()[..., :at], before)
    untouched = begin(lm)  # slot 0 of the second prompt was its own and was not a parent
    untouched.advance(at)
    untouched.keep([0, 3, 4, 6])
    untouched.advance(FRAMES - at)
    assert alike(untouched, whole(lm), [0, 3, 4, 6])


def test_a_window_goes_on_as_a_clip_that_begins_with_what_it_was_given(lm):
    """And takes up the noise where the clip is, not where the window is."""
    decoding = whole(lm, prompts=PROMPTS[:1])
    keys = [NoiseKey(1, PROMPTS[0], slot) for slot in range(4)]
    decoder = Decoder(lm)
    texts = [decoder.transformer.texts(condition(lm, PROMPTS[0]))]
    given = decoding.tokens()[..., 12:20]
    window = decoder.decode(texts, keys, 20, given, start=12)
    window.advance(12)
    assert torch.equal(window.tokens(), decoding.tokens()[..., 12:32])
    again = decoder.decode(texts, keys, 20, given)
    again.advance(12)
    assert not torch.equal(again.tokens(), window.tokens())


def test_noise_is_that_of_the_position_in_the_clip() -> None:
    key = [NoiseKey(1, "a", 0)]
    later, all_of_it = uniforms(key, 10, 4, first=12), uniforms(key, 30, 4)
    assert torch.equal(later, all_of_it[:, 12:22])
    assert len(all_of_it.unique()) == all_of_it.numel()


def test_log_probabilities_are_of_the_window_that_decoded_a_frame(lm):
    decoding = whole(lm, prompts=PROMPTS[:1])
    decoder, tokens = Decoder(lm), decoding.tokens()
    for first, start, end in ((0, 0, 20), (12, 20, 32), (24, 32, 44), (36, 44, 50)):
        conditions = [condition(lm, PROMPTS[0])]
        fed = decoder.begin(conditions, 4, end - first, PROMPTS[:1], 1, tokens[..., first:end])
        fed.advance(0)
        expected = fed.log_probs()[..., start - first :]
        found = decoding.log_probs()[..., start:end]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    mean = decoding.log_probs()[0].mean((1, 2))
    torch.testing.assert_close(decoding.mean_log_prob(), mean)
    # of a clip that is given they are the same, and it was not drawn from anything
    given = begin(lm, prompts=PROMPTS[:1], given=tokens[..., :47])
    given.advance(0)
    found = decoding.log_probs()[..., :47]
    torch.testing.assert_close(given.log_probs(), found, atol=1e-5, rtol=1e-5)
    assert not given.all_log_probs()[-1].any()


def test_only_the_window_is_held_and_two_only_while_one_is_marked(lm):
    decoding = begin(lm, prompts=PROMPTS[:1])
    decoding.advance(19)
    one = decoding.nbytes
    mark = decoding.mark()
    decoding.advance(5)
    assert decoding.nbytes > 1.5 * one
    decoding.rewind(mark)
    assert decoding.nbytes < 1.2 * one
    decoding.advance(1)
    assert decoding.nbytes == 0


def test_what_cannot_be_asked_is_refused(lm):
    decoding = begin(lm, guidance=1.0)
    with pytest.raises(ValueError, match="advance first"):
        decoding.log_probs()
    decoding.advance(20)
    for wrong in ([0] * 7, [4, *range(1, 8)]):
        with pytest.raises(ValueError, match="row"):
            decoding.select(wrong)
    with pytest.raises(ValueError, match="rows to keep"):
        decoding.keep([0, 1, 4])
    with pytest.raises(ValueError, match="cannot advance by 31"):
        decoding.advance(31)
    with pytest.raises(ValueError, match="without its text"):
        decoding.mean_log_prob(conditional=False)


@pytest.mark.parametrize(
    ("segment", "stride", "span"),
    [(30.0, None, Span(1500, 900)), (10.0, None, Span(500, 300)), (10.0, 2.5, Span(500, 125))],
)
def test_a_models_windows_are_audiocrafts_where_18_s_are_less_than_one(segment, stride, span):
    assert span_of(segment, stride, 50.0) == span


def test_windows_that_do_not_overlap_are_refused():
    with pytest.raises(ValueError, match="--extend_stride must be less than 10 s"):
        span_of(10.0, 10.0, 50.0)
