"""Unreadable files are refused with a message that names the file and says what to do. Text and 10x folders have their own tests."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from formats.damaged import AGAIN, assert_refused, find_file, flip_bytes, open_cells, truncate
from formats.written import compress, write_h5ad, write_h5mu, write_loom, write_tenx_h5, write_text, write_zarr
from scipy import sparse

from scalex.cells import AnnDataSource

WRITERS: dict[str, tuple[Callable[[AnnData, Path], Path], str]] = {
    "h5ad": (lambda cells, folder: write_h5ad(cells, folder / "cells.h5ad"), rf"is not a readable AnnData file \(OSError: .*\)\. {AGAIN}"),
    "10x h5": (lambda cells, folder: write_tenx_h5(cells, folder / "cells.h5"), rf"is not a readable 10x \.h5 file \(.*\)\. {AGAIN}"),
    "h5mu": (
        lambda cells, folder: write_h5mu(cells, folder / "cells.h5mu") / "rna",
        r"is not a readable \.h5mu file \(.*\)\. Copy it",
    ),
    "loom": (lambda cells, folder: write_loom(cells, folder / "cells.loom"), rf"is not a readable \.loom file \(.*\)\. {AGAIN}"),
    "csv.gz": (lambda cells, folder: compress(write_text(cells, folder / "a.csv", ",")), rf"a\.csv\.gz cannot be read \(.*\)\. {AGAIN}"),
    "tsv.gz": (lambda cells, folder: compress(write_text(cells, folder / "a.tsv", "\t")), rf"a\.tsv\.gz cannot be read \(.*\)\. {AGAIN}"),
    "txt.gz": (lambda cells, folder: compress(write_text(cells, folder / "a.txt", " ")), rf"a\.txt\.gz cannot be read \(.*\)\. {AGAIN}"),
}


@pytest.mark.parametrize("share", [0.1, 0.9])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_truncated_file_is_named(few: AnnData, tmp_path: Path, kind: str, share: float) -> None:
    write, match = WRITERS[kind]
    path = write(few, tmp_path)
    truncate(path.parent if path.name == "rna" else path, share)
    assert_refused(path, match)
    if kind == "h5ad":
        assert_refused(path, match, backed=True)


@pytest.mark.parametrize("kind", ["csv.gz", "tsv.gz", "txt.gz"])
def test_a_compressed_file_with_wrong_bytes_is_named(few: AnnData, tmp_path: Path, kind: str) -> None:
    write, match = WRITERS[kind]
    assert_refused(flip_bytes(write(few, tmp_path)), match)


@pytest.mark.parametrize("kind", ["h5ad", "10x h5", "h5mu", "loom"])
def test_text_with_an_extension_of_hdf5_is_named(few: AnnData, tmp_path: Path, kind: str) -> None:
    write, match = WRITERS[kind]
    path = write(few, tmp_path)
    (path.parent if path.name == "rna" else path).write_text("cell,gene\n")
    assert_refused(path, match)


@pytest.mark.parametrize("part", ["obs", "var", "obs/_index", "var/_index", "X/indptr"])
def test_an_h5ad_with_a_missing_part_is_named(few: AnnData, tmp_path: Path, part: str) -> None:
    path = write_h5ad(few, tmp_path / "cells.h5ad")
    with h5py.File(path, "a") as file:
        del file[part]
    assert_refused(path, rf"is not a readable AnnData file \(.*{Path(part).name}.*\)\. {AGAIN}")
    if part.startswith("obs"):
        assert_refused(path, rf"is not a readable AnnData file \(.*{Path(part).name}.*\)\. {AGAIN}", backed=True)


@pytest.mark.parametrize(
    ("part", "at", "value", "match"),
    [("indices", 5, -3, ".* must be >= 0"), ("indices", 5, 40, ".* must be < 40"), ("indptr", 5, 0, ".* must .*")],
)
def test_an_h5ad_with_indices_outside_its_matrix_is_named(few: AnnData, tmp_path: Path, part: str, at: int, value: int, match: str) -> None:
    path = write_h5ad(few, tmp_path / "cells.h5ad")
    with h5py.File(path, "a") as file:
        file["X"][part][at] = value
    assert_refused(path, rf"is not a readable AnnData file \(ValueError: {match}.*\)\. {AGAIN}")
    with pytest.raises(ValueError, match=r"cells\.h5ad: X .* The file is damaged: write it again"):
        open_cells(path, backed=True).read(slice(None))


def test_an_h5ad_with_wrong_bytes_is_named(few: AnnData, tmp_path: Path) -> None:
    path = tmp_path / "cells.h5ad"
    few.write_h5ad(path, compression="gzip")
    with h5py.File(path) as file:
        at = file["X/data"].id.get_chunk_info(0)
    flip_bytes(path, at.byte_offset + at.size // 2)
    assert_refused(path, rf"is not a readable AnnData file \(.*\)\. {AGAIN}")


@pytest.mark.parametrize(
    "name", ["X", "X/indices", "obs", "obs/kind", "var/_index", "X/data/0", "X/indices/0", "X/indptr/0", "obs/_index/0"]
)
def test_a_zarr_folder_with_missing_files_is_named(few: AnnData, tmp_path: Path, name: str) -> None:
    """zarr itself reads 0 or "" from missing files."""
    cells = few.copy()
    cells.obs["kind"] = pd.Categorical(["a", "b"] * 15)
    cells.layers["dense"] = cells.X.toarray()
    path = write_zarr(cells, tmp_path / "cells.zarr")
    part = find_file(path, name)
    if part.is_dir():
        shutil.rmtree(part)
    else:
        part.unlink()
    assert_refused(
        path,
        rf"AnnData zarr file \(.*files of {name.removesuffix('/0')}.* are missing: the folder was not copied or written .*\. {AGAIN}",
    )


def test_zarr_may_omit_files_of_zeros(few: AnnData, tmp_path: Path) -> None:
    cells = few.copy()
    cells.layers["dense"] = np.zeros(cells.shape, np.float32)
    # Few values, all in the first column: their indices are 0.
    cells.layers["sparse"] = sparse.csr_matrix(([1.0] * 4, (range(4), [0] * 4)), shape=cells.shape, dtype=np.float32)
    cells.layers["table"] = pd.DataFrame(np.ones(cells.shape), index=cells.obs_names, columns=cells.var_names)
    cells.obs["kind"] = pd.Categorical(["a"] * 30)
    path = write_zarr(cells, tmp_path / "cells.zarr")
    assert not (path / "layers" / "dense" / "0.0").exists()
    assert not (path / "layers" / "sparse" / "indices" / "0").exists()
    np.testing.assert_array_equal(open_cells(path).read(slice(None)).toarray(), few.X.toarray())
    assert open_cells(path, layer="sparse").read(slice(None)).sum() == 4


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_of_both_formats_is_read_and_missing_files_are_named(few: AnnData, tmp_path: Path, zarr_format: Literal[2, 3]) -> None:
    path = write_zarr(few, tmp_path / "cells.zarr", zarr_format)
    np.testing.assert_array_equal(open_cells(path).read(slice(None)).toarray(), few.X.toarray())
    part = path / "X" / "data" / ("0" if zarr_format == 2 else "c/0")
    truncate(part)
    assert_refused(path, rf"is not a readable AnnData zarr file \(.*\)\. {AGAIN}")
    part.unlink()
    assert_refused(path, "files of X/data are missing")


@pytest.mark.parametrize("name", ["X/data/0", "X/indices/0", "var/_index/0", ".zmetadata"])
@pytest.mark.parametrize("damage", [truncate, partial(flip_bytes, at=0)])
def test_a_zarr_folder_with_a_damaged_part_is_named(few: AnnData, tmp_path: Path, name: str, damage: Callable[[Path], Path]) -> None:
    path = write_zarr(few, tmp_path / "cells.zarr")
    damage(find_file(path, name))
    assert_refused(path, rf"is not a readable AnnData zarr file \(.*\)\. {AGAIN}")


def test_a_zipped_zarr_that_is_truncated_or_includes_its_folder_is_named(few: AnnData, tmp_path: Path) -> None:
    folder = write_zarr(few, tmp_path / "cells.zarr")
    shutil.make_archive(str(tmp_path / "outer.zarr"), "zip", tmp_path, folder.name)
    path = Path(shutil.make_archive(str(tmp_path / "zipped.zarr"), "zip", folder))
    np.testing.assert_array_equal(open_cells(path).read(slice(None)).toarray(), few.X.toarray())
    assert_refused(truncate(path), rf"zipped\.zarr\.zip is not a readable AnnData zarr file \(BadZipFile: .*\)\. {AGAIN}")
    assert_refused(tmp_path / "outer.zarr.zip", r"outer\.zarr\.zip .* zip the contents of the zarr folder, not the folder itself")


def test_an_empty_folder_called_zarr_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cells.zarr").mkdir()
    assert_refused(tmp_path / "cells.zarr", r"the folder holds neither \.zgroup nor zarr\.json, so it is not a zarr store")


def test_a_zarr_store_without_an_anndata_lists_its_contents(few: AnnData, tmp_path: Path) -> None:
    """Like a store of SpatialData, whose tables are AnnData."""
    (tmp_path / "all.zarr").mkdir()
    (tmp_path / "all.zarr" / ".zgroup").write_text('{"zarr_format": 2}')
    write_zarr(few, tmp_path / "all.zarr" / "table")
    assert_refused(tmp_path / "all.zarr", "it holds no obs and no var, but table")
    assert len(open_cells(tmp_path / "all.zarr" / "table").var) == 40


@pytest.mark.parametrize("extension", ["h5", "hdf5"])
@pytest.mark.parametrize("kind", ["h5ad", "h5mu", "loom", "10x"])
def test_a_file_with_a_general_extension_is_read_by_its_content(few: AnnData, tmp_path: Path, extension: str, kind: str) -> None:
    writers = {"h5ad": write_h5ad, "loom": write_loom, "10x": write_tenx_h5}
    if kind == "h5mu":
        mudata.MuData({"rna": few.copy()}).write(tmp_path / "cells.h5mu")
    else:
        writers[kind](few, tmp_path / f"cells.{kind}")
    path = (tmp_path / f"cells.{kind}").rename(tmp_path / f"cells.{extension}")
    np.testing.assert_array_equal(open_cells(path).read(slice(None)).toarray(), few.X.toarray())


def test_a_file_of_seurat_with_a_general_extension_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "cells.h5", "w") as file:
        file["assays"], file["cell.names"] = 1, 2
    assert_refused(tmp_path / "cells.h5", r"cells\.h5 is a file of Seurat\. In R, convert it to \.h5ad: SeuratDisk::Convert")


@pytest.mark.parametrize("backed", [False, True])
def test_a_10x_file_called_h5ad_lists_its_contents(few: AnnData, tmp_path: Path, backed: bool) -> None:
    path = write_tenx_h5(few, tmp_path / "cells.h5ad")
    assert_refused(path, "is not a readable AnnData file .*it holds no obs and no var, but matrix", backed=backed)


def test_h5mu_lists_its_modalities(few: AnnData, tmp_path: Path) -> None:
    path = write_h5mu(few, tmp_path / "cells.h5mu")
    assert_refused(path, r"holds several modalities: adt, rna\. Name one of them, as in .*cells\.h5mu/adt\.")
    with pytest.raises(ValueError, match=r"cells\.h5mu has no modality 'atac'\. Modalities: adt, rna\. Name one of them, as in .*h5mu/adt"):
        open_cells(path / "atac")
    with pytest.raises(FileNotFoundError, match=r"No such file: .*none\.h5mu \(searched in "):
        open_cells(tmp_path / "none.h5mu" / "rna")


def test_the_only_modality_needs_no_name(few: AnnData, tmp_path: Path) -> None:
    mudata.MuData({"rna": few.copy()}).write(tmp_path / "one.h5mu")
    np.testing.assert_array_equal(open_cells(tmp_path / "one.h5mu").read(slice(None)).toarray(), few.X.toarray())


def test_an_h5mu_without_modalities_is_named(few: AnnData, tmp_path: Path) -> None:
    path = write_h5mu(few, tmp_path / "cells.h5mu")
    with h5py.File(path, "a") as file:
        del file["mod"]["rna"], file["mod"]["adt"]
    assert_refused(path, "holds no modality")
    assert_refused(write_h5ad(few, path), r"cells\.h5mu is not a readable \.h5mu file \(.*'mod' doesn't exist.*\)")


@pytest.mark.parametrize(
    ("group", "name", "match"),
    [
        (
            "col_attrs",
            "obs_names",
            r"no names of cells: col_attrs needs CellID or obs_names, but holds other\. Rename the attribute",
        ),
        (
            "row_attrs",
            "var_names",
            r"no names of features: row_attrs needs Gene or var_names or Accession, but holds other\. Rename the attribute",
        ),
    ],
)
def test_a_loom_file_without_names_lists_its_attributes(few: AnnData, tmp_path: Path, group: str, name: str, match: str) -> None:
    path = write_loom(few, tmp_path / "cells.loom")
    with h5py.File(path, "a") as file:
        file[group].move(name, "other")
    assert_refused(path, match)


def test_reading_loom_keeps_the_number_of_threads_of_torch(few: AnnData, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    open_cells(write_loom(few, tmp_path / "cells.loom"))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("name", ["cells.xyz", "cells"])
def test_an_unknown_extension_lists_the_known_formats(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    match = r"cannot be read from this format\. Known formats: \.h5ad, \.zarr, \.h5, \.hdf5, \.csv, \.tsv, \.txt, \.mtx, \.loom, "
    assert_refused(tmp_path / name, match)


def test_a_folder_without_a_store_lists_its_contents(tmp_path: Path) -> None:
    folder = tmp_path / "run1"
    folder.mkdir()
    assert_refused(
        folder,
        r"run1 is a folder that holds neither a zarr store nor a matrix in a known layout, but nothing\. .* 10x: matrix\.mtx",
    )
    (folder / "a.h5ad").touch()
    assert_refused(folder, r"but a\.h5ad\. Name a file in it, or several as a list or a glob such as .*/run1/\*\.h5ad\.")


def test_a_glob_without_a_match_names_the_working_directory(tmp_path: Path) -> None:
    assert_refused(tmp_path / "*.h5ad", rf"Nothing matches .*\*\.h5ad \(searched from {Path.cwd()}\)", FileNotFoundError)
    assert_refused(tmp_path / "none" / "*.csv", r"Nothing matches .*none/\*\.csv", FileNotFoundError)


def test_a_missing_file_lists_files_with_a_similar_name(few: AnnData, tmp_path: Path) -> None:
    write_h5ad(few, tmp_path / "cells.h5ad")
    match = rf"No such file: .*Cells\.h5 \(searched in {tmp_path}; similar: cells\.h5ad\)"
    assert_refused(tmp_path / "Cells.h5", match, FileNotFoundError)
    match = r"No such file: .*x\.h5ad \(searched in .*none, a folder that does not exist\)"
    assert_refused(tmp_path / "none" / "x.h5ad", match, FileNotFoundError)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder. The working directory is another folder."""
    home, work = tmp_path / "home", tmp_path / "work"
    (home / ".scalex").mkdir(parents=True)
    work.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    return home


def test_names_are_looked_up_in_the_data_folder(few: AnnData, home: Path) -> None:
    assert_refused("pbmc", rf"No such file: pbmc \(searched in {Path.cwd()} and {home}/\.scalex\)", FileNotFoundError)
    write_h5ad(few, home / ".scalex" / "pbmc.h5ad")
    for name in ("pbmc", "pbmc.h5ad"):
        for backed in (False, True):
            np.testing.assert_array_equal(open_cells(name, backed=backed).read(slice(None)).toarray(), few.X.toarray())
    write_h5ad(few[:7].copy(), Path("pbmc.h5ad"))
    assert len(open_cells("pbmc.h5ad").obs) == 7
    # A path is not looked up.
    assert_refused(
        Path("folder") / "pbmc.h5ad", r"No such file: folder/pbmc\.h5ad \(searched in \S*folder, a folder that", FileNotFoundError
    )


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(ValueError, match="path: the list is empty"):
        AnnDataSource(path=[])


def test_a_missing_file_in_a_list_is_named(few: AnnData, tmp_path: Path) -> None:
    write_h5ad(few, tmp_path / "a.h5ad")
    with pytest.raises(FileNotFoundError, match=r"No such file: .*b\.h5ad"):
        open_cells([tmp_path / "a.h5ad", tmp_path / "b.h5ad"])


def test_a_loom_file_without_loompy_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cells.loom").touch()
    monkeypatch.setitem(sys.modules, "loompy", None)
    with pytest.raises(
        ValueError, match=r"cells\.loom: \.loom files are read by loompy, which is not installed: pip install 'scalex\[loom\]'"
    ):
        AnnDataSource(path=tmp_path / "cells.loom").open()
