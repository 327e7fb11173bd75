"""Successive halving: its numbers, its search against a plain one, and rows that leave a batch."""

import itertools
from collections import Counter
from collections.abc import Callable

import pytest
import torch

from src.budget import Cost, Plan, PlanError
from src.cells import SearchCell
from src.data.prompts import Prompt
from src.decoding.decoder import Decoder, Decoding, Sampling
from src.experiments.scaling_settings import ExperimentSettings
from src.experiments.settings import BenchmarkSettings, LatencySettings
from src.methods import METHODS, halved
from src.protocol import NoScore
from src.runs.settings import parse
from src.search import search
from src.tree.group import OVERFLOWED
from src.tree.node import Failure, SearchResult
from tests.generator import test_search_decoding
from tests.generator.fake_search import (
    RATE,
    FakeGenerator,
    FakeVerifier,
    continued,
    heard,
    value_of,
)
from tests.generator.random_models import condition, random_lm
from tests.generator.test_search_decoding import RandomGenerator, leaves

SEED = 7
PROMPTS = [Prompt(id=name, text=f"text {name}", key=f"key {name}") for name in ("a", "b", "c")]


def plan(n: int = 8, keep: float = 0.5, start: int = 0, total: int = 10, step: int = 3) -> Plan:
    own = {"keep": keep, "start": start}
    return METHODS["halving"].make_plan(n, total / RATE, step / RATE, RATE, own)


def run(p: Plan, verifier=None, generator=None, **options) -> list[SearchResult | Failure]:
    generator, verifier = generator or FakeGenerator(), verifier or FakeVerifier()
    return search(p, PROMPTS, generator, verifier, SEED, **options)


@pytest.mark.parametrize(
    ("n", "keep", "start", "held", "frames"),
    [
        # steps of 2, 2 and 1 s: 3.25 s of each of N0 where halves are whole
        (16, 0.5, 24, (24, 12, 6), 24 * 3.25 * 50),
        (16, 0.5, 0, (25, 12, 6), 2500 + 1200 + 300),  # as many as 16 whole clips
        (8, 0.5, 0, (12, 6, 3), 1950),
        (13, 0.5, 0, (20, 10, 5), 3250),
        (5, 0.25, 0, (10, 2, 1), 1250),
        (4, 1.0, 0, (4, 4, 4), 1000),
        (4, 0.0, 0, (8, 1, 1), 950),
        (1, 0.5, 0, (1, 1, 1), 250),
    ],
)
def test_what_it_holds_and_costs(n, keep, start, held, frames) -> None:
    p = METHODS["halving"].make_plan(n, 5, 2, RATE, {"keep": keep, "start": start})
    assert (p.candidates, p.held) == (held[0], held)
    assert p.expected() == Cost(frames, sum(held))


def test_it_begins_with_as_many_as_the_budget_is_for_and_no_more() -> None:
    for n, keep, step in itertools.product(range(1, 40), (0.1, 0.3, 0.5, 0.7, 1.0), (1, 3, 4, 10)):
        p = plan(n, keep, step=step)

        def frames(start: int, keep: float = keep, steps=p.steps) -> int:
            held = halved(start, keep, len(steps))
            return sum(number * of_step for number, of_step in zip(held, steps, strict=True))

        assert frames(p.candidates) == p.expected().frames <= n * 10 < frames(p.candidates + 1)
        assert p.candidates >= n


def test_a_start_beyond_the_budget_and_a_part_that_is_none_are_refused() -> None:
    with pytest.raises(PlanError, match=r"28 takes .* lower --start, or take --candidates 19"):
        METHODS["halving"].make_plan(16, 5, 2, RATE, {"keep": 0.5, "start": 28})
    for keep, complaint in ((1.5, "keep must be 1 or less"), (-1, "keep must be 0 or more")):
        with pytest.raises(PlanError, match=complaint):
            plan(keep=keep)
    swept = ("--method", "halving", "--pool_size", "0", "--verifiers", "pmi", "--budgets", "2")
    for wrong in (("--keeps", "1.5"), ("--starts", "20")):
        with pytest.raises(SystemExit):
            parse(ExperimentSettings, (*swept, *wrong))


@pytest.mark.parametrize(
    ("keep", "max_rows", "abreast"),
    [
        (0.5, 64, 4),  # 25 candidates each: two batches of two prompts
        (0.5, 25, 2),
        (0.5, 24, 2),
        (0.5, 19, 1),  # of two prompts the first steps would already be too much
        (0.9, 64, 3),  # later pasts of two batches would be more than a batch of whole clips has
    ],
)
def test_two_batches_go_side_by_side_where_what_is_left_of_them_fits(
    keep: float, max_rows: int, abreast: int
) -> None:
    p = METHODS["halving"].make_plan(16, 5, 2, 50, {"keep": keep})
    assert p.abreast(max_rows, p.length) == abreast
    held = [abreast * n * end for n, end in zip(p.held, (100, 200, 250), strict=True)]
    assert max(held) <= max(max_rows, p.candidates) * p.length


def test_of_clips_of_several_windows_two_batches_have_the_pasts_of_one_window() -> None:
    p = METHODS["halving"].make_plan(16, 20, 6, 50, {"keep": 0.5})
    assert p.abreast(64, p.length) == 4
    assert p.abreast(64, 500) == 2  # two batches' first step alone: 300 of 500 frames each


def test_its_flags_its_grid_and_its_names() -> None:
    asked = parse(BenchmarkSettings, ("--method", "halving", "--keep", "0.3", "--start", "9"))
    (of_asked,) = asked.plans(RATE)
    assert of_asked.held == halved(9, 0.3, 5)
    assert asked.parameters_in_words() == ", keep = 0.3, N0 = 9"
    assert parse(BenchmarkSettings, ("--method", "halving")).parameters_in_words() == ", keep = 0.5"
    swept = ("--method", "halving", "--pool_size", "0", "--verifiers", "pmi", "--budgets", "8")
    cells, _ = parse(ExperimentSettings, (*swept, "--keeps", "0.25", "0.5")).cells()
    assert [cell.name for cell in cells] == ["halving N=8 keep=0.25", "halving N=8 keep=0.5"]
    cells, _ = parse(LatencySettings, ("--method", "halving", "--budgets", "8")).cells()
    assert cells == [SearchCell("halving", 8, {"keep": 0.5, "start": 0})]
    assert "keep" not in parse(BenchmarkSettings, ("--method", "sbs")).decisive()


def plainly(
    p: Plan, prompt: Prompt, is_out: Callable[[list[int]], bool] = lambda tokens: False
) -> list[int] | int:
    """The winner's tokens, or the step in which nothing has a score."""
    pool: dict[int, list[int]] = {slot: [] for slot in range(p.candidates)}
    lost: set[int] = set()
    for step, frames in enumerate(p.steps):
        pool = {s: continued(own, frames, SEED, prompt.key, s) for s, own in pool.items()}
        lost |= {slot for slot, tokens in pool.items() if is_out(tokens)}
        scored = [slot for slot in pool if slot not in lost]
        scored.sort(key=lambda slot: (-value_of(prompt.text, pool[slot]), slot))
        if not scored:
            return step
        if step == len(p.steps) - 1:
            return pool[scored[0]]
        ranked = [*scored, *(slot for slot in pool if slot in lost)]
        pool = {slot: pool[slot] for slot in sorted(ranked[: p.held[step + 1]])}
    raise AssertionError


def ends_badly(tokens: list[int]) -> bool:
    return tokens[-1] % 3 > 0


def unlucky(tokens: list[int]) -> bool:
    """Once so, always so: as a model that has overflowed."""
    return any(token % 7 == 0 for token in tokens)


@pytest.mark.parametrize("out", ["no", "by the verifier", "by the model"])
def test_it_finds_what_a_plain_halving_finds_at_exactly_its_cost(out: str) -> None:
    is_out = {"no": lambda tokens: False, "by the verifier": ends_badly, "by the model": unlucky}
    seen: Counter[str] = Counter()
    for n, keep, step in itertools.product((1, 2, 5, 8), (0.3, 0.5, 0.8, 1.0), (2, 3, 10)):
        p, generator, verifier = plan(n, keep, step=step), FakeGenerator(), FakeVerifier()
        if out == "by the verifier":
            verifier = FakeVerifier(lambda item: "bad" if ends_badly(heard(item)) else None)
        if out == "by the model":
            generator = FakeGenerator(overflows=unlucky)
        for prompt, result in zip(PROMPTS, run(p, verifier, generator), strict=True):
            expected = plainly(p, prompt, is_out[out])
            if isinstance(result, Failure):
                assert result.step == expected
                assert (result.reason == "bad") == (out == "by the verifier")
                assert (result.reason == OVERFLOWED.reason) == (out == "by the model")
                seen["failed"] += 1
                continue
            assert result.winner.tokens[0].tolist() == expected
            assert Cost(result.ledger.frames, result.ledger.clips) == p.expected()
            for node in result.nodes:
                if isinstance(node.score, NoScore):
                    assert not node.kept
                    seen["filled a place"] += node.step > 0 and node.slot in {
                        n.slot for n in result.nodes if n.step == node.step - 1 and not n.kept
                    }
    assert ({"failed", "filled a place"} <= {what for what in seen if seen[what]}) == (out != "no")


def test_the_tree_has_everyone_and_those_that_are_left_are_the_pools() -> None:
    """Every candidate scored is what best_of_n's pool has in its slot, as far as it went."""
    p = plan(8)
    assert p.held == (15, 7, 3, 1)
    for prompt, result in zip(PROMPTS, run(p, keep_leaves=True), strict=True):
        before: set[int] = set()
        for step, end in enumerate(itertools.accumulate(p.steps)):
            nodes = [node for node in result.nodes if node.step == step]
            assert len(nodes) == p.held[step]
            for node in nodes:
                tokens = continued([], end, SEED, prompt.key, node.slot)
                assert node.score.value == value_of(prompt.text, tokens)
                assert node.parent == (node.slot if step else None)
            assert before <= {node.slot for node in nodes}
            before = {node.slot for node in nodes if node.kept}
            dropped = [node.score.value for node in nodes if not node.kept]
            assert min(n.score.value for n in nodes if n.kept) >= max(dropped, default=-1)
        assert list(result.leaves) == [result.winner.slot]


def test_with_nothing_dropped_it_is_best_of_n() -> None:
    pool = METHODS["best_of_n"].make_plan(6, 10 / RATE, 3 / RATE, RATE, {})
    for one, other in zip(run(plan(6, keep=1)), run(pool), strict=True):
        assert (one.winner.slot, one.winner.score) == (other.winner.slot, other.winner.score)
        assert one.winner.tokens.tolist() == other.winner.tokens.tolist()
    (cell,) = parse(LatencySettings, ("--method", "halving", "--budgets", "1")).cells()[0]
    assert cell.simplest(5, 2) == SearchCell("baseline", 1)
    assert SearchCell("halving", 4, cell.parameters).simplest(2, 2) == SearchCell("best_of_n", 4)
    given = SearchCell("halving", 4, {"keep": 0.5, "start": 3})
    assert given.simplest(2, 2) == given
    assert given.plan(2, 2, RATE).candidates == 3


@pytest.mark.parametrize("context", [0, 1])
def test_what_is_heard_is_the_whole_clip_also_where_only_its_end_is_rendered(context: int) -> None:
    """Beside a prompt that fails, and with candidates that only fill a place and are not heard."""
    results = []
    for settles in (True, False):
        generator, clips = FakeGenerator(context), []
        if not settles:
            generator.settled = lambda clip, frames: None

        def refuse(item, clips=clips) -> str | None:
            clips.append(heard(item))
            late = item.prompt == "text b" and len(clips[-1]) > 5
            return "odd" if late or sum(clips[-1]) % 5 == 0 else None

        found = run(plan(8, 0.95, total=16), FakeVerifier(refuse), generator)
        assert [isinstance(result, Failure) for result in found] == [False, True, False]
        assert len(clips) < sum(result.ledger.clips for result in found)
        results.append((clips, found[0].nodes, found[2].nodes))
    assert results[0] == results[1]


# On the decoder itself


@pytest.fixture(scope="module")
def lm() -> torch.nn.Module:
    return random_lm()


def begin(lm, candidates: int = 6, max_rows: int = 64, graphs: bool = False) -> Decoding:
    texts = ("a slow harp", "fast loud drums with a guitar and more words")
    decoder = Decoder(lm, Sampling(top_k=20), max_rows=max_rows, graphs=graphs)
    return decoder.begin([condition(lm, t) for t in texts], candidates, 24, texts, 1)


@pytest.mark.parametrize("max_rows", [64, 7, 4])
def test_rows_that_stay_are_what_they_would_have_been_to_the_token(lm, max_rows: int) -> None:
    whole = begin(lm, max_rows=max_rows)
    whole.advance(24)
    rows = list(range(12))
    kept = begin(lm, max_rows=max_rows)
    for left in ([0, 3, 4, 5, 6, 7, 9, 10], [1, 2, 4, 7], [0, 3]):
        kept.advance(7)
        mark = kept.mark()
        kept.advance(2, greedy=True)
        kept.rewind(mark)
        before = kept.nbytes
        kept.keep(left)
        assert kept.nbytes < before
        rows = [rows[row] for row in left]
        assert torch.equal(kept.tokens(), whole.tokens()[rows][..., : kept.finished])
    kept.advance(3)
    assert rows == [3, 10]
    assert torch.equal(kept.tokens(), whole.tokens()[rows])
    torch.testing.assert_close(kept.mean_log_prob(), whole.mean_log_prob()[rows])


def test_rows_leave_between_branches_and_marks_stay_good(lm) -> None:
    """Against the same branches where all rows stay: those that leave change no others."""
    results = []
    for leaves_batch in (False, True):
        decoding = begin(lm)
        decoding.advance(6)
        decoding.select([2, 2, 2, 5, 5, 5, 8, 8, 8, 11, 11, 11])
        decoding.advance(5)
        mark = decoding.mark()
        decoding.advance(3, greedy=True)
        kept = [0, 3, 5, 6, 9, 11]
        if leaves_batch:
            decoding.keep(kept)
        decoding.rewind(mark)
        branches = [0, 0, 2, 3, 3, 5]
        if not leaves_batch:
            everyone = list(range(12))
            for row, source in zip(kept, branches, strict=True):
                everyone[row] = kept[source]
            branches = everyone
        decoding.select(branches)
        decoding.advance(6)
        results.append(decoding.tokens() if leaves_batch else decoding.tokens()[kept])
    assert torch.equal(*results)


@pytest.mark.parametrize("rows", [[], [0, 1, 2], [1, 0, 6, 7], [0, 1, 2, 6], [0, 0, 6, 6], [0, 12]])
def test_rows_of_other_numbers_or_in_another_order_cannot_be_kept(lm, rows) -> None:
    decoding = begin(lm)
    decoding.advance(3)
    with pytest.raises(ValueError, match="equally many of each prompt"):
        decoding.keep(rows)


@pytest.mark.parametrize("max_rows", [64, 3])
def test_on_the_real_decoder_too_its_winner_is_the_pools(max_rows: int) -> None:
    """Halving of all in every slot, against the pool of its N0: tokens, scores, log-probability."""
    small = random_lm(dim=test_search_decoding.DIM, card=32)
    halves = METHODS["halving"].make_plan(8, 20 / RATE, 6 / RATE, RATE, {})
    pool = METHODS["best_of_n"].make_plan(halves.candidates, 20 / RATE, 6 / RATE, RATE, {})
    assert halves.held == (15, 7, 3, 1)
    of_plan = [
        search(p, PROMPTS, RandomGenerator(small, max_rows), test_search_decoding.VERIFIER, seed=1)
        for p in (halves, pool)
    ]
    for one, other in zip(*of_plan, strict=True):
        assert Cost(one.ledger.frames, one.ledger.clips) == halves.expected()
        scores = dict(enumerate(leaves(other)))
        assert one.winner.score.value == pytest.approx(scores[one.winner.slot], rel=1e-5)
    # Another search of the pool, which keeps all its clips, has the winner's to the token.
    generator = RandomGenerator(small, max_rows)
    whole = generator.begin([p.text for p in PROMPTS], [p.key for p in PROMPTS], 15, 20, 1)
    whole.advance(20)
    for prompt, result in enumerate(of_plan[0]):
        row = prompt * 15 + result.winner.slot
        assert result.winner.tokens.tolist() == whole.tokens()[row].tolist()
