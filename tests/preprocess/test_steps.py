from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import sparse

from scalex.preprocess import steps


@pytest.fixture
def values() -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    values = rng.poisson(1, (6, 5)).astype(np.float32)
    values[2] = 0
    return values


@pytest.mark.parametrize("wanted", [list("abcde"), list("edcba"), list("bd"), list("xbya"), list("xy")])
def test_select_is_a_reindexing_by_name(values: NDArray[np.float32], wanted: list[str]) -> None:
    expected = pd.DataFrame(values, columns=list("abcde")).reindex(columns=wanted, fill_value=0).to_numpy()
    position = steps.match(pd.Index(wanted), pd.Index(list("abcde")))
    selected = steps.select(sparse.csr_matrix(values), position, len(wanted))
    np.testing.assert_array_equal(selected.toarray(), expected)
    assert (np.diff(selected.indptr) == (expected != 0).sum(1)).all()
    assert all((np.diff(selected[i].indices) > 0).all() for i in range(6))


def test_stored_zeros_are_removed_from_a_copy() -> None:
    rows = sparse.csr_matrix((np.array([1.0, 0, 2]), np.array([0, 1, 2]), np.array([0, 2, 3])), shape=(2, 3))
    clean = steps.without_zeros(rows)
    assert clean.nnz == 2
    assert rows.nnz == 3
    np.testing.assert_array_equal(clean.toarray(), rows.toarray())
    assert steps.without_zeros(clean) is clean


def test_normalize_total_brings_each_row_to_the_target(values: NDArray[np.float32]) -> None:
    normalized = steps.normalize_total(sparse.csr_matrix(values), values.sum(1).astype(np.float64), 100.0).toarray()
    for row, out in zip(values, normalized, strict=True):
        np.testing.assert_allclose(out, row / row.sum() * 100 if row.any() else row, rtol=1e-6)
    assert normalized.dtype == np.float32


@pytest.mark.parametrize("per_domain", [False, True], ids=["global", "domain"])
def test_scale_divides_and_clips(values: NDArray[np.float32], per_domain: bool) -> None:
    maximum = np.array([[1, 2, 0, 4, 5], [3, 0, 1, 2, 9]], np.float32)
    domain = np.array([0, 1, 0, 1, 1, 0])
    scaled = steps.scale(sparse.csr_matrix(values), maximum if per_domain else maximum[0], domain).toarray()
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            largest = maximum[domain[i] if per_domain else 0, j]
            assert scaled[i, j] == np.float32(min(value / (largest if largest > 0 else 1), 1))
    assert scaled.dtype == np.float32
