from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

import scalex.reference.novelty
from scalex.reference.novelty import find_unknown


def make_groups(sizes: Sequence[int], distances: Sequence[float], seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return distances and latents of groups of similar cells, with the noise of single cells."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(len(sizes)), sizes)
    latent = 10 * rng.normal(size=(len(sizes), 5))[group] + rng.normal(size=(len(group), 5))
    return np.asarray(distances)[group] * np.exp(0.3 * rng.normal(size=len(group))), latent


def naive(distance: NDArray[np.float64], latent: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return the same by loops, with plain expectation-maximization from other starts."""
    near = [np.argsort(((latent - cell) ** 2).sum(1))[:15] for cell in latent]
    x = np.array([np.log(distance[rows]).mean() for rows in near])
    best, result = -np.inf, np.zeros(len(x), bool)
    for share in (0.5, 0.8, 0.95):
        mean, weight, variance = np.quantile(x, [share / 2, (1 + share) / 2]), np.array([share, 1 - share]), x.var() / 4
        for _ in range(2000):
            density = weight * np.exp(-((x[:, None] - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
            own = density / density.sum(1, keepdims=True)
            weight, mean = own.mean(0), (own * x[:, None]).sum(0) / own.sum(0)
            variance = (own * (x[:, None] - mean) ** 2).sum() / len(x) + 1e-6
        likelihood = np.log(density.sum(1)).sum()
        if likelihood > best + 1e-6:
            best = likelihood
            result = (own[:, mean.argmax()] > 0.5) & (np.ptp(mean) > np.log(2)) | (x > np.log(2))
    return result


@pytest.mark.parametrize("distances", [(0.3, 0.3, 0.35, 0.9), (0.3, 0.4, 0.3, 0.45), (0.8, 0.7, 0.9, 2.6), (2.5, 2.5, 2.5, 2.5)])
@pytest.mark.parametrize("sizes", [(100, 80, 60, 30), (60, 30, 20, 150)])
def test_cells_are_those_of_a_loop(sizes: tuple[int, ...], distances: tuple[float, ...]) -> None:
    given = make_groups(sizes, distances)
    assert find_unknown(*given).tolist() == naive(*given).tolist()


@pytest.mark.parametrize("n_new", [20, 100, 400])
def test_a_group_that_lies_twice_as_far_is_unknown(n_new: int) -> None:
    distance, latent = make_groups([150, 100, 50, n_new], [0.2, 0.22, 0.25, 0.6])
    found = find_unknown(distance, latent)
    assert found[300:].mean() > 0.95
    assert found[:300].mean() < 0.01


@pytest.mark.parametrize("distance", [0.1, 0.5, 1.2])
def test_nothing_is_unknown_where_all_lie_alike_however_far(distance: float) -> None:
    given = make_groups([150, 100, 50], [distance, 1.3 * distance, 1.5 * distance])
    assert find_unknown(*given).mean() < 0.01


def test_single_far_cells_are_not_unknown() -> None:
    distance, latent = make_groups([150, 100, 50], [0.2, 0.25, 0.3])
    distance[::50] *= 4
    assert not find_unknown(distance, latent).any()


@pytest.mark.parametrize("n_zero", [1, 5, 30])
def test_cells_of_the_reference_itself_make_no_others_unknown(n_zero: int) -> None:
    distance, latent = make_groups([150, 100, 50], [0.2, 0.25, 0.3])
    # The only cells of their types lie where their types lie.
    distance[:: 300 // n_zero] = 0
    assert not find_unknown(distance, latent).any()


def test_domains_are_not_compared_with_each_other() -> None:
    distance, latent = make_groups([150, 150], [0.3, 0.9])
    assert find_unknown(distance, latent)[150:].all()
    assert not find_unknown(distance, latent, np.repeat([0, 1], 150)).any()


def test_cells_beyond_twice_the_unit_are_unknown_even_if_all_are() -> None:
    assert find_unknown(*make_groups([150, 100], [3.0, 3.0])).all()


def test_in_a_small_domain_each_cell_counts_for_itself() -> None:
    distance, latent = make_groups([99], [0.5])
    distance[7] = 2.1
    assert np.flatnonzero(find_unknown(distance, latent)).tolist() == [7]
    assert not find_unknown(distance[:0], latent[:0]).any()


def test_the_order_of_cells_has_no_effect() -> None:
    distance, latent = make_groups([150, 100, 40], [0.2, 0.3, 0.8])
    order = np.random.default_rng(1).permutation(len(distance))
    assert find_unknown(distance[order], latent[order]).tolist() == find_unknown(distance, latent)[order].tolist()


def test_a_large_domain_is_judged_by_a_sample_as_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    given = make_groups([700, 500, 150], [0.2, 0.3, 0.9])
    whole = find_unknown(*given)
    monkeypatch.setattr(scalex.reference.novelty, "MAX_CELLS", 400)
    sampled = find_unknown(*given)
    assert sampled.tolist() == find_unknown(*given).tolist()
    assert (sampled == whole).mean() > 0.98


def test_equal_distances_and_cells_are_no_error() -> None:
    assert not find_unknown(np.zeros(200), np.zeros((200, 3))).any()
