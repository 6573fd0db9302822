from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from scalex.cells import AnnDataSource, InMemoryCells
from scalex.data import CellBatch
from scalex.preprocess import Preprocessor, RnaRecipe
from scalex.projection.query import Query


@pytest.fixture
def preprocessor(demo: AnnData) -> Preprocessor:
    """Return a preprocessor of two of the domains. The third is new."""
    cells = AnnDataSource(path=demo[demo.obs["batch"] != "domain1"].copy(), batch_key="batch").open()
    return RnaRecipe(min_features=0, n_top_features=80, scaling="domain").fit(cells).preprocessor


def make_query(cells: InMemoryCells, preprocessor: Preprocessor, chunk_size: int = 20_000) -> Query:
    return Query(cells, preprocessor.for_features(cells.var.index), chunk_size=chunk_size)


def test_domains_are_matched_by_name(demo_in_memory: InMemoryCells, preprocessor: Preprocessor) -> None:
    data = make_query(demo_in_memory, preprocessor)
    assert data.domains == ("domain0", "domain1", "domain2")
    assert preprocessor.domains == ("domain0", "domain2")
    assert data.known_domain.tolist() == [0, -1, 1]
    assert data.n_cells == 300
    assert [data.domains[code] for code in data.domain(slice(40, 260))] == list(demo_in_memory.domain[40:260])


def test_a_batch_holds_the_inputs_of_the_preprocessor(demo_in_memory: InMemoryCells, preprocessor: Preprocessor) -> None:
    data = make_query(demo_in_memory, preprocessor)
    batch = data.read(slice(30, 250))
    assert (batch.values != demo_in_memory.matrix[30:250]).nnz == 0
    known = np.array([{"domain0": 0, "domain1": -1, "domain2": 1}[name] for name in demo_in_memory.domain[30:250]])
    expected = preprocessor.for_features(demo_in_memory.var.index)(demo_in_memory.matrix[30:250], known)
    np.testing.assert_array_equal(batch.rows.dense().numpy(), expected.toarray())
    assert batch.row_C.tolist() == list(range(30, 250))
    assert batch.domain_C.tolist() == demo_in_memory.domain.codes[30:250].tolist()
    assert (batch.rows.value_N.dtype, batch.domain_C.dtype, batch.row_C.dtype) == (torch.float32, torch.int64, torch.int64)


@pytest.mark.parametrize(("chunk_size", "sizes"), [(1, [1] * 300), (128, [128, 128, 44]), (300, [300]), (20_000, [300])])
def test_chunks_cover_each_cell_once_in_order(
    demo_in_memory: InMemoryCells, preprocessor: Preprocessor, chunk_size: int, sizes: list[int]
) -> None:
    batches = list(make_query(demo_in_memory, preprocessor, chunk_size).batches())
    assert all(isinstance(batch, CellBatch) for batch in batches)
    assert [batch.rows.n_rows for batch in batches] == sizes
    assert torch.cat([batch.row_C for batch in batches]).tolist() == list(range(300))
    whole = make_query(demo_in_memory, preprocessor).read(slice(0, 300))
    assert (sparse.vstack([batch.rows.csr() for batch in batches]) != whole.rows.csr()).nnz == 0
    assert (sparse.vstack([batch.values for batch in batches]) != whole.values).nnz == 0


def test_cells_on_disk_give_the_same_batches(
    demo: AnnData, demo_in_memory: InMemoryCells, preprocessor: Preprocessor, tmp_path: Path
) -> None:
    demo.write_h5ad(tmp_path / "cells.h5ad")
    cells = AnnDataSource(path=tmp_path / "cells.h5ad", batch_key="batch", backed=True).open()
    on_disk = Query(cells, preprocessor.for_features(cells.var.index), chunk_size=70)
    for found, expected in zip(on_disk.batches(), make_query(demo_in_memory, preprocessor, 70).batches(), strict=True):
        assert (found.rows.csr() != expected.rows.csr()).nnz == 0
        assert torch.equal(found.domain_C, expected.domain_C)


@pytest.mark.parametrize("value", [np.nan, -1.0, np.inf])
def test_a_value_that_cannot_be_expression_is_named(preprocessor: Preprocessor, demo: AnnData, value: float) -> None:
    demo.X.data[demo.X.indptr[211]] = value
    data = make_query(AnnDataSource(path=demo, batch_key="batch").open(), preprocessor, 100)
    batches = iter(data.batches())
    assert [next(batches).rows.n_rows for _ in range(2)] == [100, 100]
    feature = demo.var_names[demo.X.indices[demo.X.indptr[211]]]
    with pytest.raises(ValueError, match=f"1 values are negative, infinite or not a number; .* in cell cell211, feature {feature}"):
        next(batches)
