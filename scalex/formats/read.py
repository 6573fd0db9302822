"""One source of cells, of any format, as an AnnData."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import anndata as ad
import h5py
import scanpy as sc
import torch
from scipy import sparse

from scalex.formats.sources import inside_h5mu
from scalex.formats.tenx import is_tenx_folder, read_tenx_folder
from scalex.formats.text import ENDINGS as TEXT_ENDINGS
from scalex.formats.text import read_text
from scalex.formats.types import of_one_type
from scalex.formats.zarr_store import is_zarr_folder, read_zarr

__all__ = ["FORMATS", "READERS", "ReadOptions", "Reader", "read_cells"]

FORMATS = (
    ".h5ad, .zarr, .csv, .tsv and .txt (also .gz), a folder of 10x .mtx files, a .mtx(.gz) file beside its barcodes and features, 10x .h5, "
    "file.h5mu/modality, .loom"
)


# As loompy's own conventions have it, and as anndata writes them.
LOOM_CELLS = ("CellID", "obs_names")
LOOM_FEATURES = ("Gene", "var_names", "Accession")


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What formats other than AnnData's own leave open.

    Attributes
    ----------
    transpose
        Text files: False, a row for each feature and a column for each cell; True, the other way.
    feature_type
        10x files with several types of features: the one to use; None: "Gene Expression".
    """

    transpose: bool = False
    feature_type: str | None = None


Reader: TypeAlias = Callable[[Path, ReadOptions], ad.AnnData]


def read_cells(path: Path, options: ReadOptions = ReadOptions()) -> ad.AnnData:
    """Read the cells of a file or folder.

    Parameters
    ----------
    path
        As `find_sources` gives it.
    options
        How to read it.

    Returns
    -------
    AnnData
        Cells x features, with names as they are in the file.

    Raises
    ------
    ValueError
        If the format is not known, the file is damaged or its parts do not fit together, or it needs a package that is not
        installed; the message says what to do.
    """
    modality = inside_h5mu(path)
    if modality is not None:
        return _read_h5mu(*modality)
    return _find_reader(path)(path, options)


def _find_reader(path: Path) -> Reader:
    if path.is_dir() and is_zarr_folder(path):
        return READERS[".zarr"]
    found = [ending for ending in READERS if path.name.lower().endswith(ending)]
    if found:
        return READERS[max(found, key=len)]
    if path.is_dir() and is_tenx_folder(path):
        return _read_tenx
    if path.is_dir():
        there = sorted(one.name for one in path.iterdir())
        raise ValueError(
            f"{path} is a folder that holds neither a zarr store nor a 10x matrix (matrix.mtx, barcodes.tsv, features.tsv), but "
            f"{', '.join(there[:5]) or 'nothing'}. For several files give a list or a glob, such as {path}/*.h5ad."
        )
    raise ValueError(f"{path}: cells cannot be read from this format. Known are {FORMATS}.")


def _read_checked(path: Path, kind: str, read: Callable[[], ad.AnnData]) -> ad.AnnData:
    """What is read; damage is told in plain words."""
    try:
        adata = read()
        # scipy takes these as they are, and writes beyond its memory where a column is none.
        for matrix in (adata.X, *adata.layers.values()):
            if isinstance(matrix, sparse.spmatrix | sparse.sparray):
                matrix.check_format(full_check=True)
    except (MemoryError, ImportError):
        raise
    except Exception as error:
        raise ValueError(
            f"{path} is not a readable {kind} file ({type(error).__name__}: {error}). It may be cut off or damaged: copy it again from "
            "where it came, or write it again."
        ) from error
    return adata


def _read_anndata(path: Path, options: ReadOptions) -> ad.AnnData:
    return _read_checked(path, "AnnData", lambda: _read_h5ad(path))


def _read_zarr(path: Path, options: ReadOptions) -> ad.AnnData:
    return _read_checked(path, "AnnData zarr", lambda: read_zarr(path))


def _read_tenx(path: Path, options: ReadOptions) -> ad.AnnData:
    return read_tenx_folder(path, options.feature_type)


def _read_table(path: Path, options: ReadOptions) -> ad.AnnData:
    return read_text(path, transpose=options.transpose)


def _read_h5ad(path: Path) -> ad.AnnData:
    with h5py.File(path) as file:
        # Without var, anndata numbers the features.
        lacking = [name for name in ("obs", "var") if name not in file]
        if lacking:
            raise KeyError(f"it holds no {' and no '.join(lacking)}, but {', '.join(list(file)[:8]) or 'nothing'}")
    return ad.read_h5ad(path)


def _read_tenx_h5(path: Path, options: ReadOptions) -> ad.AnnData:
    other = _other_format(path)
    if other is not None:
        raise ValueError(f"{path} is called as the files of Cell Ranger are, but is a {other} file. Rename it to {path.stem}{other}.")
    adata = _read_checked(path, "10x .h5", lambda: sc.read_10x_h5(path, gex_only=False))
    return of_one_type(adata, options.feature_type, path)


def _other_format(path: Path) -> str | None:
    """The ending that a .h5 file should have, where it is of another format."""
    try:
        with h5py.File(path) as file:
            return next((ending for name, ending in (("mod", ".h5mu"), ("obs", ".h5ad"), ("col_attrs", ".loom")) if name in file), None)
    except OSError:
        # Told when it is read.
        return None


def _read_loom(path: Path, options: ReadOptions) -> ad.AnnData:
    n_threads = torch.get_num_threads()
    try:
        import loompy  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{path}: .loom files are read by loompy, which is not installed: pip install 'scalex[loom]'.") from error
    finally:
        # loompy compiles something for all cores when it is imported, after which torch would use them all, and its sums be others.
        torch.set_num_threads(n_threads)
    cells, features = _loom_names(path)
    return _read_checked(path, ".loom", lambda: ad.io.read_loom(path, obs_names=cells, var_names=features, validate=False))


def _loom_names(path: Path) -> tuple[str, str]:
    """Under what the names of cells and features are in a .loom file."""
    names = []
    for what, group, usual in (("cells", "col_attrs", LOOM_CELLS), ("features", "row_attrs", LOOM_FEATURES)):
        try:
            with h5py.File(path) as file:
                there = list(file[group])
        except (OSError, KeyError) as error:
            raise ValueError(f"{path} is not a readable .loom file ({error}). It may be cut off or damaged: copy it again.") from error
        found = [name for name in usual if name in there]
        if not found:
            raise ValueError(
                f"{path} has no names of its {what}: they are looked for in {group} as {' or '.join(usual)}, and there is: "
                f"{', '.join(there) or 'nothing'}."
            )
        names.append(found[0])
    return names[0], names[1]


def _read_only_modality(path: Path, options: ReadOptions) -> ad.AnnData:
    there = _modalities(path)
    if len(there) > 1:
        raise ValueError(f"{path} holds several modalities: name one of them, as in {path}/{there[0]}. There is: {', '.join(there)}.")
    return _read_h5mu(path, there[0])


def _read_h5mu(path: Path, modality: str) -> ad.AnnData:
    import mudata

    there = _modalities(path)
    if modality not in there:
        raise ValueError(f"{path} has no modality {modality!r}. There is: {', '.join(there)}; name one of them, as in {path}/{there[0]}.")
    return _read_checked(path, ".h5mu", lambda: mudata.read_h5ad(path, mod=modality))


def _modalities(path: Path) -> list[str]:
    try:
        with h5py.File(path) as file:
            there = list(file["mod"])
    except (OSError, KeyError) as error:
        raise ValueError(f"{path} is not a readable .h5mu file ({error}). Copy it again, or write it with MuData.write.") from error
    if not there:
        raise ValueError(f"{path} holds no modality.")
    return there


# By the end of a file's name, in lower case; of several that fit, the longest counts. To add a format, write a reader and name it here.
READERS: dict[str, Reader] = {
    ".h5ad": _read_anndata,
    ".zarr": _read_zarr,
    ".zarr.zip": _read_zarr,
    ".h5": _read_tenx_h5,
    **dict.fromkeys(TEXT_ENDINGS, _read_table),
    ".mtx": _read_tenx,
    ".mtx.gz": _read_tenx,
    ".loom": _read_loom,
    ".h5mu": _read_only_modality,
}
