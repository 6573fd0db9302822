from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse
from sklearn.decomposition import PCA

from scalex.reference import input_pca
from scalex.reference.input_pca import INPUT_PCA, InputPca


@pytest.fixture
def inputs() -> sparse.csr_matrix:
    return sparse.random(90, 70, 0.3, format="csr", dtype=np.float32, random_state=0)


def test_coordinates_are_those_of_a_full_pca(inputs: sparse.csr_matrix) -> None:
    found = InputPca.fit(inputs).transform(inputs)
    expected = PCA(69, svd_solver="full").fit_transform(inputs.toarray())
    assert found.dtype == np.float32
    # The sign of a component is arbitrary.
    np.testing.assert_allclose(np.abs(found[:, :10]), np.abs(expected[:, :10]), atol=2e-4)


def test_coordinates_of_a_cell_depend_on_that_cell_alone(inputs: sparse.csr_matrix) -> None:
    pca = InputPca.fit(inputs)
    np.testing.assert_array_equal(pca.transform(inputs[[5]])[0], pca.transform(inputs)[5])


def test_components_are_stored_in_an_anndata(inputs: sparse.csr_matrix) -> None:
    adata = AnnData(inputs)
    assert InputPca.from_anndata(adata) is None
    pca = InputPca.fit(inputs)
    pca.add_to(adata, pca.transform(inputs))
    stored = InputPca.from_anndata(adata)
    assert stored is not None
    np.testing.assert_array_equal(stored.transform(inputs), adata.obsm[INPUT_PCA])


def test_few_cells_or_features_give_fewer_components(inputs: sparse.csr_matrix) -> None:
    assert InputPca.fit(inputs[:8]).transform(inputs).shape == (90, 7)
    assert InputPca.fit(inputs[:, :6]).transform(inputs[:, :6]).shape == (90, 5)


def test_many_cells_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    np.testing.assert_array_equal(InputPca.choose_rows(90, 7.5), np.arange(90))
    monkeypatch.setattr(input_pca, "MAX_CELLS", 60)
    rows = InputPca.choose_rows(90, 7.5)
    assert len(set(rows)) == 60
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(InputPca.choose_rows(90, 7.5), rows)
    assert not np.array_equal(InputPca.choose_rows(90, 7.5, seed=1), rows)


def test_cells_with_many_values_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_pca, "MAX_VALUES", 1000)
    assert len(InputPca.choose_rows(90, 11.1)) == 90
    assert len(InputPca.choose_rows(90, 100.0)) == 10
