from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import anndata as ad
import h5py
import numpy as np
import pytest
from anndata import AnnData
from formats.damaged import assert_refused, open_cells
from formats.written import write_h5ad

from scalex.formats.hdf5 import check_links, check_tree, find_missing_filter, load_filters
from scalex.h5ad.open_file import StoredFile


@pytest.fixture
def path(few: AnnData, tmp_path: Path) -> Path:
    """A file beside another with a secret."""
    cells = few.copy()
    cells.obsm["X_pca"] = np.ones((30, 3))
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["values"] = np.arange(90.0).reshape(30, 3)
        file["values"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    np.arange(90.0).tofile(tmp_path / "secret.bin")
    return write_h5ad(cells, tmp_path / "cells.h5ad")


def link(file: h5py.File, folder: Path, name: str) -> None:
    file[name] = h5py.ExternalLink(folder / "secret.h5", "values")


def store_outside(file: h5py.File, folder: Path, name: str) -> None:
    file.create_dataset(name, (30, 3), "f8", external=[(str(folder / "secret.bin"), 0, h5py.h5f.UNLIMITED)])


def make_virtual(file: h5py.File, folder: Path, name: str) -> None:
    layout = h5py.VirtualLayout((30, 3), "f8")
    layout[:] = h5py.VirtualSource(folder / "secret.h5", "values", (30, 3))
    file.create_virtual_dataset(name, layout)


FOREIGN: dict[str, tuple[Callable[[h5py.File, Path, str], None], str]] = {
    "link": (link, r"secret\.h5"),
    "external storage": (store_outside, r"secret\.bin"),
    "virtual": (make_virtual, r"secret\.h5"),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("name", ["obsm/X_pca", "uns/secret", "uns/deep/secret"])
def test_data_of_other_files_is_refused(path: Path, kind: str, name: str) -> None:
    make, other = FOREIGN[kind]
    with h5py.File(path, "a") as file:
        if name in file:
            del file[name]
        make(file, path.parent, name)
        if kind != "link":
            file[name].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    match = rf"cells\.h5ad: {name} takes its data from another file, \S*{other}, .* set follow_links=true; otherwise write a file"
    for backed in (False, True):
        assert_refused(path, match, backed=backed)
        cells = open_cells(path, backed=backed, follow_links=True)
        assert cells.in_memory != backed
    assert_refused(path.rename(path.with_suffix(".h5")), match.replace("h5ad", "h5"))


def test_the_file_of_an_anndata_object_is_checked(path: Path) -> None:
    with h5py.File(path, "a") as file:
        link(file, path.parent, "uns/secret")
    adata = ad.read_h5ad(path, backed="r")
    with pytest.raises(ValueError, match="uns/secret takes its data from another file"):
        open_cells(adata)
    assert not open_cells(adata, follow_links=True).in_memory
    adata.file.close()


def test_a_stored_file_is_checked_when_it_is_opened(path: Path) -> None:
    with h5py.File(path, "a") as file:
        link(file, path.parent, "uns/secret")
    with pytest.raises(ValueError, match="uns/secret takes its data from another file"):
        StoredFile(path).open()
    assert "X" in StoredFile(path, follow_links=True).open()


def test_links_within_a_file_are_allowed(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["obsm/other"] = h5py.SoftLink("/obsm/X_pca")
        file["obsm/hard"] = file["obsm/X_pca"]
        file["uns/nothing"] = h5py.SoftLink("/nothing")
        file["uns/self"] = file["/"]
        layout = h5py.VirtualLayout((30, 3), "f8")
        layout[:] = h5py.VirtualSource(".", "obsm/X_pca", (30, 3))
        file.create_virtual_dataset("uns/virtual", layout)
        check_links(file)
    for backed in (False, True):
        assert open_cells(path, backed=backed).in_memory != backed


def test_groups_in_themselves_or_in_two_groups_are_found(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in ("plain/a", "plain/b", "soft", "twice/a"):
            file.create_group(name)
        file["soft/self"] = h5py.SoftLink("/soft")
        file["twice/b"] = file["twice/a"]
        check_tree(file["plain"])
        for name in ("soft", "twice"):
            with pytest.raises(ValueError, match=r"the group (self|b) is in several groups, or in itself"):
                check_tree(file[name])


def compress_by(file: h5py.File, name: str, code: int) -> None:
    """Replace a dataset by one that claims to be compressed by a filter."""
    values, attributes = file[name][()], dict(file[name].attrs)
    del file[name]
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk(values.shape)
    plan.set_filter(code, h5py.h5z.FLAG_OPTIONAL)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(values.dtype), h5py.h5s.create_simple(values.shape), plan)
    file[name].id.write_direct_chunk((0,) * values.ndim, values.tobytes())
    file[name].attrs.update(attributes)


@pytest.mark.parametrize(("code", "method"), [(32015, "zstd"), (32001, "blosc"), (400, "filter 400")])
def test_a_missing_filter_is_named(path: Path, monkeypatch: pytest.MonkeyPatch, code: int, method: str) -> None:
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda number: number != code)
    with h5py.File(path, "a") as file:
        compress_by(file, "X/data", code)
        assert find_missing_filter(file["obs"]) is None
    match = rf"X/data is compressed by {method}, which is not installed: pip install hdf5plugin"
    for backed in (False, True):
        assert_refused(path, match, backed=backed)
    file = StoredFile(path)
    with pytest.raises(OSError, match=rf"cells\.h5ad: X cannot be read \(too short\)\. {match}"), file.explain_errors("X"):  # noqa: PT012
        message = "too short"
        raise OSError(message)


def test_filters_of_hdf5plugin_are_loaded_if_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    load_filters()
    monkeypatch.setitem(sys.modules, "hdf5plugin", ModuleType("hdf5plugin"))
    load_filters()
