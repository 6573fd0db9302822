"""AnnData in a zarr store: a folder of many files, or a .zip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import anndata as ad

from scalex.formats.advice import AdvisedError
from scalex.formats.anndata_group import read_anndata_group
from scalex.formats.hdf5 import MIN_BYTES

__all__ = ["check_zarr", "check_zarr_element", "is_zarr_folder", "open_zarr_group", "read_zarr"]

# Each group of a store has one of these files, in formats 2 and 3 of zarr.
GROUP_FILES = (".zgroup", "zarr.json")


def is_zarr_folder(folder: Path) -> bool:
    """Return whether a folder, of any name, is a group of a zarr store."""
    return any((folder / name).is_file() for name in GROUP_FILES)


def read_zarr(path: Path) -> ad.AnnData:
    """Read the AnnData of a zarr folder or .zip.

    Raises
    ------
    ValueError
        If it is not a zarr store, holds no AnnData, or if files are missing or truncated.
    """
    group = open_zarr_group(path)
    try:
        check_zarr(group, path, layers=())
        return read_anndata_group(group, path, lambda name: check_zarr_element(group, path, name))
    finally:
        group.store.close()


def open_zarr_group(path: Path) -> Any:
    """Open the group at the root of a zarr folder or .zip.

    Raises
    ------
    ValueError
        If it is not a zarr store.
    """
    import zarr
    from zarr.storage import ZipStore

    if path.is_dir():
        if not is_zarr_folder(path):
            raise ValueError(f"the folder holds neither {' nor '.join(GROUP_FILES)}, so it is not a zarr store")
        return zarr.open_group(path, mode="r")
    with ZipFile(path) as archive:
        if not set(GROUP_FILES) & set(archive.namelist()):
            raise AdvisedError(
                f"{path} has neither {' nor '.join(GROUP_FILES)} at its top: zip the contents of the zarr folder, not the folder itself."
            )
    return zarr.open_group(ZipStore(path, mode="r"), mode="r")


def check_zarr(group: Any, path: Path, layers: Sequence[str]) -> None:
    """Check that a store holds obs and var. In a folder, also check that the files of these, of X and of some layers are complete.

    zarr reads 0 or "" from missing files. Sparse matrices and names must have all files. Annotation and dense matrices may have no files
    for zeros, so each array only needs its folder. Files that blosc compressed must not be truncated.

    Raises
    ------
    ValueError
        If something is missing or truncated.
    """
    if missing := [name for name in ("obs", "var") if name not in group]:
        raise ValueError(f"it holds no {' and no '.join(missing)}, but {', '.join(sorted(group)[:8]) or 'nothing'}")
    if path.is_dir():
        for name in ("obs", "var", *["X"] * ("X" in group), *(f"layers/{layer}" for layer in layers)):
            _check_complete(group, path, name)


def check_zarr_element(group: Any, path: Path, name: str) -> None:
    """Check that the files of an element are complete if it is a layer, and that large arrays were written.

    Raises
    ------
    ValueError
        If they are not.
    """
    if path.is_dir() and name.startswith("layers/"):
        _check_complete(group, path, name)
    for part, array in _walk_arrays(group[name]):
        if array.nbytes >= MIN_BYTES and array.nchunks_initialized == 0:
            shape = " x ".join(map(str, array.shape))
            raise ValueError(f"{f'{name}/{part}'.rstrip('/')} should have {shape} values, which were never written")


def _check_complete(group: Any, folder: Path, element: str) -> None:
    for name, array, is_full in _list_arrays(group, element):
        if not (folder / name).is_dir() or (is_full and array.nchunks_initialized < array.nchunks):
            raise ValueError(f"files of {name} are missing: the folder was not copied or written completely")
        for file in _list_blosc_files(array, folder / name):
            if _is_truncated(file):
                raise ValueError(f"{file.relative_to(folder)} is truncated")


def _list_arrays(group: Any, element: str) -> Iterator[tuple[str, Any, bool]]:
    """Yield the name of each array of an element, the array, and whether all its files must exist."""
    stored = group[element]
    arrays = dict(_walk_arrays(stored))
    is_sparse = stored.attrs.get("encoding-type") in ("csr_matrix", "csc_matrix")
    for name, array in arrays.items():
        # zarr writes no files for zeros. The indices of a few values are all 0 if the values are in the first column.
        is_full = arrays["data"].shape[0] > arrays["indptr"].shape[0] if is_sparse else name == stored.attrs.get("_index")
        yield f"{element}/{name}".rstrip("/"), array, is_full


def _list_blosc_files(array: Any, folder: Path) -> list[Path]:
    """Return the files of an array, if blosc has compressed each of them; otherwise nothing."""
    codecs = array.compressors if hasattr(array, "compressors") else [array.compressor]
    if getattr(array, "shards", None) is not None or not any("blosc" in type(codec).__name__.lower() for codec in codecs):
        return []
    return [file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".") and file.name != "zarr.json"]


def _is_truncated(path: Path) -> bool:
    """Return whether a file is shorter than its blosc header says. blosc itself would read beyond the end of its memory."""
    with path.open("rb") as file:
        header = file.read(16)
    return len(header) < 16 or int.from_bytes(header[12:], "little") > path.stat().st_size


def _walk_arrays(stored: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the name and the array of each array in a group and its subgroups, or an array itself."""
    if not hasattr(stored, "keys"):
        yield prefix.rstrip("/"), stored
        return
    for name in stored:
        yield from _walk_arrays(stored[name], f"{prefix}{name}/")
