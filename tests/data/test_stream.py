from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import sparse

from scalex.data import InputDataset
from scalex.nn import SparseRows

ROWS = [np.arange(20), np.array([7, 3, 3, 19, 0]), np.array([5]), np.empty(0, np.int64)]


@pytest.fixture
def matrix() -> sparse.csr_matrix:
    values = sparse.random(20, 9, density=0.3, dtype=np.float32, random_state=0).toarray()
    values[4] = 0
    return sparse.csr_matrix(values)


@pytest.mark.parametrize("rows", ROWS, ids=["all", "repeated", "one", "none"])
def test_a_minibatch_holds_values_domains_and_rows(matrix: sparse.csr_matrix, rows: NDArray[np.int64]) -> None:
    domain = np.random.default_rng(0).integers(-1, 3, 20)
    cells = InputDataset(matrix, domain)
    batch = cells[rows]
    assert len(cells) == 20
    np.testing.assert_array_equal(batch.rows.dense().numpy(), matrix.toarray()[rows])
    np.testing.assert_array_equal(batch.domain_C.numpy(), domain[rows])
    np.testing.assert_array_equal(batch.row_C.numpy(), rows)
    assert batch.domain_C.dtype == batch.row_C.dtype == torch.int64


@pytest.mark.parametrize("rows", ROWS, ids=["all", "repeated", "one", "none"])
@pytest.mark.parametrize("index_type", [np.int32, np.int64])
def test_a_copy_gives_the_same_minibatches(matrix: sparse.csr_matrix, rows: NDArray[np.int64], index_type: type[np.integer]) -> None:
    matrix.indices, matrix.indptr = matrix.indices.astype(index_type), matrix.indptr.astype(index_type)
    domain = np.random.default_rng(0).integers(-1, 3, 20)
    cells, copied = InputDataset(matrix, domain), InputDataset(matrix, domain)
    copied.copy = SparseRows.of(matrix).to(torch.device("cpu"))
    for one, other in zip(cells[rows].rows.parts, copied[rows].rows.parts, strict=True):
        # SciPy shortens the index of few values.
        np.testing.assert_array_equal(one, other)
    assert torch.equal(cells[rows].domain_C, copied[rows].domain_C)
    assert torch.equal(cells[rows].row_C, copied[rows].row_C)


def test_the_size_of_inputs_is_that_of_their_arrays(matrix: sparse.csr_matrix) -> None:
    assert InputDataset(matrix, np.zeros(20, np.int64)).n_bytes == matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes
