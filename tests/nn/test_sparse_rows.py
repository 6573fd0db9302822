from __future__ import annotations

import numpy as np
import torch
from scipy import sparse

from scalex.nn import SparseRows


def rows_of(matrix: sparse.csr_matrix) -> SparseRows:
    return SparseRows(*(torch.from_numpy(part) for part in (matrix.data, matrix.indices, matrix.indptr[:-1])))


def matrix() -> sparse.csr_matrix:
    values = sparse.random(40, 30, 0.2, dtype=np.float32, random_state=0).toarray()
    values[[0, 17, 39]] = 0
    return sparse.csr_matrix(values)


WEIGHT = torch.randn(30, 50, generator=torch.Generator().manual_seed(0))


def test_the_product_is_the_dense_one_and_0_for_an_empty_row() -> None:
    product = rows_of(matrix()).times(WEIGHT)
    assert rows_of(matrix()).n_rows == 40
    np.testing.assert_allclose(product.numpy(), matrix().toarray() @ WEIGHT.numpy(), rtol=1e-5, atol=1e-6)
    assert (product[[0, 17, 39]] == 0).all()


def test_a_rows_product_does_not_depend_on_the_other_rows() -> None:
    whole = rows_of(matrix()).times(WEIGHT)
    order = np.random.default_rng(0).permutation(40)
    assert torch.equal(rows_of(matrix()[order]).times(WEIGHT), whole[order])
    for row in range(40):
        assert torch.equal(rows_of(matrix()[[row]]).times(WEIGHT)[0], whole[row])


def test_the_product_is_in_the_precision_of_the_matrix() -> None:
    product = rows_of(matrix()).times(WEIGHT.to(torch.bfloat16))
    assert product.dtype == torch.bfloat16
    np.testing.assert_allclose(product.float().numpy(), matrix().toarray() @ WEIGHT.numpy(), rtol=0.05, atol=0.05)
