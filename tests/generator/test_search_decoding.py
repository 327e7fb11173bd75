"""The methods on the real decoder, with a random two-layer language model and no audio."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from src.budget import Cost, Span
from src.data.audio import Clip
from src.data.prompts import Prompt
from src.decoding.decoder import Decoder, Decoding
from src.decoding.windows import Windows
from src.methods import METHODS
from src.protocol import Checkpoint
from src.search import search
from src.tree.node import SearchResult
from src.verifier import build_verifier
from tests.generator.random_models import random_lm

RATE, DIM, FRAMES = 50, 16, 20
SPAN = Span(9, 5)  # windows that end at 9, 14, 19 and 20, in the middle of steps
PROMPTS = [Prompt(id=name, text=f"text {name}", key=f"key {name}") for name in ("a", "b", "c")]
VERIFIER = build_verifier("perplexity", Checkpoint(name="random", sha256="0" * 64), None, None)


@pytest.fixture(scope="module")
def lm() -> torch.nn.Module:
    return random_lm(dim=DIM, card=32)


class RandomGenerator:
    """Conditions are noise drawn from the prompt; audio is the first codebook."""

    def __init__(self, lm: torch.nn.Module, max_rows: int = 64, span: Span | None = None) -> None:
        self.decoder, self.span = Decoder(lm, max_rows=max_rows), span

    def begin(
        self,
        prompts: Sequence[str],
        keys: Sequence[str],
        candidates: int,
        frames: int,
        seed: int,
        first: int = 0,
        given: Sequence[np.ndarray] | None = None,
    ) -> Decoding | Windows:
        conditions = [
            torch.randn(3, DIM, generator=torch.Generator().manual_seed(sum(map(ord, prompt))))
            for prompt in prompts
        ]
        asked, begun = (conditions, candidates, frames, keys, seed), None
        if given is not None:
            begun = torch.from_numpy(np.stack(given)).long().repeat_interleave(candidates, 0)
        if self.span is not None and frames > self.span.length:
            return Windows(self.decoder, *asked, self.span, begun, first)
        return self.decoder.begin(*asked, begun, first)

    def render(self, tokens: torch.Tensor) -> list[Clip]:
        return [Clip(row[:1].float().numpy(), RATE) for row in tokens]

    def render_rest(self, tokens: torch.Tensor, beginnings: Sequence[Clip]) -> list[Clip]:
        raise AssertionError("nothing is settled here")

    def settled(self, clip: Clip, frames: int) -> None:
        return None

    def synchronize(self) -> None:
        pass


def run(
    generator: RandomGenerator, method: str, n: int, m: int = 1, k: int = 0, prompts=PROMPTS
) -> list[SearchResult]:
    """Searches over 20 frames in steps of 6 (the last has 2); every cost is the planned one."""
    own = {"beam_width": m, "lookahead_k": k}
    plan = METHODS[method].make_plan(n, FRAMES / RATE, 6 / RATE, RATE, own)
    results = search(plan, prompts, generator, VERIFIER, seed=1)
    for result in results:
        assert isinstance(result, SearchResult)
        assert Cost(result.ledger.frames, result.ledger.clips) == plan.expected()
    return [result for result in results if isinstance(result, SearchResult)]


def tokens(results: Sequence[SearchResult]) -> list[list[list[int]]]:
    return [result.winner.tokens.tolist() for result in results]


def leaves(result: SearchResult) -> list[float]:
    last = max(node.step for node in result.nodes)
    return [node.score.value for node in result.nodes if node.step == last]


def test_the_baseline_is_slot_0_of_the_pool(lm: torch.nn.Module) -> None:
    generator = RandomGenerator(lm)
    for alone, pool in zip(
        run(generator, "baseline", 1), run(generator, "best_of_n", 6), strict=True
    ):
        assert alone.winner.score.value == pytest.approx(leaves(pool)[0], rel=1e-5)
        assert pool.winner.score.value == max(leaves(pool))


@pytest.mark.parametrize("span", [None, SPAN])
@pytest.mark.parametrize(("method", "k"), [("sbs", 0), ("lookahead", 1), ("lookahead", 9)])
def test_pausing_and_rolling_out_leave_the_pool_as_it_was(
    lm: torch.nn.Module, method: str, k: int, span: Span | None
) -> None:
    """With families of one nothing is pruned: the leaves are best_of_n's candidates, exactly."""
    generator = RandomGenerator(lm, span=span)
    pool = run(generator, "best_of_n", 4)
    searched = run(generator, method, 4, m=1, k=k)
    assert [leaves(result) for result in searched] == [leaves(result) for result in pool]
    assert tokens(searched) == tokens(pool)


@pytest.mark.parametrize(("n", "m", "span"), [(4, 2, None), (4, 4, None), (6, 3, SPAN)])
def test_lookahead_with_k_0_is_beam_search(
    lm: torch.nn.Module, n: int, m: int, span: Span | None
) -> None:
    generator = RandomGenerator(lm, span=span)
    beam, ahead = run(generator, "sbs", n, m), run(generator, "lookahead", n, m, k=0)
    assert [result.nodes for result in beam] == [result.nodes for result in ahead]
    assert tokens(beam) == tokens(ahead)


@pytest.mark.parametrize("k", [1, 2])
def test_one_family_comes_from_one_parent_and_no_two_of_it_are_alike(
    lm: torch.nn.Module, k: int
) -> None:
    generator = RandomGenerator(lm)
    (result,) = run(generator, "lookahead", 4, 4, k=k, prompts=PROMPTS[:1])
    best = [node.slot for node in result.nodes if node.kept]
    assert [n.parent for n in result.nodes if n.step == 1] == [best[0]] * 4
    assert len({n.log_prob for n in result.nodes if n.step == 1}) == 4


@pytest.mark.parametrize("span", [None, SPAN])
@pytest.mark.parametrize("method", [name for name in METHODS if name != "baseline"])
def test_neither_the_group_nor_the_split_into_parts_changes_a_search(
    lm: torch.nn.Module, method: str, span: Span | None
) -> None:
    together = tokens(run(RandomGenerator(lm, span=span), method, 4, 2, 1))
    in_parts = tokens(run(RandomGenerator(lm, max_rows=3, span=span), method, 4, 2, 1))
    alone = [
        tokens(run(RandomGenerator(lm, span=span), method, 4, 2, 1, prompts=[prompt]))[0]
        for prompt in PROMPTS
    ]
    assert together == in_parts == alone


@pytest.mark.parametrize("span", [SPAN, Span(12, 6)])  # the second's windows end where steps do
def test_over_windows_too_the_best_of_n_is_among_the_first_n_of_a_larger_pool(
    lm: torch.nn.Module, span: Span
) -> None:
    generator = RandomGenerator(lm, span=span)
    few, many = run(generator, "best_of_n", 3), run(generator, "best_of_n", 6)
    assert [leaves(one)[:3] for one in many] == [
        pytest.approx(leaves(one), rel=1e-5) for one in few
    ]
    assert tokens(run(generator, "baseline", 1)) == tokens(run(generator, "best_of_n", 1))


@pytest.mark.parametrize("span", [None, SPAN])
@pytest.mark.parametrize("method", METHODS)
def test_a_search_that_goes_on_from_a_clip_has_its_frames_and_pays_for_new_ones_only(
    lm: torch.nn.Module, method: str, span: Span | None
) -> None:
    generator = RandomGenerator(lm, span=span)
    (winner,) = run(generator, "best_of_n", 2, prompts=PROMPTS[:1])
    prompt = replace(PROMPTS[0], given=winner.winner.tokens)
    own = {"beam_width": 2, "lookahead_k": 1}
    plan = METHODS[method].make_plan(4, 35 / RATE, 6 / RATE, RATE, own, given=FRAMES)
    assert sum(plan.steps) == 15
    (longer,) = search(plan, [prompt], generator, VERIFIER, seed=1)
    assert isinstance(longer, SearchResult)
    spent, most = longer.ledger.frames, plan.expected().frames
    assert spent <= most if plan.stops else spent == most
    assert longer.winner.tokens.shape[-1] == 35
    assert np.array_equal(longer.winner.tokens[:, :FRAMES], winner.winner.tokens)
    assert longer.winner.clip.samples.shape[-1] == 35
