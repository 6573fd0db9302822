from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from tables import assert_same_table

from scalex.h5ad.block_writer import BlockWriter

N = 23


def make_cells(seed: int = 0) -> AnnData:
    """Return cells with an element of every kind."""
    rng = np.random.default_rng(seed)
    counts = sparse.csr_matrix(rng.poisson(0.5, (N, 12)), dtype=np.float32)
    obs = pd.DataFrame(
        {
            "kind": pd.Categorical(rng.choice(["a", "b", "c"], N), ["a", "b", "c", "unused"]),
            "partly": pd.Categorical([None if i % 3 else "known" for i in range(N)]),
            "stage": pd.Categorical(rng.choice(["early", "late"], N), ["early", "late"], ordered=True),
            "replicate": pd.Categorical(rng.integers(1, 3, N), [1, 2]),
            "note": [f"note {i}" for i in range(N)],
            "flag": rng.random(N) < 0.5,
            "maybe": pd.array(rng.choice([True, False, None], N), dtype="boolean"),
            "whole": pd.array([None if i % 4 == 0 else i for i in range(N)], dtype="Int64"),
            "size": rng.integers(0, 9, N),
            "share": rng.random(N).astype(np.float32),
        },
        index=[f"cell{i}" for i in range(N)],
    )
    var = pd.DataFrame({"biotype": pd.Categorical(["protein", "lnc"] * 6)}, index=[f"gene{i}" for i in range(12)])
    adata = AnnData(counts, obs=obs, var=var)
    adata.raw = AnnData(
        sparse.csr_matrix(rng.random((N, 20)).astype(np.float32)),
        obs=obs[[]],
        var=pd.DataFrame({"all": np.arange(20)}, index=[f"raw{i}" for i in range(20)]),
    )
    adata.obsm["latent"] = rng.random((N, 3)).astype(np.float32)
    adata.obsm["sparse"] = sparse.csr_matrix(rng.poisson(0.3, (N, 4)), dtype=np.float32)
    adata.layers["impute"] = rng.random((N, 12)).astype(np.float32)
    adata.layers["double"] = counts * 2
    adata.varm["loading"] = rng.random((12, 2))
    return adata


def write_blocks(adata: AnnData, path: Path, block_size: int, **elements: Any) -> AnnData:
    with h5py.File(path, "w") as file:
        writer = BlockWriter(file, compression="gzip")
        for start in range(0, adata.n_obs, block_size):
            writer.append(adata[start : start + block_size].copy())
        assert writer.n_cells == adata.n_obs
        writer.finish(**elements)
    return ad.read_h5ad(path)


def assert_same(found: Any, expected: Any) -> None:
    """Assert that two matrices or tables have the same type and values."""
    assert type(found) is type(expected)
    if isinstance(expected, pd.DataFrame):
        assert_same_table(found, expected)
    elif sparse.issparse(expected):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found.toarray(), expected.toarray())
    elif expected is not None:
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def assert_same_cells(found: AnnData, expected: AnnData) -> None:
    for name in ("X", "obs", "var"):
        assert_same(getattr(found, name), getattr(expected, name))
    for name in ("obsm", "varm", "obsp", "layers"):
        mappings = getattr(found, name), getattr(expected, name)
        assert mappings[0].keys() == mappings[1].keys()
        for key in mappings[1]:
            assert_same(mappings[0][key], mappings[1][key])
    assert (found.raw is None) == (expected.raw is None)
    if expected.raw is not None:
        assert_same(found.raw.X, expected.raw.X)
        assert_same(found.raw.var, expected.raw.var)


@pytest.fixture
def keep_categories() -> Iterator[None]:
    """Keep unused categories in subsets of an AnnData, so that all blocks have the same categories."""
    with ad.settings.override(remove_unused_categories=False):
        yield


@pytest.mark.usefixtures("keep_categories")
@pytest.mark.parametrize("block_size", [1, 7, N, 100])
def test_blocks_of_any_size_equal_the_whole(tmp_path: Path, block_size: int) -> None:
    adata = make_cells()
    uns = {"scalex": {"version": "1", "scores": {"total": 0.5}}, "names": np.array(["a", "b"], dtype=object)}
    obsp = {"graph": sparse.csr_matrix(np.eye(N, dtype=np.float32))}
    found = write_blocks(adata, tmp_path / "blocks.h5ad", block_size, uns=uns, obsp=obsp)
    adata.uns.update(uns)
    adata.obsp.update(obsp)
    adata.write_h5ad(tmp_path / "whole.h5ad")
    expected = ad.read_h5ad(tmp_path / "whole.h5ad")
    assert_same_cells(found, expected)
    assert list(found.obs["kind"].cat.categories) == ["a", "b", "c", "unused"]
    assert found.uns["scalex"] == uns["scalex"]
    assert list(found.uns["names"]) == ["a", "b"]


@pytest.mark.usefixtures("keep_categories")
@pytest.mark.parametrize("missing", ["X", "raw", "layers", "obsm", "obs columns", "all but names"])
def test_missing_elements_stay_missing(tmp_path: Path, missing: str) -> None:
    adata = make_cells()
    if missing == "obs columns":
        adata.obs = adata.obs[[]]
    elif missing == "raw":
        del adata.raw
    elif missing == "X":
        adata = AnnData(obs=adata.obs, var=adata.var, obsm=dict(adata.obsm), layers=dict(adata.layers))
    elif missing == "all but names":
        adata = AnnData(obs=adata.obs[[]], var=adata.var[[]])
    else:
        for name in list(getattr(adata, missing)):
            del getattr(adata, missing)[name]
    found = write_blocks(adata, tmp_path / "blocks.h5ad", 10)
    adata.write_h5ad(tmp_path / "whole.h5ad")
    assert_same_cells(found, ad.read_h5ad(tmp_path / "whole.h5ad"))
    assert (found.X is None) == (adata.X is None)
    assert (found.raw is None) == (adata.raw is None)


def test_a_block_may_have_no_values(tmp_path: Path) -> None:
    values = np.zeros((9, 5), np.float32)
    values[4, 2] = values[8, 4] = 3
    adata = AnnData(sparse.csr_matrix(values), obs=pd.DataFrame(index=[f"c{i}" for i in range(9)]))
    found = write_blocks(adata, tmp_path / "blocks.h5ad", 3)
    np.testing.assert_array_equal(found.X.toarray(), values)


@pytest.mark.usefixtures("keep_categories")
@pytest.mark.parametrize("name", ["categories", "indptr", "codes", "raw", "X"])
def test_columns_may_have_any_name(tmp_path: Path, name: str) -> None:
    adata = AnnData(obs=pd.DataFrame({name: [f"text {i}" for i in range(9)]}, index=[f"c{i}" for i in range(9)]))
    found = write_blocks(adata, tmp_path / "blocks.h5ad", 2)
    assert_same_table(found.obs, adata.obs)


def test_row_pointers_have_64_bits(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "blocks.h5ad", "w") as file:
        BlockWriter(file).append(make_cells())
        assert file["X/indptr"].dtype == file["raw/X/indptr"].dtype == np.int64


def test_a_file_in_memory_can_be_written() -> None:
    adata = make_cells()
    with h5py.File("cells", "w", driver="core", backing_store=False) as file:
        writer = BlockWriter(file)
        writer.append(adata)
        writer.finish(uns={})
        found = ad.io.read_elem(file)
    np.testing.assert_array_equal(found.obsm["latent"], adata.obsm["latent"])


@pytest.mark.usefixtures("keep_categories")
def test_the_layout_is_that_of_anndata(tmp_path: Path) -> None:
    """Elements, shapes and attributes are the same."""
    adata = make_cells()
    write_blocks(adata, tmp_path / "blocks.h5ad", 10)
    # Text without missing values in the form that every version reads.
    with ad.settings.override(allow_write_nullable_strings=False):
        adata.write_h5ad(tmp_path / "whole.h5ad")

    def describe(path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def visit(name: str, element: h5py.Group | h5py.Dataset) -> None:
            attributes = {key: list(value) if isinstance(value, np.ndarray) else value for key, value in element.attrs.items()}
            found[name] = (getattr(element, "shape", None), attributes)

        with h5py.File(path) as file:
            found["/"] = dict(file.attrs)
            file.visititems(visit)
        return found

    blocks, whole = describe(tmp_path / "blocks.h5ad"), describe(tmp_path / "whole.h5ad")
    assert blocks.keys() == whole.keys()
    for name in whole:
        if "categories" not in name:
            assert blocks[name] == whole[name], name


def test_every_version_of_anndata_reads_what_is_written(tmp_path: Path) -> None:
    """Version 0.11 reads no element that is None, and no text in the type of pandas 3."""
    obs = pd.DataFrame({"text": ["a", "b"], "kind": pd.Categorical(["a", "b"])}, index=["a", "b"])
    with h5py.File(tmp_path / "blocks.h5ad", "w") as file:
        writer = BlockWriter(file)
        for rows in (slice(0, 1), slice(1, 2)):
            writer.append(AnnData(obs=obs.iloc[rows].assign(kind=obs["kind"].iloc[rows]), obsm={"latent": np.ones((1, 2), np.float32)}))
        writer.finish(uns={})
        encodings: set[str] = set()
        file.visititems(lambda name, element: encodings.add(str(element.attrs["encoding-type"])))
    assert encodings <= {"dataframe", "string-array", "categorical", "array", "dict"}
    read = ad.read_h5ad(tmp_path / "blocks.h5ad").obs
    assert [list(read.index), list(read["text"]), list(read["kind"])] == [["a", "b"]] * 3


@pytest.mark.usefixtures("keep_categories")
def test_matrices_that_are_read_can_be_changed_in_place(tmp_path: Path) -> None:
    """scanpy's rank_genes_groups removes zeros of raw, which scipy refuses if row pointers and columns have different types."""
    adata = write_blocks(make_cells(), tmp_path / "cells.h5ad", 5)
    for matrix in (adata.X, adata.raw.X, adata.layers["double"], adata.obsm["sparse"]):
        assert matrix.indptr.dtype == matrix.indices.dtype
        matrix.eliminate_zeros()
