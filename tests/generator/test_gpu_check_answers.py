"""Each kind of finding of `perf/gpu.py`: what is right passes, what is wrong does not."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from perf.gpu_check import convolutions, right, speed
from perf.gpu_check.models import Agreement, Outcome, make_decoder, sources
from perf.gpu_check.report import Check
from perf.gpu_check.scale import DRY
from perf.stub_lm import Shape, StubLM
from src.decoding import decoder, past
from src.decoding.sampling import NoiseKey, uniforms


@pytest.fixture
def check() -> Check:
    """A dry run."""
    return Check(torch.device("cpu"), 300.0, DRY, stub=False)


def by_place(keys: Sequence[NoiseKey], *shape: Any) -> Tensor:
    """Noise that belongs to a place in the batch."""
    keys = [NoiseKey(0, "", place) for place in range(len(keys))]
    return uniforms(keys, *shape)


rewind = past.Past.rewind


def too_far(self: past.Past, position: int) -> None:
    """A rewind that forgets one position more."""
    rewind(self, position - 1)


@pytest.mark.parametrize(
    ("where", "name", "mistake", "found"),
    [
        (past.Past, "rewind", too_far, "rolled out and rewound"),
        (decoder, "_reorder", lambda tensors, rows: None, "branched: parents' frames"),
        (decoder, "uniforms", by_place, "prompts in another order"),
        (decoder, "uniforms", by_place, "in parts of other sizes"),
    ],
)
def test_mistakes_of_a_decoder_are_found(
    check: Check, monkeypatch: pytest.MonkeyPatch, where, name: str, mistake, found: str
) -> None:
    monkeypatch.setattr(where, name, mistake)
    right.Scenario(check).of_dtype(torch.float32)
    failed = [line["what"] for line in check.lines if line["result"] == "FAIL"]
    assert f"float32, {found}" in failed


def test_a_convolution_with_ten_bits_is_found(check: Check) -> None:
    calls = []

    def run(dtype: torch.dtype, device: torch.device) -> Tensor:
        calls.append(dtype)
        x = torch.linspace(1, 2, 1001)
        if len(calls) == 3:  # after float64 and float32 on the CPU: here
            x = (x.view(torch.int32) & ~0x1FFF).view(torch.float32)  # 10 bits, as TF32 has
        return (x.to(dtype) * 0.97).cumsum(0)

    convolutions.compare(check, "rounded", run)
    assert [line["result"] for line in check.lines] == ["FAIL"]


def test_a_flip_is_rounding_only_while_its_row_was_the_same_before() -> None:
    seeded = torch.Generator().manual_seed(0)
    one = Outcome(torch.randint(50, (4, 4, 30), generator=seeded), torch.zeros(4, 4, 30))
    flipped = one.tokens.clone()
    flipped[1, 2, 10:] += 1
    flipped[1, :, 13:] += 1
    after = one.log_probs.clone()
    after[1, :, 13:] = 9.0  # another history
    found = Agreement.of(one, Outcome(flipped, after))
    assert (found.rows_flipped, found.first_frame, found.log_prob_error) == (1, 10, 0)
    assert found.flip_rate < 0.01
    moved = one.log_probs.clone()
    moved[3, 0, 2] = 0.5
    assert Agreement.of(one, Outcome(flipped, moved)).log_prob_error == 0.5
    assert Agreement.of(one, Outcome(one.tokens + 1, after)).flip_rate > 1
    assert Agreement.of(one, Outcome(one.tokens, after * torch.nan)).log_prob_error != 0


def test_the_floor_reads_every_weight_that_a_step_needs_once() -> None:
    shape = Shape(layers=3, dim=64, heads=2, card=100)
    needed = {
        name: weight.numel()
        for name, weight in StubLM(shape).named_parameters()
        if weight.dim() > 1 and not name.startswith("emb")
    }
    # the text's keys and values are made before, of two thirds of its projection
    for layer in range(3):
        needed[f"transformer.layers.{layer}.cross_attention.in_proj_weight"] -= 2 * 64 * 64
    output = sum(size for name, size in needed.items() if name.startswith("linears"))
    layers = sum(needed.values()) - output
    kept = make_decoder(StubLM(shape).eval().requires_grad_(False)).begin(
        sources(64, 5), 4, 20, ["a"], seed=1
    )
    kept.mark()
    kept.advance(17)  # and three that are in flight
    expected = 2 * layers + 4 * output + kept.nbytes // 2
    roof = speed.Roofline(bandwidth=1, rate=float("inf"))
    assert roof.floor(shape, itemsize=2, candidates=4, past=20, pasts=4) == expected


def test_the_floor_counts_the_products_that_a_step_makes() -> None:
    shape, candidates, past_length, text_length = Shape(3, 64, 2, 100), 4, 20, 40
    eager = make_decoder(StubLM(shape).eval().requires_grad_(False))
    eager.transformer.packable = False  # torch does not count MKL's own products
    begun = eager.begin(sources(64, text_length), candidates, past_length + 1, ["a"], seed=1)
    begun.advance(past_length - 3)  # the next step takes position 20, and attends to 21
    with FlopCounterMode(display=False) as counter:
        begun.advance(1)
    of_text = candidates * 2 * 64 * shape.layers * text_length
    roof = speed.Roofline(bandwidth=float("inf"), rate=1)
    floor = roof.floor(shape, itemsize=4, candidates=candidates, past=21, pasts=candidates)
    assert floor + 2 * of_text == counter.get_total_flops()
