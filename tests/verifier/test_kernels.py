"""The decoder's kernels in Triton's interpreter, on CPU tensors, against torch in float64.

Here, because this environment's Triton has the interpreter.
"""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from perf.gpu_check.models import make_decoder, random_lm, sources
from perf.stub_lm import Shape, stand_in_for_audiocraft
from src.decoding import kernels
from src.decoding.decoder import Sampling
from src.decoding.past import Attended

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 0.005}


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small inputs have the tiles and splits of large ones."""
    monkeypatch.setattr(kernels, "TILE_BYTES", 1 << 11)
    monkeypatch.setattr(kernels, "PROGRAMS", 24)


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def expected(queries: Tensor, stretches: list[Attended]) -> Tensor:
    """Each row's own keys and values one after the other: [outer, heads, slots, dim] in float64."""
    outer, heads, slots, dim = queries.shape
    keys, values, biases = [], [], []
    for groups, *of_groups, bias in stretches:
        for x, rows in zip(of_groups, (keys, values), strict=True):
            x = x.double().view(outer, heads, groups, 1, -1, dim)
            rows.append(x.expand(-1, -1, -1, slots // groups, -1, -1).flatten(2, 3))
        length = keys[-1].shape[3]
        bias = torch.zeros(length) if bias is None else bias
        bias = bias.view(outer, heads, 1, length) if bias.dim() == 3 else bias
        biases.append(bias.double().expand(outer, heads, slots, length))
    scores = (queries.double()[..., None, :] * torch.cat(keys, 3)).sum(-1) * dim**-0.5
    weights = (scores + torch.cat(biases, 3)).softmax(-1)
    return (weights[..., None] * torch.cat(values, 3)).sum(3)


def stretch(
    seed: int, batch: int, groups: int, length: int, dim: int, dtype: torch.dtype, there: int | None
) -> Attended:
    """there: how many positions are, the others are padded; None: all, and there is no bias."""
    room = normal(seed, 2, batch * groups, length + 5, dim, dtype=dtype)  # as reserved
    bias = None
    if there is not None:
        bias = torch.zeros(length, dtype=dtype).masked_fill(
            torch.arange(length) >= there, -torch.inf
        )
    return Attended(groups, room[0, :, :length], room[1, :, :length], bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("slots", "dim", "of"),
    [
        (1, 16, [(1, 70, None)]),  # a candidate alone, in splits
        (4, 64, [(4, 33, None)]),
        (4, 32, [(4, 33, 20)]),
        (3, 16, [(1, 40, 40), (3, 7, 1)]),  # three rows share a trunk
        (16, 16, [(1, 130, 97), (4, 40, 33), (16, 20, 3)]),
        (20, 16, [(1, 90, None)]),  # more rows than a tile
        (8, 128, [(2, 19, 12), (8, 16, 16)]),
    ],
)
def test_rows_attend_to_what_they_share_and_to_their_own(dtype, slots, dim, of) -> None:
    halves, prompts, heads = 2, 2, 3
    qkv = normal(0, halves, prompts, slots, 3, heads, dim, dtype=dtype)
    queries = qkv.permute(3, 0, 1, 4, 2, 5)[0]
    batch = halves * prompts * heads
    stretches = [
        stretch(1 + i, batch, groups, length, dim, dtype, there)
        for i, (groups, length, there) in enumerate(of)
    ]
    found = kernels.attend(queries, stretches)
    assert found.dtype == dtype
    assert found.shape == queries.shape
    assert found.transpose(2, 3).is_contiguous()
    right = expected(queries.flatten(0, 1), stretches).view(queries.shape)
    torch.testing.assert_close(found.double(), right, rtol=0, atol=TOLERANCE[dtype])
    assert torch.equal(found, kernels.attend(queries, stretches))


@pytest.mark.parametrize("biased", [False, True])
def test_rows_attend_to_their_prompts_text(biased: bool) -> None:
    prompts, rows, heads, length, dim = 2, 5, 2, 21, 16
    queries = normal(0, prompts, rows, heads, dim).transpose(1, 2)
    keys, values = normal(1, 2, prompts * heads, length, dim)
    bias = torch.zeros(prompts * heads, 1, length) if biased else None
    if bias is not None:
        bias[heads:, :, 9:] = -torch.inf
    text = Attended(1, keys, values, bias)
    found = kernels.attend(queries, [text]).double()
    torch.testing.assert_close(found, expected(queries, [text]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("lengths", [(20, 7), (200, 16)], ids=["whole", "split"])
def test_a_row_that_is_not_a_number_stays_alone(lengths) -> None:
    """In its query as in its own keys and values, beyond what is there of others."""
    queries = normal(0, 1, 2, 4, 16)
    shared = stretch(1, 2, 1, lengths[0], 16, torch.float32, lengths[0] - 5)
    own = stretch(2, 2, 4, lengths[1], 16, torch.float32, lengths[1] - 3)
    clean = kernels.attend(queries, [shared, own])
    queries[0, :, 1] = torch.nan
    for x in (own.keys, own.values):
        x.view(2, 4, -1, 16)[:, 3, 0] = torch.inf
    found = kernels.attend(queries, [shared, own])
    assert found[:, :, [1, 3]].isnan().all()
    assert torch.equal(found[:, :, [0, 2]], clean[:, :, [0, 2]])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("dim", "added", "normed"), [(96, 6, 6), (96, 4, 6), (33, 6, 2)])
def test_adding_and_norm_are_one(dtype, dim: int, added: int, normed: int) -> None:
    x, y = normal(0, 6, dim), normal(1, added, dim, dtype=dtype)
    weight, bias = normal(2, 2, dim)
    x[1] = torch.nan
    summed = x.clone()
    summed[:added] += y
    found = kernels.add_norm(x, y, weight, bias, 1e-5, dtype, normed)
    torch.testing.assert_close(x, summed, rtol=0, atol=0, equal_nan=True)
    right = torch.layer_norm(summed[:normed].double(), (dim,), weight.double(), bias.double(), 1e-5)
    assert found.dtype == dtype
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype], "equal_nan": True}
    torch.testing.assert_close(found.double(), right, **close)


def test_splits_cover_all_positions_and_none_is_empty() -> None:
    for batch in (1, 2, 5, 24, 100):
        for length in (1, 16, 17, 100, 999):
            _, _, splits = kernels._plan(batch, 1, length, 16, 64)
            each = -(-length // (16 * splits)) * 16
            assert (splits - 1) * each < length <= splits * each
            assert splits == 1 or batch * splits <= kernels.PROGRAMS


def tree_search(lm, graphs: bool) -> tuple[list[Tensor], Tensor]:
    """Two prompts, whose rows become families, with a rollout on the way."""
    decoder = make_decoder(lm, Sampling(top_k=12), graphs=graphs)
    decoding = decoder.begin(sources(lm.dim, 20, 9), 4, 6, ["a", "b"], seed=5)
    seen = []
    for rows in ([2, 2, 2, 2, 4, 4, 4, 4], [0, 0, 3, 3, 5, 5, 6, 6]):
        decoding.advance(2)
        mark = decoding.mark()
        decoding.advance(1, greedy=True)
        seen.append(decoding.tokens())
        decoding.rewind(mark)
        decoding.select(rows)
    decoding.advance(2)
    return [*seen, decoding.tokens()], decoding.mean_log_prob()


@pytest.mark.parametrize("graphs", [False, True])
def test_a_tree_search_is_the_same_with_kernels(monkeypatch, graphs: bool) -> None:
    """graphs: in padded memory, each step run in place of a replay."""
    modules = dict(sys.modules)
    try:
        stand_in_for_audiocraft()
        monkeypatch.setattr("src.decoding.graphs.capture", lambda step, at, pool: step)
        lm = random_lm(Shape(layers=2, dim=32, heads=2, card=40))
        tokens, log_probs = tree_search(lm, graphs)
        calls = []
        monkeypatch.setattr(kernels, "available", lambda x: calls.append(x.shape) or True)
        found, found_log_probs = tree_search(lm, graphs)
    finally:
        for name in sys.modules.keys() - modules.keys():
            if name.startswith("audiocraft"):
                del sys.modules[name]
    assert len(calls) == 11 * 2 * 5  # steps, layers, calls of each
    assert all(torch.equal(one, other) for one, other in zip(tokens, found, strict=True))
    torch.testing.assert_close(log_probs, found_log_probs)


def test_what_the_kernels_do_not_take_is_left_to_torch(monkeypatch) -> None:
    assert not kernels.available(torch.zeros(1))
    monkeypatch.setattr(kernels, "available", lambda x: True)
    assert [dim for dim in range(1, 300) if kernels.can_attend(torch.empty(0, dim))] == [
        16, 32, 64, 128
    ]  # fmt: skip


def test_kernels_that_give_wrong_numbers_are_found_by_the_first_call(monkeypatch) -> None:
    device = torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    for dtype in (torch.float32, torch.float16):  # products of bfloat16 the interpreter gets wrong
        assert kernels._fault.__wrapped__(device, dtype) is None
    assert kernels._fault.__wrapped__(device, torch.bfloat16).startswith("they err by")
