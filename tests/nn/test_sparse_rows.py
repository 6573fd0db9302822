from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from scalex.nn import SparseRows


def make_matrix() -> sparse.csr_matrix:
    values = sparse.random(40, 30, 0.2, dtype=np.float32, random_state=0).toarray()
    values[[0, 17, 39]] = 0
    return sparse.csr_matrix(values)


WEIGHT = torch.randn(30, 50, generator=torch.Generator().manual_seed(0))


def test_the_product_is_the_dense_one() -> None:
    product = SparseRows.of(make_matrix()).times(WEIGHT)
    assert SparseRows.of(make_matrix()).n_rows == 40
    np.testing.assert_allclose(product.numpy(), make_matrix().toarray() @ WEIGHT.numpy(), rtol=1e-5, atol=1e-6)
    assert (product[[0, 17, 39]] == 0).all()


def test_the_product_of_a_row_depends_on_that_row_alone() -> None:
    whole = SparseRows.of(make_matrix()).times(WEIGHT)
    order = np.random.default_rng(0).permutation(40)
    assert torch.equal(SparseRows.of(make_matrix()[order]).times(WEIGHT), whole[order])
    for row in range(40):
        assert torch.equal(SparseRows.of(make_matrix()[[row]]).times(WEIGHT)[0], whole[row])


def test_the_product_has_the_precision_of_the_weights() -> None:
    product = SparseRows.of(make_matrix()).times(WEIGHT.to(torch.bfloat16))
    assert product.dtype == torch.bfloat16
    np.testing.assert_allclose(product.float().numpy(), make_matrix().toarray() @ WEIGHT.numpy(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("rows", [slice(None), slice(17, 18), slice(0, 0), slice(15, 40)])
def test_rows_can_be_cut_and_converted(rows: slice) -> None:
    expected = make_matrix()[rows]
    found = SparseRows.of(make_matrix()).cut(*rows.indices(40)[:2])
    assert found.n_rows == expected.shape[0]
    assert found.dense().dtype == torch.float32
    np.testing.assert_array_equal(found.dense().numpy(), expected.toarray())
    np.testing.assert_array_equal(found.csr().toarray(), expected.toarray())


def test_dense_rows_are_a_copy() -> None:
    matrix = make_matrix()
    SparseRows.of(matrix).dense().fill_(7)
    np.testing.assert_array_equal(matrix.toarray(), make_matrix().toarray())
