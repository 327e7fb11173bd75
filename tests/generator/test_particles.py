"""smc, power, waves and soft best-of-N on an exact tiny tree: against plain versions of each."""

import itertools
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from src.budget import Cost, Plan
from src.cells import SearchCell
from src.data.prompts import Prompt
from src.experiments.scaling_settings import ExperimentSettings
from src.experiments.settings import BenchmarkSettings
from src.methods import METHODS
from src.protocol import NoScore, Score
from src.runs.settings import parse
from src.search import search, systematic
from src.stats.stopping import is_enough
from src.tree.group import OVERFLOWED
from src.tree.node import Failure, SearchResult, copies
from tests.generator.fake_search import (
    RATE,
    FakeGenerator,
    FakeVerifier,
    continued,
    heard,
    log_drawn,
    value_of,
)

PROMPTS = [Prompt(id=name, text=f"text {name}", key=f"key {name}") for name in ("a", "b", "c")]
SEED, N = 7, 8


def plan(method: str, n: int = N, step: int = 3, total: int = 10, **own: float) -> Plan:
    return METHODS[method].make_plan(n, total / RATE, step / RATE, RATE, own)


def run(p: Plan, prompts=PROMPTS, verifier=None, generator=None, seed: int = SEED, **options):
    verifier, generator = verifier or FakeVerifier(), generator or FakeGenerator()
    return search(p, prompts, generator, verifier, seed, **options)


def pool_of(prompt: Prompt, n: int, frames: int = 10, seed: int = SEED) -> list[list[int]]:
    return [continued([], frames, seed, prompt.key, slot) for slot in range(n)]


def tokens(result: SearchResult) -> list[int]:
    assert isinstance(result, SearchResult), result
    return result.winner.tokens[0].tolist()


def trees(results) -> list[list]:
    return [result.nodes for result in results]


# Particles


@pytest.mark.parametrize("start", [0.0, 0.3, 1 - 2.0**-53])
def test_systematic_resampling_gives_each_particle_its_share_but_for_less_than_one(start) -> None:
    rng = np.random.default_rng(3)
    for n in (1, 2, 7, 40):
        weights = rng.dirichlet(np.full(n, 0.3))
        counts = np.array(systematic(weights, start))
        assert counts.sum() == n
        assert np.abs(counts - n * weights).max() < 1
    assert systematic(np.array([0.0, 1.0, 0.0]), start) == [0, 3, 0]


def test_a_particles_mean_number_of_copies_is_its_share() -> None:
    weights = np.array([0.05, 0.5, 0.15, 0.3])
    counts = np.mean([systematic(weights, (i + 0.5) / 1000) for i in range(1000)], axis=0)
    assert counts == pytest.approx(4 * weights, abs=2e-3)


def test_copies_fill_the_freed_slots() -> None:
    assert copies([1, 1, 1]) == [0, 1, 2]
    assert copies([0, 3, 0, 1]) == [1, 1, 1, 3]
    assert copies([2, 0, 2, 0]) == [0, 0, 2, 2]


def filtered(p: Plan, prompt: Prompt, potential, is_out=lambda tokens: False):
    """A plain particle filter: at the end tokens and weights, and how often it resampled; or the
    step in which all are out.

    potential: of a particle's tokens; the first step's spread is taken out where the method is smc.
    """
    n, particles, resampled = p.candidates, [[] for _ in range(p.candidates)], 0
    logs, before, end = np.zeros(n), np.zeros(n), 0
    for step, frames in enumerate(p.steps):
        if step:
            weights = np.exp(logs - logs.max())
            share = weights.sum() ** 2 / (weights**2).sum() / n
            if share < 0.5 or not weights.all():
                left = 1 - end / sum(p.steps)
                if share < 0.5 and end < sum(p.steps) / 2:
                    weights = weights ** (1 / max(1, left / share))
                u = uniform_of(prompt, step - 1)
                ends = np.cumsum(weights) / weights.sum()
                owners = [int(np.argmax(ends > (i + u) / n)) for i in range(n)]
                counts = Counter(owners)
                free = [slot for slot in range(n) if not counts[slot]]
                parents = list(range(n))
                for owner in sorted(counts):
                    for _ in range(counts[owner] - 1):
                        parents[free.pop(0)] = owner
                particles = [particles[parent] for parent in parents]
                logs, before, resampled = np.zeros(n), before[parents], resampled + 1
        particles = [continued(x, frames, SEED, prompt.key, s) for s, x in enumerate(particles)]
        end += frames
        out = [is_out(x) for x in particles]
        if all(out):
            return step
        now = np.array([potential(x) for x in particles], dtype=float)
        if not step and p.method.name == "smc":
            spread = np.std(now[~np.array(out)])
        if p.method.name == "smc":
            now = p.parameters["temper"] * now / spread if spread else 0 * now
        logs, before = np.where(out, -np.inf, logs + now - before), now
    return particles, np.exp(logs - logs.max()), resampled


def uniform_of(prompt: Prompt, *what: object) -> float:
    """The random number that belongs to seed, prompt and `what`."""

    class Known:
        seed, prompts = SEED, [prompt]

    from src.search import uniform

    return uniform(Known, 0, *what)


def ends_badly(tokens: list[int]) -> bool:
    return tokens[-1] % 5 > 2


def likely(alpha: float, tilt: float):
    def potential(tokens: list[int]) -> float:
        with_text, without = (-(sum(tokens) % by) / by - 0.01 for by in (97, 89))
        gained = len(tokens) * (with_text - without)
        return (alpha - 1) * sum(map(log_drawn, tokens)) + tilt * gained

    return potential


@pytest.mark.parametrize("refuses", [False, True])
@pytest.mark.parametrize("temper", [1.0, 2.0, 6.0])
@pytest.mark.parametrize("draw", [0, 1])
def test_smc_is_a_plain_particle_filter(temper: float, refuses: bool, draw: int) -> None:
    seen: Counter[str] = Counter()
    is_out = ends_badly if refuses else lambda tokens: False
    for n, step in itertools.product((2, 5, 8, 16), (2, 3, 10)):
        p = plan("smc", n, step, temper=temper, draw=draw)
        verifier = FakeVerifier(lambda item: "bad" if is_out(heard(item)) else None)
        for prompt, result in zip(PROMPTS, run(p, verifier=verifier), strict=True):
            found = filtered(p, prompt, lambda x, text=prompt.text: value_of(text, x), is_out)
            if isinstance(result, Failure):
                assert result.step == found
                seen["failed"] += 1
                continue
            particles, weights, resampled = found
            values = [-1.0 if is_out(x) else value_of(prompt.text, x) for x in particles]
            best = int(np.argmax(values))
            if draw:
                ends = np.cumsum(weights) / weights.sum()
                best = int(np.argmax(ends >= uniform_of(prompt, "draw")))
                seen["drawn another"] += values[best] < max(values)
            assert tokens(result) == particles[best]
            assert result.winner.slot == best
            assert Cost(result.ledger.frames, result.ledger.clips) == p.expected()
            assert p.expected() == Cost(10 * n, n * len(p.steps))
            seen["resampled"] += resampled
    assert seen["resampled"]
    assert bool(seen["failed"]) == refuses
    assert bool(seen["drawn another"]) == bool(draw)


def test_equal_scores_have_no_spread_whatever_their_deviation_rounds_to() -> None:
    class EqualAtFirst(FakeVerifier):
        def score(self, inputs):
            later = super().score(inputs)
            return [Score(value=0.1)] * len(later) if inputs[0].frames == 3 else later

    assert np.std([0.1] * 6) > 0
    found = run(plan("smc", 6), verifier=EqualAtFirst())
    assert all(node.parent in (None, node.slot) for result in found for node in result.nodes)
    for one, other in zip(found, run(plan("best_of_n", 6)), strict=True):
        assert tokens(one) == tokens(other)


@pytest.mark.filterwarnings("error")
def test_a_prompt_that_fails_leaves_no_warning_of_its_weights() -> None:
    for result in run(plan("power"), generator=FakeGenerator(overflows=lambda x: len(x) > 3)):
        assert isinstance(result, Failure)
        assert result.step == 1


@pytest.mark.parametrize(("alpha", "tilt"), [(1.5, 0.0), (3.0, 0.0), (1.0, 0.5), (0.5, 2.0)])
@pytest.mark.parametrize("overflows", [False, True])
def test_power_weighs_by_how_tokens_were_drawn_and_asks_the_verifier_at_the_end_alone(
    alpha: float, tilt: float, overflows: bool
) -> None:
    def is_out(tokens: list[int]) -> bool:  # once so, always so
        return overflows and any(token % 23 == 0 for token in tokens)

    resampled = 0
    for draw, n in itertools.product((0, 1), (2, 8, 16)):
        p = plan("power", n, alpha=alpha, tilt=tilt, draw=draw)
        generator = FakeGenerator(overflows=is_out)
        for prompt, result in zip(PROMPTS, run(p, generator=generator), strict=True):
            found = filtered(p, prompt, likely(alpha, tilt), is_out)
            if isinstance(result, Failure):
                assert result.step == found
                assert result.reason == OVERFLOWED.reason
                continue
            particles, weights, times = found
            values = [-1.0 if is_out(x) else value_of(prompt.text, x) for x in particles]
            winner = int(np.argmax(values))
            if draw:
                ends = np.cumsum(weights) / weights.sum()
                winner = int(np.argmax(ends >= uniform_of(prompt, "draw")))
            assert tokens(result) == particles[winner]
            assert Cost(result.ledger.frames, result.ledger.clips) == Cost(10 * n, n)
            resampled += times
            first = [node.score for node in result.nodes if node.step == 0]
            for slot, score in enumerate(first):
                own = continued([], 3, SEED, prompt.key, slot)
                if is_out(own):
                    assert isinstance(score, NoScore)
                else:
                    assert isinstance(score, Score)
                    assert score.value == pytest.approx(likely(alpha, tilt)(own), rel=1e-5)
    assert resampled


def test_the_particles_of_power_follow_the_distribution_to_the_power() -> None:
    """Drawn winners of many seeds, against weights of all outcomes: two frames, few tokens."""

    class Coin(FakeGenerator):
        """Tokens 0, 1 or 2, as the hash has it, with probabilities .5, .3, .2."""

        def begin(self, *args, **options):
            made = super().begin(*args, **options)
            advance = made.advance

            def to_coins(frames: int, greedy: bool = False) -> None:
                before = [len(history) for history in made.histories]
                made.histories = [
                    [x * 1000 + i for i, x in enumerate(history)] for history in made.histories
                ]
                advance(frames, greedy)
                for row, history in enumerate(made.histories):
                    new = [0 if x < 500 else 1 if x < 800 else 2 for x in history[before[row] :]]
                    old = [x // 1000 for x in history[: before[row]]]
                    made.histories[row] = old + new

            def drawn():
                import torch

                logs = np.log([0.5, 0.3, 0.2])
                return torch.tensor([float(np.mean(logs[h])) for h in made.histories])

            made.advance, made.mean_log_sampled = to_coins, drawn
            return made

    p = plan("power", 32, 1, 2, alpha=3.0, draw=1)
    counts = Counter(
        tuple(tokens(result))
        for seed in range(150)
        for result in run(p, generator=Coin(), seed=seed)
    )
    of_one = np.array([0.5, 0.3, 0.2]) ** 3
    expected = np.outer(of_one, of_one).ravel() / of_one.sum() ** 2
    found = np.array([counts[pair] for pair in itertools.product(range(3), repeat=2)])
    likely = expected * found.sum() >= 5
    assert found[~likely].sum() <= 20
    scaled = expected[likely] / expected[likely].sum() * found[likely].sum()
    assert stats.chisquare(found[likely], scaled).pvalue > 1e-3
    untouched = np.outer([0.5, 0.3, 0.2], [0.5, 0.3, 0.2]).ravel()[likely]
    untouched *= found[likely].sum() / untouched.sum()
    assert stats.chisquare(found[likely], untouched).pvalue < 1e-9


@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("smc", {"temper": 0}),
        ("power", {"alpha": 1}),
        ("soft_best_of_n", {"soften": 0}),
        ("waves", {"price": 0}),
        ("waves", {"price": 0, "wave": 3}),
        ("waves", {"wave": 50}),
    ],
)
def test_without_what_it_adds_it_is_best_of_n(method: str, own: dict[str, float]) -> None:
    for one, other in zip(run(plan(method, **own)), run(plan("best_of_n")), strict=True):
        assert (one.winner.slot, one.winner.score) == (other.winner.slot, other.winner.score)
        assert tokens(one) == tokens(other)
        last = [(n.slot, n.score) for n in one.nodes if n.step == max(x.step for x in one.nodes)]
        assert last == [(n.slot, n.score) for n in other.nodes]


# Soft best-of-N


def test_soft_best_of_n_draws_by_softmax() -> None:
    p, prompt = plan("soft_best_of_n", 4, soften=10.0), PROMPTS[0]
    counts, expected = np.zeros(4), np.zeros(4)
    same = FakeVerifier()
    same.score = lambda inputs: [Score(value=5.0 * i, components={}) for i, _ in enumerate(inputs)]
    for seed in range(2000):
        (result,) = run(p, [prompt], same, seed=seed)
        counts[result.winner.slot] += 1
    expected = np.exp(np.arange(4) / 2) / np.exp(np.arange(4) / 2).sum() * 2000
    assert stats.chisquare(counts, expected).pvalue > 1e-3


# Waves


@pytest.mark.parametrize("refuses", [False, True])
@pytest.mark.parametrize(("n", "wave"), [(16, 4), (10, 4), (7, 1), (9, 2), (3, 4)])
def test_waves_stop_by_the_rule_and_spend_what_they_took(n: int, wave: int, refuses) -> None:
    seen: Counter[str] = Counter()
    is_out = ends_badly if refuses else lambda tokens: False
    for price in (0.01, 0.05, 0.2):
        p = plan("waves", n, wave=wave, price=price)
        assert p.expected() == Cost(10 * n, n)
        verifier = FakeVerifier(lambda item: "bad" if is_out(heard(item)) else None)
        results = run(p, verifier=verifier, keep_leaves=True)
        for prompt, result in zip(PROMPTS, results, strict=True):
            pool = pool_of(prompt, n)
            values = np.array([np.nan if is_out(x) else value_of(prompt.text, x) for x in pool])
            taken = min(n, wave)
            while taken < n and not is_enough(values[:taken], price):
                taken = min(n, taken + wave)
            assert Cost(result.ledger.frames, result.ledger.clips) == Cost(10 * taken, taken)
            assert [node.slot for node in result.nodes] == list(range(taken))
            if isinstance(result, Failure):
                assert np.isnan(values).all()
                continue
            assert result.winner.slot == np.nanargmax(values[:taken])
            assert tokens(result) == pool[result.winner.slot]
            assert [x.slot for x in result.nodes if x.kept] == [result.winner.slot]
            assert set(np.flatnonzero(~np.isnan(values[:taken]))) <= set(result.leaves)
            assert result.ledger.uploaded_bytes > 0
            seen["stopped" if taken < n else "went on"] += 1
    assert n <= wave or seen["stopped"]


def test_a_prompts_waves_do_not_depend_on_those_of_others() -> None:
    p = plan("waves", 16, price=0.05)
    assert len({result.ledger.clips for result in run(p)}) > 1
    assert trees(run(p)) == [trees(run(p, [prompt]))[0] for prompt in PROMPTS]


# As settings


def test_what_is_best_of_n_by_definition() -> None:
    for cell in (
        SearchCell("smc", 8, {"temper": 0, "draw": 0}),
        SearchCell("soft_best_of_n", 8, {"soften": 0}),
        SearchCell("waves", 8, {"wave": 4, "price": 0}),
    ):
        assert cell.simplest(5, 2) == SearchCell("best_of_n", 8)
    for cell in (
        SearchCell("smc", 8, {"temper": 1, "draw": 0}),
        SearchCell("smc", 8, {"temper": 0, "draw": 1}),
        SearchCell("soft_best_of_n", 8, {"soften": 0.5}),
        SearchCell("waves", 8, {"wave": 4, "price": 0.1}),
        SearchCell("power", 8, {"alpha": 1.1, "tilt": 0, "draw": 0}),
    ):
        assert cell.simplest(5, 2) == cell
        assert SearchCell(cell.method, 1, cell.parameters).simplest(5, 2).method in (
            "baseline",
            "smc",
        )
    assert SearchCell("smc", 8, {"temper": 1, "draw": 0}).simplest(2, 2).method == "best_of_n"


def test_tilt_needs_guidance() -> None:
    asked = ("--method", "power", "--guidance", "1")
    assert parse(BenchmarkSettings, asked).guidance == 1
    swept = (*asked, "--pool_size", "0", "--verifiers", "perplexity", "--budgets", "4")
    for kind, flags in ((BenchmarkSettings, asked), (ExperimentSettings, swept)):
        tilted = (*flags, "--tilt" + "s" * (kind is ExperimentSettings), "0.5")
        with pytest.raises(SystemExit):
            parse(kind, tilted)
