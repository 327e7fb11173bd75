"""Steps that are captured once and replayed, against steps that are run.

There is no CUDA graph without a GPU. Here a step is traced to the list of its operators, which is
then replayed blindly: what depends on Python, or is read by the host, is frozen or fails.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from src.budget import Span
from src.decoding import graphs, past
from src.decoding.decoder import Decoder, Decoding, Sampling
from src.decoding.past import empty
from src.decoding.windows import Windows
from tests.generator.random_models import condition, random_lm

PROMPTS = ("a slow harp of old", "fast loud drums with a guitar")
FRAMES = 36
# Each prompt's eight rows: children of one, then families of four.
PRUNES = (
    [2, 2, 2, 2, 2, 2, 2, 2, 8, 8, 8, 8, 8, 8, 8, 8],
    [4, 4, 4, 4, 1, 1, 1, 1, 15, 15, 15, 15, 9, 9, 9, 9],
)


class Captured(list[tuple[int, ...]]):
    """The padded lengths of every step that was captured."""

    def __call__(self, step: partial[None], at: Tensor, pool: object) -> Callable[[], None]:
        self.append(step.func.__self__.past.padded)
        traced = make_fx(lambda _: step())(at)
        at.sub_(1)
        return lambda: traced(at)


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> Captured:
    """Traces in place of CUDA graphs, with small buckets, so that many lengths occur."""
    found = Captured()
    monkeypatch.setattr(graphs, "capture", found)
    # Fresh memory may hold anything: what is not there yet must weigh nothing, NaN or not.
    monkeypatch.setattr(past, "empty", lambda shape, *of: empty(shape, *of).fill_(torch.nan))
    for bucket in ("BUCKET", "SHARED_BUCKET", "TEXT_BUCKET"):
        monkeypatch.setattr(graphs, bucket, 16)
    return found


@pytest.fixture(scope="module")
def lm():
    return random_lm()


def decoder(lm, graphed: bool, max_rows: int = 64, **sampling) -> Decoder:
    made = Decoder(lm, Sampling(**{"top_k": 20} | sampling), max_rows=max_rows, graphs=graphed)
    made.transformer.packable = False
    return made


def begin(on: Decoder, lm, candidates: int = 8, frames: int = FRAMES, seed: int = 5) -> Decoding:
    texts = [condition(lm, prompt) for prompt in PROMPTS]
    return on.begin(texts, candidates, frames, PROMPTS, seed)


def tree_search(decoding: Decoding, greedy: bool = False) -> list[Tensor]:
    """Steps, rollouts and prunes; all that can be seen on the way."""
    seen = []
    for rows in PRUNES:
        decoding.advance(12, greedy=greedy)
        mark = decoding.mark()
        decoding.advance(5, greedy=True)
        seen += [decoding.tokens(), decoding.mean_log_prob()]
        decoding.rewind(mark)
        decoding.select(rows)
    decoding.advance(12, greedy=greedy)
    seen += [decoding.tokens(), decoding.mean_log_prob()]
    return [*seen, decoding.mean_log_prob(conditional=False)] if decoding.guided else seen


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        if one.is_floating_point():
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        else:
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("max_rows", "greedy", "sampling"),
    [
        (64, False, {}),
        (64, True, {}),
        (64, False, {"guidance": 1.0, "top_k": 0}),
        (8, False, {"temperature": 0.7}),
        (5, False, {}),
    ],
)
def test_replayed_steps_are_the_steps_that_are_run(lm, captured, max_rows, greedy, sampling):
    expected = tree_search(begin(decoder(lm, False, max_rows, **sampling), lm), greedy)
    assert not captured
    found = tree_search(begin(decoder(lm, True, max_rows, **sampling), lm), greedy)
    assert_equal(found, expected)
    # Steps without what is shared, with one stretch of it, and with two, were replayed.
    assert {len(padded) for padded in captured} == {1, 3, 5}


@pytest.mark.parametrize("max_rows", [64, 8, 5])
def test_rows_that_are_left_go_on_in_lanes_of_their_own(lm, captured, max_rows):
    """Twice, the second time in lanes that hold what others left; of branches, with a rollout."""
    decoders = [decoder(lm, graphed, max_rows) for graphed in (False, True)]
    for seed in (5, 6):
        results = []
        for one in decoders:
            decoding = begin(one, lm, seed=seed)
            decoding.advance(9)
            decoding.select(PRUNES[0])
            decoding.advance(6)
            decoding.keep([0, 3, 5, 7, 9, 10, 14, 15])
            mark = decoding.mark()
            decoding.advance(5, greedy=True)
            decoding.rewind(mark)
            decoding.advance(11)
            decoding.keep([1, 3, 6, 7])
            decoding.select([0, 0, 3, 3])
            decoding.advance(10)
            results.append([decoding.tokens(), decoding.mean_log_prob()])
        assert_equal(*results)
    assert captured


def test_given_tokens_are_gone_on_from(lm, captured):
    given = torch.randint(0, lm.card, (16, 4, 9), generator=torch.manual_seed(3))
    results = []
    for graphed in (False, True):
        texts = [condition(lm, prompt) for prompt in PROMPTS]
        decoding = decoder(lm, graphed).begin(texts, 8, 30, PROMPTS, 1, given)
        decoding.advance(10)
        decoding.select(PRUNES[0])
        decoding.advance(11)
        results.append([decoding.tokens(), decoding.mean_log_prob()])
    assert_equal(*results)
    assert captured


@pytest.mark.parametrize("graphed", [False, True])
def test_decoding_goes_on_from_skipped_frames_as_from_decoded_ones(lm, captured, graphed):
    skipping, decoding = (begin(decoder(lm, graphed), lm) for _ in range(2))
    skipping.skip(12)
    decoding.advance(12)
    for one in (skipping, decoding):
        one.select(PRUNES[0])
        one.advance(10)
    assert skipping.finished == decoding.finished == 22
    assert skipping.nbytes == decoding.nbytes
    assert skipping.tokens()[..., 15:].max() < lm.card
    assert skipping.mean_log_prob().isfinite().all()
    assert bool(captured) == graphed


def test_later_groups_are_replayed_in_the_memory_of_the_first(lm, captured):
    """Whatever their texts, noise and families; shorter clips too."""
    graphed = decoder(lm, True)
    tree_search(begin(graphed, lm))
    tree_search(begin(graphed, lm))  # once more what was captured before the memory had its size
    begin(graphed, lm).advance(20)
    once = len(captured)
    for seed in (6, 7):
        found = tree_search(begin(graphed, lm, seed=seed))
        assert_equal(found, tree_search(begin(decoder(lm, False), lm, seed=seed)))
    short = [begin(on, lm, frames=20) for on in (graphed, decoder(lm, False))]
    for decoding in short:
        decoding.advance(20)
    assert torch.equal(short[0].tokens(), short[1].tokens())
    assert len(captured) == once


def test_two_decodings_at_once_do_not_meet(lm, captured):
    graphed = decoder(lm, True)
    expected = [tree_search(begin(decoder(lm, False), lm, seed=seed)) for seed in (1, 2)]
    first, second = begin(graphed, lm, seed=1), begin(graphed, lm, seed=2)
    first.mark()
    first.advance(6)
    assert_equal(tree_search(second), expected[1])
    first.rewind(first.mark()._replace(position=0, finished=0))
    assert_equal(tree_search(first), expected[0])


def test_parts_that_end_one_after_the_other_share_one_lane(lm, captured):
    graphed = decoder(lm, True, max_rows=4)
    pool = begin(graphed, lm)
    pool.advance(FRAMES)
    assert graphed.lanes is not None
    assert len(graphed.lanes._free) == 1
    assert len(captured) == len(set(captured)) == 3  # 36 + 3 positions in sixteens
    plain = begin(decoder(lm, False), lm)
    plain.advance(FRAMES)
    assert torch.equal(pool.tokens(), plain.tokens())


def test_a_decoding_that_is_dropped_leaves_its_lanes(lm, captured):
    graphed = decoder(lm, True, max_rows=8)
    assert graphed.lanes is not None
    gc.disable()  # memory of a GPU must not wait for the collector
    try:
        decoding = begin(graphed, lm)
        decoding.advance(5)
        assert not graphed.lanes._free
        del decoding
        assert len(graphed.lanes._free) == 2
    finally:
        gc.enable()


def test_free_lanes_hold_no_more_rows_than_may_be_decoded_side_by_side(lm, captured):
    graphed = decoder(lm, True, max_rows=24)
    assert graphed.lanes is not None
    held = []
    for candidates in (2, 4, 6, 2):
        begin(graphed, lm, candidates, frames=4).advance(4)
        held.append([lane.rows for lane in graphed.lanes._free])
    assert held == [[4], [8, 4], [12, 8, 4], [4, 12, 8]]
    begin(graphed, lm, 8, frames=4).advance(4)
    assert [lane.rows for lane in graphed.lanes._free] == [16, 4]
    graphed.max_rows = 8  # after memory was short: one prompt a part
    begin(graphed, lm, 8, frames=4).advance(4)
    assert [lane.rows for lane in graphed.lanes._free] == [8]


def test_graphs_are_for_gpus_unless_asked_for(lm):
    assert Decoder(lm).lanes is None
    assert Decoder(lm, graphs=True).lanes is not None


@pytest.mark.parametrize("graphed", [False, True])
@pytest.mark.parametrize("rolling_out", [False, True])
def test_a_row_that_overflows_is_not_a_number_and_touches_no_other(
    lm, captured, graphed: bool, rolling_out: bool
):
    """As in half precision: one row's keys are infinite from some position on.

    In a rollout it is the row that is kept: afterwards it is as if nothing was.
    """
    on, row = decoder(lm, graphed), PRUNES[0][0] if rolling_out else 6

    def search(overflows: bool) -> list[Tensor]:
        decoding = begin(on, lm)
        decoding.advance(7)
        mark = decoding.mark()
        decoding.advance(2)
        if overflows:
            part = decoding._parts[0]
            past = part._lane.past if graphed else part.past
            with torch.inference_mode():
                for cache in past.own.caches:
                    cache[0, 0, 0, :, row, past.own.length - 1] = torch.inf
        decoding.advance(3)
        seen = [decoding.tokens(), decoding.mean_log_prob()]
        if rolling_out:
            decoding.rewind(mark)
        decoding.select(PRUNES[0])
        decoding.advance(12)
        return [*seen, decoding.tokens(), decoding.mean_log_prob()]

    tokens, log_probs, *after = search(overflows=True)
    expected_tokens, expected, *expected_after = search(overflows=False)
    others = torch.arange(len(log_probs)) != row
    assert torch.equal(log_probs.isnan(), ~others)
    assert_equal([tokens[others], log_probs[others]], [expected_tokens[others], expected[others]])
    assert tokens.max() < lm.card
    assert_equal(after, expected_after)
    assert bool(captured) == graphed


def test_windows_are_replayed_as_they_are_run_and_lanes_go_from_one_to_the_next(
    lm, captured: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[graphs.Lane] = []

    class Counted(graphs.Lane):
        def __init__(self, *args) -> None:
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(graphs, "Lane", Counted)
    seen = []
    for graphed in (False, True):
        texts = [condition(lm, prompt) for prompt in PROMPTS]
        decoding = Windows(decoder(lm, graphed), texts, 2, 32, PROMPTS, 5, Span(12, 7))
        decoding.advance(15)
        mark = decoding.mark()
        decoding.advance(6, greedy=True)
        found = [decoding.tokens()]
        decoding.rewind(mark)
        decoding.select([1, 1, 2, 2])
        decoding.advance(5)
        decoding.keep([1, 2])
        decoding.advance(12)
        seen.append([*found, decoding.tokens()])
    assert captured
    for run, replayed in zip(*seen, strict=True):
        assert torch.equal(run, replayed)
    # One, beside a window that is marked a second, and one for the rows that are left.
    assert len(made) == 3
