from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse
from tables import assert_same_table

from scalex.cells import AnnDataSource, InMemoryCells, file_obs
from scalex.cells.backed import BackedCells
from scalex.h5ad.open_file import StoredFile

ROWS: dict[str, slice | NDArray[np.int64]] = {
    "all": slice(None),
    "run": slice(17, 60),
    "one": slice(5, 6),
    "first": slice(0, 1),
    "past the end": slice(290, 400),
    "ascending": np.array([3, 4, 90, 299]),
    "run as array": np.arange(40, 70),
    "one as array": np.array([7]),
}


@pytest.fixture
def annotated(demo: AnnData) -> AnnData:
    """Demo cells with columns of every type in obs."""
    n = demo.n_obs
    rng = np.random.default_rng(0)
    demo.obs["text"] = [f"note {i}" for i in range(n)]
    demo.obs["flag"] = rng.random(n) < 0.5
    demo.obs["maybe"] = pd.array(rng.choice([True, False, None], n), dtype="boolean")
    demo.obs["whole"] = pd.array([None if i % 3 == 0 else i for i in range(n)], dtype="Int64")
    demo.obs["size"] = rng.integers(0, 9, n).astype(np.int16)
    demo.obs["stage"] = pd.Categorical(rng.choice(["late", "early"], n), ["early", "late"], ordered=True)
    demo.obs["partly"] = pd.Categorical([None if i % 2 else "known" for i in range(n)])
    demo.obs["replicate"] = pd.Categorical(rng.integers(1, 4, n))
    return demo


def write(adata: AnnData, folder: Path) -> Path:
    path = folder / "cells.h5ad"
    adata.write_h5ad(path)
    return path


def open_both(path: Any, **options: Any) -> tuple[BackedCells, InMemoryCells]:
    backed, in_memory = (AnnDataSource(path=path, backed=backed, **options).open() for backed in (True, False))
    assert isinstance(backed, BackedCells)
    assert isinstance(in_memory, InMemoryCells)
    return backed, in_memory


def assert_same(backed: BackedCells, in_memory: InMemoryCells) -> None:
    for rows in ROWS.values():
        found, expected = backed.read(rows), in_memory.read(rows)
        assert isinstance(found, sparse.csr_matrix)
        assert found.dtype == np.float32
        assert found.has_canonical_format
        assert found.shape == expected.shape
        assert (found != expected).nnz == 0
    assert_same_table(backed.var, in_memory.var, check_column_type=False)
    assert_same_table(backed.obs, in_memory.obs)
    assert list(backed.domain) == list(in_memory.domain)
    assert list(backed.domain.categories) == list(in_memory.domain.categories)
    assert (backed.label is None) == (in_memory.label is None)
    if backed.label is not None and in_memory.label is not None:
        assert list(backed.label) == list(in_memory.label)


@pytest.mark.parametrize(
    "kind",
    [
        sparse.csr_matrix,
        sparse.csr_array,
        lambda x: x,
        lambda x: x.astype(np.int64),
        lambda x: sparse.csr_matrix(x, dtype=np.int32),
        lambda x: sparse.csr_matrix(x, dtype=np.float64),
    ],
    ids=["csr", "csr array", "dense", "dense int64", "csr int32", "csr float64"],
)
def test_cells_on_disk_equal_cells_in_memory(annotated: AnnData, tmp_path: Path, kind: Callable[[Any], Any]) -> None:
    annotated.X = kind(annotated.X.toarray())
    assert_same(*open_both(write(annotated, tmp_path), batch_key="batch"))


def test_an_extension_may_be_in_upper_case(demo: AnnData, tmp_path: Path) -> None:
    demo.write_h5ad(tmp_path / "cells.h5ad")
    path = (tmp_path / "cells.h5ad").rename(tmp_path / "CELLS.H5AD")
    assert not AnnDataSource(path=path, backed=True).open().in_memory


def test_a_layer_is_read_from_disk(annotated: AnnData, tmp_path: Path) -> None:
    annotated.layers["double"] = annotated.X * 2
    backed, in_memory = open_both(write(annotated, tmp_path), layer="double", batch_key="batch,stage")
    assert_same(backed, in_memory)
    assert backed.read(slice(0, 9)).sum() == 2 * annotated.X[:9].sum()
    assert "domain0_early" in backed.domain.categories


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_values_stored_twice_are_added(demo: AnnData, tmp_path: Path, compression: Any) -> None:
    first = demo.X[:3]
    twice = sparse.csr_matrix((np.repeat(first.data, 2), np.repeat(first.indices, 2), 2 * first.indptr), shape=first.shape)
    path = tmp_path / "cells.h5ad"
    AnnData(twice, obs=demo.obs[:3], var=demo.var).write_h5ad(path, compression=compression)
    backed, in_memory = open_both(path)
    np.testing.assert_array_equal(backed.read(slice(None)).toarray(), 2 * first.toarray())
    np.testing.assert_array_equal(in_memory.matrix.toarray(), 2 * first.toarray())


@pytest.mark.parametrize("rows", [slice(0, 300), slice(17, 60), slice(5, 6), slice(290, 400), slice(0, 0)])
def test_a_run_of_annotation_equals_the_rows_of_the_table(annotated: AnnData, tmp_path: Path, rows: slice) -> None:
    backed, in_memory = open_both(write(annotated, tmp_path))
    found = backed.read_obs(rows)
    assert_same_table(found, in_memory.read_obs(rows))
    assert list(found["stage"].cat.categories) == ["early", "late"]
    assert found["stage"].cat.ordered


@pytest.mark.parametrize("name", ["categories", "codes", "values", "mask", "indptr", "_index_"])
def test_columns_may_have_any_name(demo: AnnData, tmp_path: Path, name: str) -> None:
    demo.obs[name] = [f"text {i}" for i in range(300)]
    backed, in_memory = open_both(write(demo, tmp_path))
    assert_same_table(backed.read_obs(slice(10, 20)), in_memory.read_obs(slice(10, 20)))


def test_rows_of_any_table_are_read(annotated: AnnData, tmp_path: Path) -> None:
    annotated.var["kind"] = pd.Categorical(np.where(np.arange(500) % 2, "odd", "even"))
    file = StoredFile(write(annotated, tmp_path))
    assert_same_table(file.read_rows("var", slice(100, 130)), annotated.var[100:130])


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_names_of_features_are_made_unique(demo: AnnData, tmp_path: Path) -> None:
    demo.var_names = ["twice", "twice", *demo.var_names[2:]]
    backed, in_memory = open_both(write(demo, tmp_path))
    assert list(backed.var.index[:2]) == list(in_memory.var.index[:2]) == ["twice", "twice-1"]


@pytest.mark.filterwarnings("ignore:Observation names are not unique", "ignore:Suffix used")
@pytest.mark.parametrize("chunk_rows", [40, 100_000])
def test_names_of_cells_are_made_unique(
    annotated: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture, chunk_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_obs, "CHUNK_ROWS", chunk_rows)
    annotated.obs_names = ["x", "x-1", *["x"] * 70, "é", "é", *annotated.obs_names[74:]]
    annotated.obs_names.name = "barcode"
    backed, in_memory = open_both(write(annotated, tmp_path))
    assert list(in_memory.obs.index[[2, 71, 73]]) == ["x-2", "x-71", "é-1"]
    assert_same_table(backed.obs, in_memory.obs)
    for rows in (slice(0, 2), slice(1, 4), slice(60, 90), slice(73, 74), slice(200, 300)):
        assert_same_table(backed.read_obs(rows), in_memory.read_obs(rows))
    assert caplog.text.count("cells: 2 cell names are not unique (x, é); repeats get the suffixes -1, -2, ...") == 2


def test_cells_can_be_pickled(annotated: AnnData, tmp_path: Path) -> None:
    backed, in_memory = open_both(write(annotated, tmp_path), batch_key="batch")
    backed.read(slice(0, 3))
    assert_same(pickle.loads(pickle.dumps(backed)), in_memory)


def test_a_matrix_and_annotation_of_different_lengths_are_refused(demo: AnnData, tmp_path: Path) -> None:
    path = write(demo, tmp_path)
    with h5py.File(path, "r+") as file:
        del file["X"]
        ad.io.write_elem(file, "X", demo.X[:-1])
    with pytest.raises(ValueError, match=r"cells\.h5ad: X is 299 x 500, but obs has 300 rows and var has 500\. The file is damaged"):
        AnnDataSource(path=path, backed=True).open()


def test_annotation_of_a_changed_file_is_not_read(demo: AnnData, tmp_path: Path) -> None:
    backed, _ = open_both(write(demo, tmp_path))
    (tmp_path / "cells.h5ad").unlink()
    demo.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(OSError, match=r"cells\.h5ad changed while it was being read"):
        backed.read_obs(slice(0, 3))


def test_annotation_that_cannot_be_decompressed_is_named(demo: AnnData, tmp_path: Path) -> None:
    path = tmp_path / "cells.h5ad"
    demo.write_h5ad(path, compression="gzip")
    with h5py.File(path) as file:
        chunk = file["obs/path"].id.get_chunk_info(0)
    with path.open("r+b") as raw:
        raw.seek(chunk.byte_offset)
        raw.write(b"\xff" * chunk.size)
    cells = AnnDataSource(path=path, backed=True).open()
    with pytest.raises(OSError, match=r"cells\.h5ad: obs, rows 20 to 39, cannot be read \(.*\)\. The file is damaged"):
        cells.read_obs(slice(20, 40))


def test_cells_without_columns_form_one_domain_without_labels(demo: AnnData, tmp_path: Path) -> None:
    del demo.obs["batch"], demo.obs["cell_type"]
    backed, in_memory = open_both(write(demo, tmp_path))
    assert set(backed.domain) == set(in_memory.domain) == {"cells"}
    assert backed.label is None


def test_opening_reads_only_the_columns_of_domains_and_labels(annotated: AnnData, tmp_path: Path) -> None:
    """Another column may be broken as long as nobody reads it."""
    path = write(annotated, tmp_path)
    with h5py.File(path, "r+") as file:
        file["obs/size"].attrs["encoding-type"] = "of the future"
    cells = AnnDataSource(path=path, batch_key="batch", backed=True).open()
    assert list(cells.domain) == list(annotated.obs["batch"])


@pytest.mark.parametrize(
    ("get_path", "options", "reason"),
    [
        (lambda adata, path: adata, {}, "it is already in memory"),
        (
            lambda adata, path: path,
            {"layer": "by column"},
            "layers/by column is stored by columns; set cache to a folder",
        ),
        (lambda adata, path: path, {"layer": "embedding"}, "layers/embedding is not in it"),
    ],
)
def test_cells_that_cannot_stay_on_disk_are_read_with_a_message(
    demo: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture, get_path: Any, options: dict[str, Any], reason: str
) -> None:
    caplog.set_level(logging.INFO)
    demo.layers["by column"] = sparse.csc_matrix(demo.X)
    demo.obsm["embedding"] = np.random.default_rng(0).random((300, 4))
    path = get_path(demo, write(demo, tmp_path))
    cells, expected = (AnnDataSource(path=path, backed=backed, **options).open() for backed in (True, False))
    assert isinstance(cells, InMemoryCells)
    assert isinstance(expected, InMemoryCells)
    assert f"Reads into memory, since these cells cannot be read in pieces: {reason}" in caplog.text
    assert (cells.matrix != expected.matrix).nnz == 0
    assert list(cells.domain) == list(expected.domain)


@pytest.mark.filterwarnings("ignore::anndata.OldFormatWarning")
def test_annotation_in_an_old_format_is_read_with_a_message(demo: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = write(demo, tmp_path)
    with h5py.File(path, "r+") as file:
        # Before version 0.8, anndata stored categories apart from their codes.
        group = file["obs"].create_group("__categories")
        for name in ("batch", "cell_type"):
            codes, categories = file[f"obs/{name}/codes"][()], file[f"obs/{name}/categories"][()]
            del file[f"obs/{name}"]
            group[name] = categories
            group[name].attrs["ordered"] = False
            file[f"obs/{name}"] = codes
            file[f"obs/{name}"].attrs["categories"] = group[name].ref
        file["obs"].attrs["encoding-version"] = "0.1.0"
    cells = AnnDataSource(path=path, batch_key="batch", backed=True).open()
    assert isinstance(cells, InMemoryCells)
    assert "Reads into memory, since these cells cannot be read in pieces: obs is in an old format" in caplog.text
    assert list(cells.domain) == list(demo.obs["batch"])


@pytest.mark.filterwarnings("ignore:Transforming to str index")
def test_cells_with_numbers_as_names_are_read_with_a_message(demo: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = write(demo, tmp_path)
    with h5py.File(path, "r+") as file:
        del file["obs/_index"]
        ad.io.write_elem(file["obs"], "_index", np.arange(300))
    assert isinstance(AnnDataSource(path=path, backed=True).open(), InMemoryCells)
    assert "Reads into memory, since these cells cannot be read in pieces: the names of its cells are not stored as text" in caplog.text


@pytest.mark.parametrize("backed", [True, False])
class TestErrorsAreTheSameOnDiskAndInMemory:
    def test_missing_file(self, tmp_path: Path, backed: bool) -> None:
        with pytest.raises(FileNotFoundError, match=r"No such file: .*none\.h5ad"):
            AnnDataSource(path=tmp_path / "none.h5ad", backed=backed).open()

    def test_unknown_layer(self, demo: AnnData, tmp_path: Path, backed: bool) -> None:
        with pytest.raises(KeyError, match="layer='counts' is not in cells"):
            AnnDataSource(path=write(demo, tmp_path), layer="counts", backed=backed).open()

    def test_unknown_batch_key(self, demo: AnnData, tmp_path: Path, backed: bool) -> None:
        with pytest.raises(KeyError, match=r"batch_key='donor' is not in obs\. Columns: batch, cell_type, path"):
            AnnDataSource(path=write(demo, tmp_path), batch_key="donor", backed=backed).open()

    def test_cell_without_domain(self, demo: AnnData, tmp_path: Path, backed: bool) -> None:
        demo.obs.loc["cell7", "batch"] = np.nan
        with pytest.raises(ValueError, match=r"1 cells have no value in obs\['batch'\] \(first: cell7\)"):
            AnnDataSource(path=write(demo, tmp_path), batch_key="batch", backed=backed).open()

    def test_empty_matrix(self, demo: AnnData, tmp_path: Path, backed: bool) -> None:
        adata = AnnData(obs=demo.obs, var=demo.var, layers={"counts": demo.X})
        with pytest.raises(ValueError, match=r"cells: X is empty\. Layers: counts; choose one with layer="):
            AnnDataSource(path=write(adata, tmp_path), backed=backed).open()

    def test_no_cells(self, demo: AnnData, tmp_path: Path, backed: bool) -> None:
        with pytest.raises(ValueError, match="There is no cell or no feature: the matrix is 0 x 500"):
            AnnDataSource(path=write(demo[:0].copy(), tmp_path), backed=backed).open()

    def test_text_file(self, tmp_path: Path, backed: bool) -> None:
        (tmp_path / "cells.h5ad").write_text("a text")
        with pytest.raises(ValueError, match=r"cells\.h5ad is not a readable AnnData file"):
            AnnDataSource(path=tmp_path / "cells.h5ad", backed=backed).open()


@pytest.mark.filterwarnings("ignore:Forward slashes")
def test_columns_with_slashes_are_renamed_as_in_memory(annotated: AnnData, tmp_path: Path) -> None:
    annotated.obs["stage/day"] = annotated.obs["stage"]
    backed, in_memory = open_both(write(annotated, tmp_path), batch_key="stage/day")
    assert_same(backed, in_memory)
    assert "stage|day" in backed.obs
