"""AnnData in a zarr store: a folder of many files, or a .zip."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import anndata as ad

__all__ = ["check_zarr", "is_zarr_folder", "open_zarr_group", "read_zarr"]

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
        check_zarr(group, path)
        return ad.read_zarr(group)
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
            raise ValueError(
                f"neither {' nor '.join(GROUP_FILES)} is at the top: zip the contents of the zarr folder, not the folder itself"
            )
    return zarr.open_group(ZipStore(path, mode="r"), mode="r")


def check_zarr(group: Any, path: Path) -> None:
    """Check that a store holds obs and var. In a folder, also check that its files are complete.

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
        _check_complete(group, path)


def _check_complete(group: Any, folder: Path) -> None:
    for name, array, is_full in _list_arrays(group):
        if not (folder / name).is_dir() or (is_full and array.nchunks_initialized < array.nchunks):
            raise ValueError(f"files of {name} are missing: the folder was not copied or written completely")
        for file in _list_blosc_files(array, folder / name):
            if _is_truncated(file):
                raise ValueError(f"{file.relative_to(folder)} is truncated")


def _list_arrays(group: Any) -> Iterator[tuple[str, Any, bool]]:
    """Yield the name of each array that is read, the array, and whether all its files must exist."""
    for kind in ("obs", "var"):
        for name, array in _walk_arrays(group[kind]):
            yield f"{kind}/{name}", array, name == group[kind].attrs.get("_index")
    matrices = ["X"] if "X" in group else []
    if "layers" in group:
        matrices += [f"layers/{name}" for name in group["layers"]]
    for name in matrices:
        arrays = dict(_walk_arrays(group[name])) if hasattr(group[name], "keys") else {"": group[name]}
        is_sparse = group[name].attrs.get("encoding-type") in ("csr_matrix", "csc_matrix")
        # zarr writes no files for zeros. The indices of a few values are all 0 if the values are in the first column.
        is_full = is_sparse and arrays["data"].shape[0] > arrays["indptr"].shape[0]
        for part, array in arrays.items():
            yield f"{name}/{part}".rstrip("/"), array, is_full


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


def _walk_arrays(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the name and the array of each array in a group and its subgroups."""
    for name in group:
        member = group[name]
        if hasattr(member, "keys"):
            yield from _walk_arrays(member, f"{prefix}{name}/")
        else:
            yield prefix + name, member
