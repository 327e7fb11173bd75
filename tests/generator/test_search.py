"""The methods on an exact tiny tree: against plain recursion, identities, costs and failures."""

import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from src.budget import BudgetError, Cost, Plan
from src.connection import ServerUnreachable
from src.data.prompts import Prompt
from src.methods import METHODS, PARAMETERS
from src.protocol import NoScore
from src.search import search, tree_search
from src.tree.group import OVERFLOWED
from src.tree.node import Failure, Node, SearchResult, children
from src.verifier import build_verifier
from tests.generator.fake_search import (
    RATE,
    FakeGenerator,
    FakeVerifier,
    continued,
    heard,
    value_of,
)

SEED = 7
PROMPTS = [Prompt(id=name, text=f"text {name}", key=f"key {name}") for name in ("a", "b", "c")]
FAMILIES = [(n, m) for n, m in itertools.product((1, 4, 6, 8), (1, 2, 4, 8)) if n % m == 0]
# frames of the clip, frames of a step: equal steps, a shorter last one, a step beyond the clip
LENGTHS = [(9, 3), (10, 3), (2, 3)]


def plan(method: str, n: int = 8, m: int = 2, k: int = 1, total: int = 10, step: int = 3) -> Plan:
    own = {p.name: p.default for p in PARAMETERS} | {"beam_width": m, "lookahead_k": k}
    return METHODS[method].make_plan(n, total / RATE, step / RATE, RATE, own)


def run(p: Plan, prompts=PROMPTS, verifier=None, generator=None):
    return search(p, prompts, generator or FakeGenerator(), verifier or FakeVerifier(), SEED)


def winner_tokens(result) -> list[int]:
    assert isinstance(result, SearchResult), result
    return result.winner.tokens[0].tolist()


def by_recursion(
    p: Plan, prompt: Prompt, is_out: Callable[[list[int]], bool] = lambda tokens: False
) -> list[int] | int:
    """The winner's tokens, by a search written down as plainly as can be.

    is_out: whether what is heard has no score. Where nothing of a step has one, that step.
    """
    families = p.candidates // p.beam_width
    pool: list[list[int]] = [[] for _ in range(p.candidates)]
    subtrees = [slot // p.beam_width for slot in range(p.candidates)]
    for step, frames in enumerate(p.steps):
        pool = [
            continued(history, frames, SEED, prompt.key, slot) for slot, history in enumerate(pool)
        ]
        ahead = p.rollout(step)
        heard = [continued(history, ahead, SEED, prompt.key, -1) for history in pool]
        scores = [value_of(prompt.text, tokens) for tokens in heard]
        known = [slot for slot, tokens in enumerate(heard) if not is_out(tokens)]
        best_first = sorted(known, key=lambda slot: -scores[slot])
        if not best_first:
            return step
        if step == len(p.steps) - 1:
            return pool[best_first[0]]
        kept = best_first[:families]
        if p.method.name == "dvts":
            of_each = [[s for s in best_first if subtrees[s] == i] for i in range(families)]
            kept = [slot for slot in best_first if slot in [own[0] for own in of_each if own]]
        free = [slot for slot in range(p.candidates) if slot not in kept]
        parents = {slot: slot for slot in kept}
        dealt = [kept[turn % len(kept)] for turn in range(families)]
        for parent in kept:
            for _ in range(dealt.count(parent) * p.beam_width - 1):
                parents[free.pop(0)] = parent
        subtrees = [subtrees[parents[slot]] for slot in range(p.candidates)]
        pool = [pool[parents[slot]] for slot in range(p.candidates)]
    raise AssertionError


@pytest.mark.parametrize(("n", "m"), FAMILIES)
@pytest.mark.parametrize(("total", "step"), LENGTHS)
def test_tree_searches_find_what_plain_recursion_finds_at_exactly_their_cost(
    n: int, m: int, total: int, step: int
) -> None:
    beam = plan("sbs", n, m, 1, total, step)
    diverse = plan("dvts", n, m, 1, total, step)
    for p in (beam, diverse, *(plan("lookahead", n, m, k, total, step) for k in (0, 1, 2, 9))):
        for prompt, result in zip(PROMPTS[:2], run(p, PROMPTS[:2]), strict=True):
            assert winner_tokens(result) == by_recursion(p, prompt)
            assert Cost(result.ledger.frames, result.ledger.clips) == p.expected()


def ends_badly(tokens: list[int]) -> bool:
    return tokens[-1] % 3 > 0


def unlucky(tokens: list[int]) -> bool:
    """Once so, always so: as a model that has overflowed."""
    return any(token % 13 == 0 for token in tokens)


@pytest.mark.parametrize("overflows", [False, True])
def test_candidates_without_a_score_are_never_kept_and_a_prompt_fails_when_all_are_so(
    overflows: bool,
) -> None:
    """Against plain recursion, at the same cost. They are out by the verifier or the generator."""
    is_out = unlucky if overflows else ends_badly
    refuses = None if overflows else lambda item: "bad end" if ends_badly(heard(item)) else None
    seen: Counter[str] = Counter()
    plans = [plan("best_of_n", 4), plan("best_of_n", 8)]
    for (n, m), k in itertools.product(FAMILIES, (0, 1, 2)):
        plans.append(plan("lookahead", n, m, k) if k else plan("sbs", n, m))
        plans += [] if k else [plan("dvts", n, m)]
    for p in plans:
        generator = FakeGenerator(overflows=unlucky if overflows else None)
        verifier = FakeVerifier(refuses) if refuses else FakeVerifier()
        for prompt, result in zip(PROMPTS, run(p, PROMPTS, verifier, generator), strict=True):
            expected = by_recursion(p, prompt, is_out)
            if isinstance(result, Failure):
                assert result.step == expected
                assert result.reason == (OVERFLOWED.reason if overflows else "bad end")
                assert result.verifier == ("generator" if overflows else "fake")
                seen["failed"] += 1
                continue
            assert winner_tokens(result) == expected
            assert Cost(result.ledger.frames, result.ledger.clips) == p.expected()
            for node in result.nodes:
                if isinstance(node.score, NoScore):
                    assert not node.kept
                    seen[f"out at {node.step} of {len(p.steps)}"] += 1
            first = [node.kept for node in result.nodes if node.step == 0]
            seen["fewer than K"] += len(p.steps) > 1 and sum(first) < p.kept
    outs = {f"out at {step} of {steps}" for step, steps in ((0, 1), (0, 4), (1, 4), (3, 4))}
    assert {*outs, "failed", "fewer than K"} <= {what for what, count in seen.items() if count}


@pytest.mark.parametrize(
    ("method", "n"), [("baseline", 1), ("best_of_n", 1), ("best_of_n", 2), ("best_of_n", 7)]
)
def test_best_of_n_is_the_best_of_a_pool_of_which_a_larger_pool_has_the_same_beginning(
    method: str, n: int
) -> None:
    for prompt, result in zip(PROMPTS, run(plan(method, n)), strict=True):
        pool = [continued([], 10, SEED, prompt.key, slot) for slot in range(n)]
        values = [value_of(prompt.text, tokens) for tokens in pool]
        assert [node.score.value for node in result.nodes] == values
        assert winner_tokens(result) == pool[values.index(max(values))]
        assert (result.ledger.frames, result.ledger.clips) == (10 * n, n)


@pytest.mark.parametrize("method", METHODS)
def test_a_prompts_search_does_not_depend_on_the_others_of_its_group(method: str) -> None:
    together = run(plan(method))
    for prompt, result in zip(PROMPTS, together, strict=True):
        (alone,) = run(plan(method), [prompt])
        assert alone.nodes == result.nodes
        assert winner_tokens(alone) == winner_tokens(result)


@pytest.mark.parametrize("method", ["sbs", "lookahead"])
def test_the_tree_is_whole_and_shows_what_was_kept(method: str) -> None:
    p = plan(method, 8, 4)
    for result in run(p):
        assert len(result.nodes) == 8 * len(p.steps)
        for step in range(len(p.steps)):
            nodes = {n.slot: n for n in result.nodes if n.step == step}
            kept = [n for n in nodes.values() if n.kept]
            dropped = [n for n in nodes.values() if not n.kept]
            assert len(kept) == (p.kept if step < len(p.steps) - 1 else 1)
            assert min(n.score.value for n in kept) >= max(n.score.value for n in dropped)
            following = [n.parent for n in result.nodes if n.step == step + 1]
            assert set(following) <= {n.slot for n in kept}
        assert {n.parent for n in result.nodes if n.step == 0} == {None}


@pytest.mark.parametrize("n", [4, 6, 8])
def test_one_subtree_is_beam_search_and_subtrees_of_one_are_best_of_n(n: int) -> None:
    beam, one = run(plan("sbs", n, n)), run(plan("dvts", n, n))
    assert [result.nodes for result in one] == [result.nodes for result in beam]
    alone, pool = run(plan("dvts", n, 1)), run(plan("best_of_n", n))
    assert [winner_tokens(result) for result in alone] == [winner_tokens(result) for result in pool]


def test_subtrees_never_compete_whatever_they_score() -> None:
    for result in run(plan("dvts", 8, 2)):
        nodes = {(node.step, node.slot): node for node in result.nodes}
        for step in range(3):
            first = []
            for node in (n for n in result.nodes if n.step == step and n.kept):
                while node.parent is not None:
                    node = nodes[node.step - 1, node.parent]
                first.append(node.slot // 2)
            assert sorted(first) == [0, 1, 2, 3]


def test_a_kept_candidate_goes_on_in_its_own_slot_and_the_others_fill_the_freed_ones() -> None:
    assert children([3, 0], 2, 2) == [0, 3, 0, 3]
    assert children([2, 1], 2, 3) == [2, 1, 2, 2, 1, 1]
    assert children([4, 1, 0], 3, 2) == [0, 1, 4, 1, 4, 0]
    assert children([0, 1, 2], 3, 1) == [0, 1, 2]


def test_a_method_of_ones_own_chooses_what_survives_a_prune() -> None:
    def worst(group, prompt: int, ranked: list[Node]) -> list[Node]:
        return ranked[-group.plan.kept :]

    p = plan("sbs", 8, 4)
    own = replace(p, method=replace(p.method, run=partial(tree_search, keep=worst)))
    for result in run(own):
        for step in range(len(p.steps) - 1):
            nodes = [n for n in result.nodes if n.step == step]
            kept = [n.score.value for n in nodes if n.kept]
            assert sorted(kept) == sorted(n.score.value for n in nodes)[: p.kept]
            following = {n.parent for n in result.nodes if n.step == step + 1}
            assert following == {n.slot for n in nodes if n.kept}
        assert Cost(result.ledger.frames, result.ledger.clips) == p.expected()


def test_lookahead_scores_the_rollouts_end_and_notes_the_candidates_own_log_probability() -> None:
    clips = []

    class Listening(FakeVerifier):
        def score(self, inputs):
            clips.append({len(heard(item)) for item in inputs})
            return super().score(inputs)

    ahead = run(plan("lookahead", 4, 2, k=1), PROMPTS[:1], Listening())
    assert clips == [{6}, {9}, {10}, {10}]
    beam = run(plan("sbs", 4, 2), PROMPTS[:1])
    first = lambda r: [n.log_prob for n in r[0].nodes if n.step == 0]  # noqa: E731
    assert first(ahead) == first(beam)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("hears", [True, False])
def test_what_is_heard_is_rendered_once_and_else_the_winners_alone(
    method: str, hears: bool
) -> None:
    generator = FakeGenerator()
    unhearing = build_verifier("perplexity", generator.checkpoint, None, None)
    results = run(plan(method), verifier=None if hears else unhearing, generator=generator)
    clips = sum(result.ledger.clips for result in results)
    alone = clips // 4 if method == "waves" else len(PROMPTS)  # of each wave its best
    assert generator.rendered == (clips if hears else alone)
    for result in results:
        assert result.winner.clip.samples[0].tolist() == winner_tokens(result)
        if not hears:
            assert result.winner.score.value == pytest.approx(math.exp(result.winner.log_prob))


@pytest.mark.parametrize("context", [0, 1, 2, 5])
@pytest.mark.parametrize(
    ("method", "k"), [("best_of_n", 0), ("sbs", 0), ("lookahead", 1), ("lookahead", 2)]
)
def test_what_is_heard_is_the_whole_clip_also_where_only_its_end_is_rendered(
    method: str, k: int, context: int
) -> None:
    def searched(settles: bool) -> tuple[list[list[int]], list[SearchResult | Failure], int]:
        """What the verifier heard, the results, and the frames rendered in all batches."""
        generator, clips = FakeGenerator(context), []
        if not settles:
            generator.settled = lambda clip, frames: None

        def refuse(item) -> str | None:
            clips.append(heard(item))
            return "odd" if item.prompt == "text b" and len(clips[-1]) > 5 else None

        p = plan(method, 8, 2, k, total=16)
        results = run(p, verifier=FakeVerifier(refuse), generator=generator)
        return clips, results, sum(generator.lengths)

    clips, results, frames = searched(settles=True)
    whole_clips, whole_results, whole_frames = searched(settles=False)
    assert clips == whole_clips
    if method != "best_of_n" and context < 2:
        assert frames < whole_frames
    for own, whole in zip(results, whole_results, strict=True):
        assert isinstance(own, Failure) == isinstance(whole, Failure)
        if isinstance(own, SearchResult):
            assert own.nodes == whole.nodes
            assert own.winner.clip.samples.tolist() == whole.winner.clip.samples.tolist()


def test_a_prompt_without_any_score_drops_out_says_where_and_the_others_go_on_unchanged() -> None:
    def too_long(item) -> str | None:
        return "too odd" if item.prompt == "text c" and len(heard(item)) == 6 else None

    unhindered = run(plan("sbs"))
    *rest, failure = run(plan("sbs"), verifier=FakeVerifier(too_long))
    assert [result.nodes for result in rest] == [result.nodes for result in unhindered[:2]]
    assert isinstance(failure, Failure)
    assert (failure.prompt.id, failure.verifier) == ("c", "fake")
    assert (failure.step, failure.slot, failure.reason) == (1, 0, "too odd")
    assert failure.ledger.frames == 6 * 8


def test_a_group_of_which_nothing_is_left_spends_nothing_more() -> None:
    generator = FakeGenerator()
    results = run(plan("sbs"), verifier=FakeVerifier(lambda item: "no"), generator=generator)
    assert all(isinstance(result, Failure) for result in results)
    assert generator.last is not None
    assert generator.last.calls.count("sample") == 1


def test_a_lost_server_ends_the_search() -> None:
    class Lost(FakeVerifier):
        def score(self, inputs):
            raise ServerUnreachable("gone")

    with pytest.raises(ServerUnreachable):
        run(plan("sbs"), verifier=Lost())


def test_frames_that_nobody_planned_are_a_budget_error() -> None:
    class Generous(FakeGenerator):
        def begin(self, *args, **kwargs):
            candidates = super().begin(*args, **kwargs)
            advance, candidates.frames = candidates.advance, 99
            candidates.advance = lambda frames, greedy=False: advance(frames + 1, greedy)
            return candidates

    with pytest.raises(BudgetError, match="spent 96 frames"):
        run(plan("sbs", 8, total=9), PROMPTS[:1], generator=Generous())


def test_bytes_and_seconds_are_shared_among_the_group() -> None:
    results = run(plan("best_of_n", 4))
    for result in results:
        assert result.ledger.uploaded_bytes == 400
        assert result.ledger.seconds["http"] == pytest.approx(1 / 3)
        assert result.ledger.seconds["decode"] > 0


@pytest.mark.parametrize("method", METHODS)
def test_all_leaves_are_given_where_they_are_asked_for_and_cost_nothing(method: str) -> None:
    p, generator = plan(method), FakeGenerator()
    verifier = build_verifier("perplexity", generator.checkpoint, None, None)
    without = search(p, PROMPTS, FakeGenerator(), verifier, SEED)
    with_leaves = search(p, PROMPTS, generator, verifier, SEED, keep_leaves=True)
    for bare, full in zip(without, with_leaves, strict=True):
        assert isinstance(bare, SearchResult)
        assert isinstance(full, SearchResult)
        assert bare.leaves == {}
        assert len(full.leaves) == p.held[-1]
        last = max(node.step for node in full.nodes)
        assert sorted(full.leaves) == [node.slot for node in full.nodes if node.step == last]
        assert full.leaves[full.winner.slot] is full.winner.clip
        assert (bare.ledger.frames, bare.ledger.clips) == (full.ledger.frames, full.ledger.clips)
        lengths = {clip.samples.shape for clip in full.leaves.values()}
        assert lengths == {full.winner.clip.samples.shape}
