"""Files of pandas 3, whose text may be missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, settings
from conftest import Trained
from formats.written import write_h5ad, write_zarr

import scalex
from scalex.cells import AnnDataSource
from scalex.cells.file_obs import is_nullable_text

OPTIONS: dict[str, Any] = {"min_features": 1, "n_top_features": 200, "max_iteration": 20, "ignore_umap": True, "show": False}


def to_nullable(values: Any) -> Any:
    return pd.array(list(values), dtype="string")


@pytest.fixture
def cells(demo: AnnData) -> AnnData:
    n = demo.n_obs
    demo.obs["text"] = to_nullable(f"note {i}" for i in range(n))
    # The first chunks have no missing value.
    demo.obs["partly"] = to_nullable(None if i > 200 else f"kind {i % 3}" for i in range(n))
    demo.obs["category"] = pd.Categorical(to_nullable(f"kind {i % 3}" for i in range(n)))
    demo.obs.index = pd.Index(to_nullable(demo.obs_names))
    demo.var.index = pd.Index(to_nullable(demo.var_names))
    return demo


@pytest.mark.parametrize("write", [write_h5ad, write_zarr])
def test_nullable_text_is_read_in_pieces(
    cells: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[AnnData, Path], Path]
) -> None:
    monkeypatch.setattr("scalex.cells.file_obs.CHUNK_ROWS", 70)
    path = tmp_path / f"cells.{write.__name__.removeprefix('write_')}"
    with settings.override(allow_write_nullable_strings=True):
        write(cells, path)
    backed = AnnDataSource(path=path, backed=True, batch_key="batch").open()
    assert not backed.in_memory
    in_memory = AnnDataSource(path=path, batch_key="batch").open()
    assert backed.obs.index.dtype == object
    assert list(backed.obs.index) == list(in_memory.obs.index)
    assert list(backed.var.index) == list(in_memory.var.index)
    assert list(backed.domain) == list(in_memory.domain)
    np.testing.assert_array_equal(backed.read(slice(None)).toarray(), in_memory.read(slice(None)).toarray())
    for rows in (slice(None), slice(0, 50), slice(250, 300)):
        found = backed.read_obs(rows)
        assert found["text"].dtype == object
        assert list(found["text"]) == list(cells.obs["text"].iloc[rows])
        for name in ("partly", "category"):
            assert list(found[name].cat.categories) == ["kind 0", "kind 1", "kind 2"]
            assert found[name].cat.categories.dtype == object
        assert list(found["partly"].isna()) == list(cells.obs["partly"].iloc[rows].isna())
        assert list(found["partly"].dropna()) == list(cells.obs["partly"].iloc[rows].dropna())


@pytest.mark.parametrize("backed", [False, True])
def test_a_file_of_anndata_0_13_is_read_as_it_was_written(backed: bool) -> None:
    path = Path(__file__).parent / "stored" / "cells.h5ad"
    found = AnnDataSource(path=path, backed=backed, batch_key="batch").open()
    assert found.in_memory != backed
    assert list(found.domain) == ["a", "b"] * 4
    assert list(found.obs.index) == [f"c{i}" for i in range(8)]
    assert list(found.var["symbol"]) == [f"S{i}" for i in range(5)]
    assert list(found.obs["text"]) == [f"note {i}" for i in range(8)]
    assert list(found.obs["partly"].astype(object).fillna("")) == ["" if i % 4 == 0 else f"id {i}" for i in range(8)]
    np.testing.assert_array_equal(found.read(slice(None)).toarray(), np.arange(40).reshape(8, 5))


@pytest.mark.parametrize(("write", "backed"), [(write_zarr, False), (write_h5ad, True)])
def test_nullable_text_does_not_change_what_is_trained_and_projected(
    demo: AnnData, cells: AnnData, tmp_path: Path, write: Callable[[AnnData, Path], Path], backed: bool
) -> None:
    """Files with plain names and without annotation give the same latents and labels."""
    cells.obs["cell_type"] = to_nullable(cells.obs["cell_type"])
    plain = AnnData(demo.X, obs=demo.obs[["batch", "cell_type"]].astype("category"), var=demo.var[[]])
    is_query = (plain.obs["batch"] == "domain2").to_numpy()
    found = []
    for name, adata in (("plain", plain), ("nullable", cells)):
        folder = tmp_path / name
        folder.mkdir()
        extension = write.__name__.removeprefix("write_")
        with settings.override(allow_write_nullable_strings=True):
            for part, rows in (("known", ~is_query), ("query", is_query)):
                write(adata[rows].copy(), folder / f"{part}.{extension}")
        scalex.SCALEX(folder / f"known.{extension}", backed=backed, outdir=folder / "run", **OPTIONS)
        reference = scalex.Reference.load(folder / "run")
        projected = reference.project(folder / f"query.{extension}")
        labels = reference.transfer_labels(folder / f"query.{extension}")
        found.append((projected.obsm["latent"], list(projected.obs_names), list(labels["label"])))
        assert not list_nullable_text(folder / "run" / "adata.h5ad")
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1:] == found[1][1:]


def list_nullable_text(path: Path) -> list[str]:
    """Return the names of text that anndata 0.11 and pandas 2 hold in another type than other text."""
    names: list[str] = []
    with h5py.File(path) as file:
        file.visititems(lambda name, element: names.append(name) if is_nullable_text(element) else None)
    return names


def test_a_reference_can_be_annotated_and_written_again(trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    adata = trained.exported
    is_known = np.arange(adata.n_obs) % 5 > 0
    adata.obs["mine"] = to_nullable(kind if known else None for kind, known in zip(adata.obs["cell_type"], is_known, strict=True))
    adata.obs.index = pd.Index(to_nullable(adata.obs_names))
    with settings.override(allow_write_nullable_strings=True):
        adata.write_h5ad(folder / "adata.h5ad")
    before, after = scalex.Reference.load(trained.folder), scalex.Reference.load(folder)
    assert set(after.labels) == {*before.labels, "mine"}
    expected, found = before.project(trained.query), after.project(trained.query)
    np.testing.assert_array_equal(found.obsm["latent"], expected.obsm["latent"])
    assert list(found.obs_names) == list(expected.obs_names)
    assert list(found.obs["mine"].isna()) == [*~is_known, *[True] * trained.query.n_obs]
    labels = after.transfer_labels(trained.query, label="mine")["label"]
    assert set(labels) <= {*trained.cells.obs["cell_type"], "unknown"}
