from __future__ import annotations

import functools
import operator

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse

from scalex.preprocess.statistics import FeatureStatistics

N_DOMAINS = 4
FIELDS = ("n_cells", "n_detected", "total", "total_of_squares", "maximum")


@pytest.fixture
def values() -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return rng.poisson(0.7, (50, 8)).astype(np.float32)


@pytest.fixture
def domain() -> NDArray[np.int64]:
    """Return domains, of which domain 3 has one cell and domain 1 none."""
    domain = np.random.default_rng(1).choice([0, 2], 50)
    domain[17] = 3
    return domain


@pytest.fixture
def statistics(values: NDArray[np.float32], domain: NDArray[np.int64]) -> FeatureStatistics:
    return FeatureStatistics.of(sparse.csr_matrix(values), domain, N_DOMAINS)


def assert_equal(one: FeatureStatistics, other: FeatureStatistics) -> None:
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field), err_msg=field)
        assert getattr(one, field).dtype == getattr(other, field).dtype


def test_statistics_agree_with_numpy(statistics: FeatureStatistics, values: NDArray[np.float32], domain: NDArray[np.int64]) -> None:
    with np.errstate(invalid="ignore"):
        mean, variance = statistics.mean_and_variance()
    for d in range(N_DOMAINS):
        own = values[domain == d].astype(np.float64)
        assert statistics.n_cells[d] == len(own)
        np.testing.assert_array_equal(statistics.n_detected[d], (own > 0).sum(0))
        np.testing.assert_array_equal(statistics.total[d], own.sum(0))
        np.testing.assert_array_equal(statistics.total_of_squares[d], (own**2).sum(0))
        np.testing.assert_array_equal(statistics.maximum[d], own.max(0, initial=0))
        if len(own):
            np.testing.assert_allclose(mean[d], own.mean(0), rtol=1e-12)
            np.testing.assert_allclose(variance[d], own.var(0, ddof=1) if len(own) > 1 else 0, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n_parts", [1, 2, 7, 50])
def test_the_sum_of_random_parts_is_the_whole(
    statistics: FeatureStatistics, values: NDArray[np.float32], domain: NDArray[np.int64], n_parts: int
) -> None:
    parts = np.array_split(np.random.default_rng(n_parts).permutation(50), n_parts)
    statistics_of_parts = [FeatureStatistics.of(sparse.csr_matrix(values[rows]), domain[rows], N_DOMAINS) for rows in parts]
    assert_equal(functools.reduce(operator.add, statistics_of_parts, FeatureStatistics.zeros(N_DOMAINS, 8)), statistics)


def test_statistics_of_no_cells_add_nothing(statistics: FeatureStatistics) -> None:
    empty = FeatureStatistics.of(sparse.csr_matrix((0, 8), dtype=np.float32), np.empty(0, np.int64), N_DOMAINS)
    assert_equal(empty, FeatureStatistics.zeros(N_DOMAINS, 8))
    assert_equal(statistics + empty, statistics)


def test_selected_statistics_are_those_of_the_selected_values(
    statistics: FeatureStatistics, values: NDArray[np.float32], domain: NDArray[np.int64]
) -> None:
    features, domains = np.array([5, 0]), np.array([True, False, True, False])
    assert_equal(statistics.select_features(features), FeatureStatistics.of(sparse.csr_matrix(values[:, features]), domain, N_DOMAINS))
    kept = np.isin(domain, [0, 2])
    assert_equal(statistics.select_domains(domains), FeatureStatistics.of(sparse.csr_matrix(values[kept]), domain[kept] // 2, 2))


def test_pooled_statistics_are_those_of_one_domain(statistics: FeatureStatistics, values: NDArray[np.float32]) -> None:
    assert_equal(statistics.pool(), FeatureStatistics.of(sparse.csr_matrix(values), np.zeros(50, np.int64), 1))
