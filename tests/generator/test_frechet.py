"""The Frechet distance against a published implementation and closed forms."""

import numpy as np
import pytest
import torch
from torchmetrics.image.fid import _compute_fid

from src.stats.frechet import distance
from src.stats.intervals import StatsError


def correlated(random: np.random.Generator, n: int, dimensions: int) -> np.ndarray:
    mixing = random.normal(size=(dimensions, dimensions))
    return random.normal(size=(n, dimensions)) @ mixing + random.normal(size=dimensions)


def by_torchmetrics(a: np.ndarray, b: np.ndarray) -> float:
    (m1, s1), (m2, s2) = (
        (torch.from_numpy(x.mean(0)), torch.from_numpy(np.cov(x, rowvar=False))) for x in (a, b)
    )
    return float(_compute_fid(m1, s1, m2, s2))


# With fewer vectors than dimensions singular values are taken, else eigenvalues.
@pytest.mark.parametrize(("n", "m"), [(26, 30), (200, 60), (60, 200), (1000, 1000)])
def test_the_distance_is_that_of_torchmetrics(n: int, m: int) -> None:
    random = np.random.default_rng(n + m)
    a, b = correlated(random, n, 25), correlated(random, m, 25)
    assert distance(a, b) == pytest.approx(by_torchmetrics(a, b), rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (10, 15), (10, 300), (300, 10)])
def test_the_distance_is_exact_where_covariances_are_singular(n: int, m: int) -> None:
    random = np.random.default_rng(n * m)
    a, b = correlated(random, n, 40), correlated(random, m, 40)
    s1, s2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # tr((S1 S2)^(1/2)) = tr((S1^(1/2) S2 S1^(1/2))^(1/2)), whose matrices are symmetric.
    values, vectors = np.linalg.eigh(s1)
    half = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    middle = np.linalg.eigvalsh(half @ s2 @ half)
    root = np.sqrt(middle[middle > middle.max() * 1e-11]).sum()
    shift = ((a.mean(0) - b.mean(0)) ** 2).sum()
    expected = shift + np.trace(s1) + np.trace(s2) - 2 * root
    assert distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_dimensions_that_never_move_add_nothing() -> None:
    random = np.random.default_rng(8)
    a, b = correlated(random, 90, 6), correlated(random, 90, 6)
    dead = np.zeros((90, 30))
    expected = distance(a, b)
    assert distance(np.hstack([a, dead]), np.hstack([b, dead])) == pytest.approx(expected, rel=1e-6)


def test_a_set_is_at_no_distance_from_itself_in_any_order_and_both_ways_are_the_same() -> None:
    random = np.random.default_rng(2)
    for n in (8, 300):
        a, b = correlated(random, n, 20), correlated(random, n, 20)
        assert distance(a, a[::-1]) == pytest.approx(0, abs=1e-9 * np.trace(np.cov(a.T)))
        assert distance(a, b) == pytest.approx(distance(b, a))


def test_float32_embeddings_are_computed_in_float64() -> None:
    a = correlated(np.random.default_rng(4), 60, 10).astype(np.float32)
    assert distance(a, a[:30]) == distance(a.astype(np.float64), a[:30].astype(np.float64))


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((1, 3)), np.zeros((5, 3)), "two vectors"),
        (np.zeros((5, 3)), np.zeros((1, 3)), "two vectors"),
        (np.zeros(5), np.zeros((5, 3)), "two vectors"),
        (np.zeros((5, 4)), np.zeros((5, 3)), "4 and of 3 dimensions"),
        (np.full((5, 3), np.nan), np.zeros((5, 3)), "not finite"),
    ],
)
def test_what_has_no_distance_is_an_error(a: np.ndarray, b: np.ndarray, message: str) -> None:
    with pytest.raises(StatsError, match=message):
        distance(a, b)
