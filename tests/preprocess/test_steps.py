from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import sparse

from scalex.preprocess import steps
from scalex.preprocess.kernels import check_rows, sum_rows


@pytest.fixture
def values() -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    values = rng.poisson(1, (6, 5)).astype(np.float32)
    values[2] = 0
    return values


@pytest.mark.parametrize("wanted", [list("abcde"), list("edcba"), list("bd"), list("xbya"), list("xy")])
def test_packing_reindexes_by_name(values: NDArray[np.float32], wanted: list[str]) -> None:
    expected = pd.DataFrame(values, columns=list("abcde")).reindex(columns=wanted, fill_value=0).to_numpy()
    position = steps.match(pd.Index(wanted), pd.Index(list("abcde")))
    packed = steps.pack(sparse.csr_matrix(values), position, len(wanted))
    np.testing.assert_array_equal(packed.toarray(), expected)
    assert (np.diff(packed.indptr) == (expected != 0).sum(1)).all()
    assert all((np.diff(packed[i].indices) > 0).all() for i in range(6))


def test_packing_drops_stored_zeros() -> None:
    rows = sparse.csr_matrix((np.array([1.0, 0, 2]), np.array([0, 1, 2]), np.array([0, 2, 3])), shape=(2, 3))
    packed = steps.pack(rows, np.arange(3), 3)
    assert packed.nnz == 2
    assert rows.nnz == 3
    np.testing.assert_array_equal(packed.toarray(), rows.toarray())


@pytest.mark.parametrize("counted", [None, [True, True, False, True, True]])
def test_packing_scales_each_row_to_the_target(values: NDArray[np.float32], counted: list[bool] | None) -> None:
    mask = None if counted is None else np.array(counted)
    total = (values if mask is None else values[:, mask]).sum(1)
    packed = steps.pack(sparse.csr_matrix(values), np.arange(5), 5, counted=mask, target=100.0).toarray()
    for row, size, out in zip(values, total, packed, strict=True):
        np.testing.assert_allclose(out, row / size * 100 if size else row, rtol=1e-6)
    assert packed.dtype == np.float32


@pytest.mark.parametrize("per_domain", [False, True], ids=["global", "domain"])
def test_scaling_divides_and_clips(values: NDArray[np.float32], per_domain: bool) -> None:
    maximum = np.array([[1, 2, 0, 4, 5], [3, 0, 1, 2, 9]], np.float32)
    domain = np.array([0, 1, 0, 1, 1, 0])
    scaled = steps.scale(sparse.csr_matrix(values), maximum if per_domain else maximum[0], domain).toarray()
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            largest = maximum[domain[i] if per_domain else 0, j]
            assert scaled[i, j] == np.float32(min(value / (largest if largest > 0 else 1), 1))
    assert scaled.dtype == np.float32


@pytest.mark.parametrize(("value", "sound"), [(-1, False), (np.nan, False), (np.inf, False), (-np.inf, False), (3e38, True), (0.5, True)])
def test_check_rows_finds_bad_and_fractional_values(values: NDArray[np.float32], value: float, sound: bool) -> None:
    values[[0, 4], 1] = value
    rows = sparse.csr_matrix(values)
    found, n_fractional = check_rows(rows.data, rows.indptr)
    assert found == sound
    assert n_fractional == (0 if value in (-1, 3e38) or np.isinf(value) else 2)


@pytest.mark.parametrize("counted", [[1, 1, 1, 1, 1], [1, 0, 0, 1, 1], [0, 0, 0, 0, 0]])
def test_sum_rows_returns_totals_and_numbers_of_detected_features(values: NDArray[np.float32], counted: list[int]) -> None:
    rows = sparse.csr_matrix(values)
    # A stored zero is not a detected feature.
    rows.data[0] = 0
    total, n_detected = sum_rows(rows.data, rows.indices, rows.indptr, np.array(counted, np.float32))
    np.testing.assert_array_equal(total, rows.toarray() @ np.array(counted))
    np.testing.assert_array_equal(n_detected, (rows.toarray() > 0) @ np.array(counted))
