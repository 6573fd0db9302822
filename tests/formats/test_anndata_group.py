from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata import AnnData
from formats.damaged import AGAIN, assert_refused, open_cells
from formats.imitated import write_like_anndata_0_6, write_like_anndata_0_7
from formats.written import write_zarr
from scipy import sparse
from tables import assert_same_table

from scalex.formats import read_cells


@pytest.fixture
def full(few: AnnData) -> AnnData:
    """Cells with something in every element."""
    cells = few.copy()
    cells.raw = few[:, :20].copy()
    cells.obs["kind"] = pd.Categorical(["a", "b"] * 15)
    cells.layers["counts"] = cells.X.copy()
    cells.layers["dense"] = cells.X.toarray()
    cells.obsm["X_pca"], cells.varm["PCs"] = np.ones((30, 3)), np.ones((40, 3))
    cells.obsm["table"] = pd.DataFrame({"a": np.arange(30)}, index=cells.obs_names)
    cells.obsp["distances"], cells.varp["links"] = sparse.csr_matrix(np.eye(30)), np.eye(40)
    cells.uns = {"name": "study", "nested": {"more": {"values": np.arange(3)}}, "colors": ["red", "blue"]}
    return cells


@pytest.fixture
def path(full: AnnData, tmp_path: Path) -> Path:
    full.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def assert_same(found: AnnData, expected: AnnData) -> None:
    assert_same_table(found.obs, expected.obs)
    assert_same_table(found.var, expected.var)
    np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())
    for kind in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
        assert set(getattr(found, kind)) == set(getattr(expected, kind)), kind
    assert (found.raw is None) == (expected.raw is None)


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_elements_are_those_that_anndata_reads(full: AnnData, path: Path, tmp_path: Path, kind: str) -> None:
    if kind == "zarr":
        path = write_zarr(full, tmp_path / "cells.zarr")
    expected = ad.read_h5ad(tmp_path / "cells.h5ad")
    found = read_cells(path)
    assert_same(found, expected)
    assert found.raw is not None
    np.testing.assert_array_equal(found.raw.X.toarray(), expected.raw.X.toarray())
    assert list(found.raw.var_names) == list(expected.raw.var_names)
    np.testing.assert_array_equal(found.uns["nested"]["more"]["values"], np.arange(3))
    np.testing.assert_array_equal(found.layers["dense"], expected.layers["dense"])


def encode_newly(file: h5py.File, name: str) -> None:
    file[name].attrs["encoding-type"], file[name].attrs["encoding-version"] = "future", "9.9"


def shorten(file: h5py.File, name: str) -> None:
    attributes = dict(file[name].attrs)
    del file[name]
    file[name] = np.ones((29, 3))
    file[name].attrs.update(attributes)


def declare_many(file: h5py.File, name: str) -> None:
    attributes = dict(file[name].attrs)
    del file[name]
    file.create_dataset(name, (30, 10**9), chunks=(30, 1000), dtype="f8").attrs.update(attributes)


def put_into_itself(file: h5py.File, name: str) -> None:
    file[f"{name}/again"] = file[f"{name}/twice"] = file[name]


def fill_with_junk(file: h5py.File, name: str) -> None:
    del file[name]
    file[name] = np.zeros(3, np.dtype([("a", "V7")]))
    encode_newly(file, name)


def end_early(file: h5py.File, name: str) -> None:
    file[f"{name}/indptr"][-1] -= 5


DAMAGES: dict[str, tuple[Callable[[h5py.File, str], None], str, str]] = {
    "newer uns": (encode_newly, "uns/name", "IORegistryError"),
    "newer part of uns": (encode_newly, "uns/nested/more/values", "IORegistryError"),
    "uns in itself": (put_into_itself, "uns/nested", "ValueError: the group again is in several groups, or in itself"),
    "opaque uns": (fill_with_junk, "uns/name", ""),
    "newer obsm": (encode_newly, "obsm/table", "IORegistryError"),
    "short obsm": (shorten, "obsm/X_pca", "ValueError"),
    "empty obsm of a billion columns": (
        declare_many,
        "obsm/X_pca",
        r"ValueError: obsm/X_pca should have 30 x 1000000000 values, which were never written",
    ),
    "newer varm": (encode_newly, "varm/PCs", "IORegistryError"),
    "newer obsp": (encode_newly, "obsp/distances", "IORegistryError"),
    "newer varp": (encode_newly, "varp/links", "IORegistryError"),
    "newer layer": (encode_newly, "layers/dense", "IORegistryError"),
    "short layer": (end_early, "layers/counts", r"ValueError: layers/counts has \d+ values and \d+ positions, but its indptr ends at \d+"),
    "newer raw": (encode_newly, "raw/X", "IORegistryError"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_what_cannot_be_read_and_is_not_needed_is_left_out(path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    damage, name, match = DAMAGES[kind]
    with h5py.File(path, "a") as file:
        damage(file, name)
    found = read_cells(path)
    element, key = name.split("/")[:2]
    assert found.shape == (30, 40)
    assert (found.raw is None) if element == "raw" else (key not in getattr(found, element))
    (message,) = [message for message in caplog.messages if "left out" in message]
    own = "raw" if element == "raw" else f"{element}/{key}"
    assert message.startswith(f"{path}: left out what cannot be read: {own} (")
    assert re.search(match, message)
    assert not open_cells(path, backed=True).in_memory


@pytest.mark.parametrize("name", ["X", "obs", "var"])
def test_x_obs_and_var_are_needed(path: Path, name: str) -> None:
    with h5py.File(path, "a") as file:
        encode_newly(file, name)
    assert_refused(path, rf"cells\.h5ad is not a readable AnnData file \(IORegistryError: .*\)\. {AGAIN}")


def test_a_matrix_whose_rows_end_before_its_values_is_refused(path: Path) -> None:
    with h5py.File(path, "a") as file:
        end_early(file, "X")
    assert_refused(path, r"is not a readable AnnData file \(ValueError: X has \d+ values and \d+ positions, but its indptr ends at \d+\)")
    with pytest.raises(ValueError, match=r"cells\.h5ad: X is not a CSR matrix: its rows end at value \d+, but \d+ values and \d+ columns"):
        open_cells(path, backed=True)


def test_a_matrix_of_other_sizes_is_refused_before_it_is_read(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["X"].attrs["shape"] = [30, 10**9]
    assert_refused(path, r"\(ValueError: X is 30 x 1000000000, but obs has 30 rows and var has 40\)")
    with h5py.File(path, "a") as file:
        del file["X"]
        matrix = file.create_dataset("X", (60_000, 60_000), "f4", chunks=(1000, 1000))
        matrix.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    assert_refused(path, r"\(ValueError: X should have 60000 x 60000 values, which were never written\)")


def test_a_layer_of_a_zarr_store_without_its_files_is_left_out(full: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """zarr itself reads 0 from missing files."""
    path = write_zarr(full, tmp_path / "cells.zarr")
    (path / "layers" / "counts" / "data" / "0").unlink()
    # None stands for X in anndata 0.13.
    assert set(read_cells(path).layers) - {None} == {"dense"}
    assert any(
        "left out what cannot be read: layers/counts (ValueError: files of layers/counts/data are" in text for text in caplog.messages
    )


def test_an_element_of_a_zarr_store_that_was_never_written_is_left_out(
    full: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_zarr(full, tmp_path / "cells.zarr")
    group = zarr.open_group(path, use_consolidated=False)
    group.create_array("obsm/many", shape=(30, 10**9), chunks=(30, 1000), dtype="f8")
    group["obsm/many"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    zarr.consolidate_metadata(path)
    assert set(read_cells(path).obsm) == {"X_pca", "table"}
    assert any("obsm/many (ValueError: obsm/many should have 30 x 1000000000 values, which" in text for text in caplog.messages)


def test_files_of_macos_in_a_zarr_store_are_ignored(full: AnnData, tmp_path: Path) -> None:
    path = write_zarr(full, tmp_path / "cells.zarr")
    for folder in [path, *(entry for entry in path.rglob("*") if entry.is_dir())]:
        (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        (folder / "._0.0").write_bytes(b"\0\5\26\7")
    for backed in (False, True):
        np.testing.assert_array_equal(open_cells(path, backed=backed).read(slice(None)).toarray(), full.X.toarray())


@pytest.mark.parametrize("backed", [False, True])
def test_tables_of_sizes_that_were_never_written_are_refused(path: Path, backed: bool) -> None:
    with h5py.File(path, "a") as file:
        del file["obs/_index"]
        file.create_dataset("obs/_index", (10**9,), h5py.string_dtype(), chunks=(1000,))
    assert_refused(path, r"\(ValueError: obs/_index should have 1000000000 values, which were never written\)", backed=backed)


def test_a_newer_column_is_named_when_it_is_read_in_pieces(path: Path) -> None:
    with h5py.File(path, "a") as file:
        encode_newly(file, "obs/kind/codes")
    cells = open_cells(path, backed=True)
    with pytest.raises(OSError, match=r"cells\.h5ad: obs, rows 0 to 29, cannot be read \(.*future.*\)\. The file is damaged: copy it"):
        cells.read_obs(slice(None))


@pytest.mark.parametrize("backed", [False, True])
def test_tables_without_an_encoding_keep_their_names(full: AnnData, path: Path, backed: bool) -> None:
    with h5py.File(path, "a") as file:
        for name in ("obs", "var"):
            del file[name].attrs["encoding-type"], file[name].attrs["encoding-version"]
    with warnings.catch_warnings(action="ignore"):
        # anndata warns about old files.
        cells = open_cells(path, backed=backed, batch_key="kind")
    assert list(cells.obs.index) == list(full.obs_names)
    assert list(cells.var.index) == list(full.var_names)
    assert list(cells.domain) == list(full.obs["kind"])


@pytest.mark.parametrize("write", [write_like_anndata_0_6, write_like_anndata_0_7])
@pytest.mark.parametrize("backed", [False, True])
def test_files_of_earlier_versions_are_read(full: AnnData, tmp_path: Path, write: Callable[[AnnData, Path], Any], backed: bool) -> None:
    write(full, tmp_path / "old.h5ad")
    with warnings.catch_warnings(action="ignore"):
        cells = open_cells(tmp_path / "old.h5ad", backed=backed, batch_key="kind")
    assert list(cells.domain) == list(full.obs["kind"])
    assert list(cells.obs.index) == list(full.obs_names)
    assert list(cells.var.index) == list(full.var_names)
    np.testing.assert_array_equal(cells.read(slice(None)).toarray(), full.X.toarray())
