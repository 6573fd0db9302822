"""AnnData in zarr: a folder of many files, or a .zip of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import anndata as ad

__all__ = ["check_zarr", "is_zarr_folder", "open_zarr_group", "read_zarr"]

# The files of which one is at the top of each store, of zarr's formats 2 and 3.
TOP = (".zgroup", "zarr.json")


def is_zarr_folder(folder: Path) -> bool:
    """Whether a folder, whatever it is called, is a group of a zarr store."""
    return any((folder / name).is_file() for name in TOP)


def read_zarr(path: Path) -> ad.AnnData:
    """Read the AnnData of a zarr folder or .zip.

    Raises
    ------
    ValueError
        If it is no zarr store or one of something else, or files are missing from the folder.
    """
    group = open_zarr_group(path)
    try:
        check_zarr(group, path)
        return ad.read_zarr(group)
    finally:
        group.store.close()


def open_zarr_group(path: Path) -> Any:
    """The group at the root of a zarr folder or .zip.

    Raises
    ------
    ValueError
        If it is no zarr store.
    """
    import zarr
    from zarr.storage import ZipStore

    if path.is_dir():
        if not is_zarr_folder(path):
            raise ValueError(f"it is a folder with neither {' nor '.join(TOP)} in it, and so no zarr store")
        return zarr.open_group(path, mode="r")
    with ZipFile(path) as packed:
        if not set(TOP) & set(packed.namelist()):
            raise ValueError(f"neither {' nor '.join(TOP)} is at its top: zip what is in the zarr folder, and not the folder itself")
    return zarr.open_group(ZipStore(path, mode="r"), mode="r")


def check_zarr(group: Any, path: Path) -> None:
    """See that a store has obs and var, and, if it is a folder, that no file of the matrices and the names is missing.

    zarr reads 0, and no name, for what is not there. Of annotation and dense matrices, whose files may be left out where all is 0, it is
    seen that each array is there. No file may be cut off.

    Raises
    ------
    ValueError
        If something is missing.
    """
    if lacking := [name for name in ("obs", "var") if name not in group]:
        raise ValueError(f"it holds no {' and no '.join(lacking)}, but {', '.join(sorted(group)[:8]) or 'nothing'}")
    if path.is_dir():
        _check_whole(group, path)


def _check_whole(group: Any, folder: Path) -> None:
    for name, array, is_full in _arrays(group):
        if not (folder / name).is_dir() or (is_full and array.nchunks_initialized < array.nchunks):
            raise ValueError(f"files of {name} are missing: not all of the folder was copied, or it was not written to its end")
        for file in _compressed_by_blosc(array, folder / name):
            if _is_cut_off(file):
                raise ValueError(f"{file.relative_to(folder)} is cut off")


def _arrays(group: Any) -> Iterator[tuple[str, Any, bool]]:
    """The arrays that are read, and whether all their files have to be there."""
    for kind in ("obs", "var"):
        for name, array in _below(group[kind]):
            yield f"{kind}/{name}", array, name == group[kind].attrs.get("_index")
    matrices = ["X"] if "X" in group else []
    if "layers" in group:
        matrices += [f"layers/{name}" for name in group["layers"]]
    for name in matrices:
        arrays = dict(_below(group[name])) if hasattr(group[name], "keys") else {"": group[name]}
        is_sparse = group[name].attrs.get("encoding-type") in ("csr_matrix", "csc_matrix")
        # zarr leaves out files in which all is 0, as are the places of the values if these are few and all in the first column.
        is_full = is_sparse and arrays["data"].shape[0] > arrays["indptr"].shape[0]
        for part, array in arrays.items():
            yield f"{name}/{part}".rstrip("/"), array, is_full


def _compressed_by_blosc(array: Any, folder: Path) -> list[Path]:
    """The files of an array, if it is blosc that has compressed them one by one."""
    codecs = array.compressors if hasattr(array, "compressors") else [array.compressor]
    if getattr(array, "shards", None) is not None or not any("blosc" in type(codec).__name__.lower() for codec in codecs):
        return []
    return [file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".") and file.name != "zarr.json"]


def _is_cut_off(file: Path) -> bool:
    """Whether a file is shorter than blosc says at its beginning; blosc itself would read on in the memory behind it."""
    with file.open("rb") as opened:
        header = opened.read(16)
    return len(header) < 16 or int.from_bytes(header[12:], "little") > file.stat().st_size


def _below(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    for name in group:
        member = group[name]
        if hasattr(member, "keys"):
            yield from _below(member, f"{above}{name}/")
        else:
            yield above + name, member
