from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

from scalex.cells import AnnDataSource, BackedCells, Cells, InMemoryCells
from scalex.data import ScalexDataModule, sizes
from scalex.preprocess import FittedRecipe, RnaRecipe


@pytest.fixture
def fitted(demo_in_memory: InMemoryCells) -> FittedRecipe:
    """Return a fitted recipe whose filter drops some cells."""
    fitted = RnaRecipe(min_features=400, n_top_features=100, scaling="domain").fit(demo_in_memory)
    assert 50 < len(fitted.rows) < 300
    return fitted


@pytest.fixture
def demo_backed(demo: AnnData, tmp_path: Path) -> Cells:
    """Return the cells of `demo_in_memory` in a file."""
    demo.write_h5ad(tmp_path / "demo.h5ad")
    cells = AnnDataSource(path=tmp_path / "demo.h5ad", batch_key="batch", backed=True).open()
    assert isinstance(cells, BackedCells)
    return cells


def make_data(cells: Cells, fitted: FittedRecipe, **options: Any) -> ScalexDataModule:
    data = ScalexDataModule(cells, fitted, **options)
    data.setup("fit")
    return data


@pytest.mark.parametrize("chunk_size", [1, 17, 64, 20_000])
def test_chunks_cover_each_kept_cell_once_in_order(demo_in_memory: InMemoryCells, fitted: FittedRecipe, chunk_size: int) -> None:
    batches = list(make_data(demo_in_memory, fitted, chunk_size=chunk_size).batches())
    assert max(batch.rows.n_rows for batch in batches) <= chunk_size
    np.testing.assert_array_equal(np.concatenate([batch.row_C for batch in batches]), np.arange(len(fitted.rows)))
    codes = demo_in_memory.domain.codes[fitted.rows].astype(np.int64)
    np.testing.assert_array_equal(np.concatenate([batch.domain_C for batch in batches]), codes)
    expected = fitted.preprocessor.for_features(demo_in_memory.var.index)(demo_in_memory.read(fitted.rows), codes)
    np.testing.assert_array_equal(np.concatenate([batch.rows.dense() for batch in batches]), expected.toarray())


@pytest.mark.parametrize("chunk_size", [1, 17])
def test_values_do_not_depend_on_the_chunk_size(demo_in_memory: InMemoryCells, fitted: FittedRecipe, chunk_size: int) -> None:
    at_once, in_chunks = (make_data(demo_in_memory, fitted, chunk_size=size) for size in (20_000, chunk_size))
    np.testing.assert_array_equal(in_chunks.inputs().toarray(), at_once.inputs().toarray())
    np.testing.assert_array_equal(in_chunks.normalized().toarray(), at_once.normalized().toarray())


@pytest.mark.parametrize("sampling", ["shuffle", "domain", "balanced"])
def test_training_minibatches_hold_the_cells_of_their_rows(demo_in_memory: InMemoryCells, fitted: FittedRecipe, sampling: Any) -> None:
    data = make_data(demo_in_memory, fitted, batch_size=16, sampling=sampling)
    inputs = data.inputs().toarray()
    loader = data.train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader)
    for batch in batches:
        rows = batch.row_C.numpy()
        assert 1 <= len(rows) <= 16
        np.testing.assert_array_equal(batch.rows.dense().numpy(), inputs[rows])
        np.testing.assert_array_equal(batch.domain_C.numpy(), data.domain[rows])
    drawn = set(np.concatenate([batch.row_C for batch in batches]).tolist())
    assert sampling == "balanced" or drawn == set(range(len(fitted.rows)))


@pytest.mark.parametrize("chunk_size", [1, 64])
def test_cells_in_a_file_are_those_in_memory(
    demo_in_memory: InMemoryCells, demo_backed: Cells, fitted: FittedRecipe, chunk_size: int
) -> None:
    memory, backed = (make_data(cells, fitted, chunk_size=chunk_size) for cells in (demo_in_memory, demo_backed))
    for one, other in zip(memory.batches(), backed.batches(), strict=True):
        np.testing.assert_array_equal(one.rows.dense(), other.rows.dense())
        assert torch.equal(one.domain_C, other.domain_C)
        assert torch.equal(one.row_C, other.row_C)
    part = slice(20, 45)
    np.testing.assert_array_equal(memory.normalized(part).toarray(), backed.normalized(part).toarray())


@pytest.mark.parametrize("sampling", ["shuffle", "domain", "balanced"])
def test_minibatches_from_a_file_hold_the_cells_of_their_rows(
    demo_in_memory: InMemoryCells, demo_backed: Cells, fitted: FittedRecipe, sampling: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "BUFFER_MINIBATCHES", 3)
    monkeypatch.setattr(sizes, "BUFFER_ROWS", 1)
    monkeypatch.setattr(sizes, "ROWS_PER_READ", 10)
    inputs = make_data(demo_in_memory, fitted).inputs().toarray()
    data = make_data(demo_backed, fitted, batch_size=16, sampling=sampling)
    loader = data.train_dataloader()
    orders = []
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == len(loader) == len(make_data(demo_in_memory, fitted, batch_size=16, sampling=sampling).train_dataloader())
        for batch in batches:
            rows = batch.row_C.numpy()
            assert 1 <= len(rows) <= 16
            np.testing.assert_array_equal(batch.rows.dense().numpy(), inputs[rows])
            np.testing.assert_array_equal(batch.domain_C.numpy(), data.domain[rows])
        orders.append(np.concatenate([batch.row_C for batch in batches]).tolist())
        assert sampling == "balanced" or set(orders[-1]) == set(range(len(fitted.rows)))
    assert orders[0] != orders[1]


def test_the_seed_determines_the_order_of_training(demo_in_memory: InMemoryCells, fitted: FittedRecipe) -> None:
    one, again, other = (
        np.concatenate([batch.row_C for batch in make_data(demo_in_memory, fitted, seed=seed).train_dataloader()]).tolist()
        for seed in (1, 1, 2)
    )
    assert one == again != other


def test_domains_and_labels_are_those_of_the_kept_cells(demo_in_memory: InMemoryCells, fitted: FittedRecipe) -> None:
    data = make_data(demo_in_memory, fitted)
    obs = demo_in_memory.obs.iloc[fitted.rows]
    assert [fitted.preprocessor.domains[code] for code in data.domain] == list(obs["batch"])
    assert list(data.label) == list(obs["cell_type"])
    without = dataclasses.replace(demo_in_memory, label=None)
    assert ScalexDataModule(without, fitted).label is None


def test_domains_are_matched_by_name(demo: AnnData, fitted: FittedRecipe) -> None:
    demo.obs["batch"] = pd.Categorical(demo.obs["batch"].astype(str).replace({"domain0": "other"}))
    query = AnnDataSource(path=demo, batch_key="batch").open()
    data = ScalexDataModule(query, FittedRecipe(fitted.preprocessor, np.arange(300)))
    expected = {"other": -1, "domain1": 1, "domain2": 2}
    assert list(data.domain) == [expected[name] for name in demo.obs["batch"]]


def test_inputs_are_kept(demo_in_memory: InMemoryCells, fitted: FittedRecipe) -> None:
    data = make_data(demo_in_memory, fitted)
    inputs = data.inputs()
    data.setup("predict")
    assert data.inputs() is inputs
