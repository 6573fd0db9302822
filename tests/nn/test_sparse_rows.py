from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from scalex.nn import SparseRows


def matrix() -> sparse.csr_matrix:
    values = sparse.random(40, 30, 0.2, dtype=np.float32, random_state=0).toarray()
    values[[0, 17, 39]] = 0
    return sparse.csr_matrix(values)


WEIGHT = torch.randn(30, 50, generator=torch.Generator().manual_seed(0))


def test_the_product_is_the_dense_one_and_0_for_an_empty_row() -> None:
    product = SparseRows.of(matrix()).times(WEIGHT)
    assert SparseRows.of(matrix()).n_rows == 40
    np.testing.assert_allclose(product.numpy(), matrix().toarray() @ WEIGHT.numpy(), rtol=1e-5, atol=1e-6)
    assert (product[[0, 17, 39]] == 0).all()


def test_a_rows_product_does_not_depend_on_the_other_rows() -> None:
    whole = SparseRows.of(matrix()).times(WEIGHT)
    order = np.random.default_rng(0).permutation(40)
    assert torch.equal(SparseRows.of(matrix()[order]).times(WEIGHT), whole[order])
    for row in range(40):
        assert torch.equal(SparseRows.of(matrix()[[row]]).times(WEIGHT)[0], whole[row])


def test_the_product_is_in_the_precision_of_the_matrix() -> None:
    product = SparseRows.of(matrix()).times(WEIGHT.to(torch.bfloat16))
    assert product.dtype == torch.bfloat16
    np.testing.assert_allclose(product.float().numpy(), matrix().toarray() @ WEIGHT.numpy(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("rows", [slice(None), slice(17, 18), slice(0, 0), slice(15, 40)])
def test_rows_are_cut_made_dense_and_csr(rows: slice) -> None:
    expected = matrix()[rows]
    found = SparseRows.of(matrix()).cut(*rows.indices(40)[:2])
    assert found.n_rows == expected.shape[0]
    assert found.dense().dtype == torch.float32
    np.testing.assert_array_equal(found.dense().numpy(), expected.toarray())
    np.testing.assert_array_equal(found.csr().toarray(), expected.toarray())


def test_dense_rows_may_be_written_to_without_changing_the_matrix() -> None:
    given = matrix()
    SparseRows.of(given).dense().fill_(7)
    np.testing.assert_array_equal(given.toarray(), matrix().toarray())
