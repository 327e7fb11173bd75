"""Measures of sets: exact, unbiased where they say so, and what chance gives."""

from itertools import combinations, product

import numpy as np
import pytest

from src.stats.best_of_n import best_of_n_weights
from src.stats.intervals import StatsError
from src.stats.sets import (
    STATISTICS,
    Clips,
    expected_pairs,
    frechet_to,
    gaussian,
    kernel_to,
    mean_of_pairs,
    null,
    p_of_difference,
    spread,
)


def clips(random: np.random.Generator, prompts: int, shift: float) -> list[np.ndarray]:
    return [random.normal(size=(2, 5)) + shift for _ in range(prompts)]


def test_a_method_that_is_nearer_to_the_references_is_told_from_the_baseline() -> None:
    random = np.random.default_rng(5)
    references = frechet_to(clips(random, 40, 0.0))
    near, far = clips(random, 40, 0.1), clips(random, 40, 1.0)
    assert p_of_difference(near, far, references, permutations=199) == 1 / 200


def test_p_is_spread_evenly_where_the_methods_do_not_differ() -> None:
    random = np.random.default_rng(6)
    values = []
    for _ in range(100):
        references = frechet_to(clips(random, 12, 0.0))
        first, second = clips(random, 12, 0.5), clips(random, 12, 0.5)
        values.append(p_of_difference(first, second, references, permutations=49))
    assert np.mean(np.array(values) <= 0.1) < 0.2
    assert 0.4 < np.mean(values) < 0.6


def test_the_same_clips_are_no_evidence_of_a_difference() -> None:
    random = np.random.default_rng(7)
    references, same = clips(random, 6, 0.0), clips(random, 6, 0.0)
    for statistic in STATISTICS.values():
        assert p_of_difference(same, same, statistic(references), permutations=20) == 1.0


def by_double_loop(own: Clips, theirs: Clips) -> float:
    """100 times the unbiased MMD^2, as its formula has it."""
    x, y = ([np.mean(clip, axis=0) for clip in of] for of in (own, theirs))
    width = np.median([np.linalg.norm(a - b) for a, b in combinations(y, 2)])

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-(np.linalg.norm(a - b) ** 2) / (2 * width**2)))

    pairs = [(i, j) for i, j in product(range(len(x)), repeat=2) if i != j]
    terms = [k(x[i], x[j]) + k(y[i], y[j]) - 2 * k(x[i], y[j]) for i, j in pairs]
    return 100 * float(np.mean(terms))


def test_the_kernel_distance_is_that_of_its_formula() -> None:
    random = np.random.default_rng(1)
    for shift in (0.0, 0.4):
        own, theirs = clips(random, 9, shift), clips(random, 9, 0.0)
        assert kernel_to(theirs)(own) == pytest.approx(by_double_loop(own, theirs))


def test_the_kernel_distance_is_unbiased_also_where_clip_and_reference_share_a_prompt() -> None:
    random = np.random.default_rng(2)
    found = []
    for _ in range(2000):
        prompts = [random.normal(size=(1, 5)) for _ in range(8)]
        noise = (clips(random, 8, 0) for _ in range(2))
        own, theirs = ([p + x for p, x in zip(prompts, of, strict=True)] for of in noise)
        found.append(kernel_to(theirs)(own))
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))
    assert min(found) < 0 < max(found)


def test_chance_makes_a_frechet_distance_of_few_clips_large_and_a_kernel_distance_none() -> None:
    random = np.random.default_rng(3)
    few, many = (
        null("frechet", clips(random, n, 0), clips(random, n, 0), permutations=50) for n in (8, 80)
    )
    assert few.mean > 5 * many.mean > 0
    kernel = null("kernel", clips(random, 8, 0), clips(random, 8, 0), permutations=50)
    assert kernel.low < 0 < kernel.high
    # a difference between clips and references is hardly a part of what chance gives
    far, near = clips(random, 80, 1.0), clips(random, 80, 0.0)
    for statistic in ("frechet", "kernel"):
        chance = null(statistic, far, near, permutations=50)
        assert STATISTICS[statistic](near)(far) > 4 * chance.high


def test_of_the_spread_chance_is_the_references_own() -> None:
    random = np.random.default_rng(4)
    own, theirs = clips(random, 6, 0.0), clips(random, 7, 0.0)
    x = [clip.mean(0) for clip in theirs]
    expected = np.mean([np.linalg.norm(a - b) for a, b in combinations(x, 2)])
    assert null("spread", own, theirs).mean == pytest.approx(expected) == spread(theirs)


def test_winners_of_pools_are_as_far_apart_as_all_draws_are_on_average() -> None:
    """Weights give what enumerating the subsets of every pool gives."""
    random = np.random.default_rng(5)
    prompts, m, n = 3, 4, 2
    vectors, scores = random.normal(size=(prompts, m, 2)), random.normal(size=(prompts, m))
    weights = np.array([best_of_n_weights(own, [n])[0] for own in scores])[None]

    def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.linalg.norm(a[:, None] - b[None], axis=-1)

    winners = [[max(s, key=own.__getitem__) for s in combinations(range(m), n)] for own in scores]
    draws = [
        np.mean([np.linalg.norm(vectors[a, chosen[a]] - vectors[b, chosen[b]]) for a, b in pairs])
        for chosen in product(*winners)
        for pairs in [list(combinations(range(prompts), 2))]
    ]
    found = mean_of_pairs(expected_pairs(weights, vectors, distance))
    assert found == pytest.approx(np.mean(draws))


def test_what_has_no_number_is_an_error() -> None:
    one = [np.zeros((2, 3))]
    for call in (lambda: spread(one), lambda: kernel_to(one), lambda: kernel_to(one * 3)):
        with pytest.raises(StatsError, match=r"two clips or more|different ones"):
            call()
    assert gaussian(np.zeros((1, 2)), np.array([[3.0, 4.0]]), 5.0) == pytest.approx(np.exp(-0.5))
