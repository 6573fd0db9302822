"""Reading of a source of cells, in any format, as an AnnData."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import anndata as ad
import h5py
import torch
from scipy import sparse

from scalex.features.names import make_text
from scalex.formats.advice import AdvisedError, advise_extension
from scalex.formats.anndata_group import read_anndata_group
from scalex.formats.h5mu import read_modality
from scalex.formats.hdf5 import check_element, check_links, load_filters
from scalex.formats.layouts import describe_layouts
from scalex.formats.matrix_folder import read_matrix_folder
from scalex.formats.packed import check_content
from scalex.formats.sources import split_h5mu_path
from scalex.formats.tenx_h5 import read_tenx_h5
from scalex.formats.text import EXTENSIONS as TEXT_EXTENSIONS
from scalex.formats.text import PACKED, read_text
from scalex.formats.types import select_feature_type
from scalex.formats.zarr_store import is_zarr_folder, read_zarr

__all__ = ["READERS", "ReadOptions", "Reader", "describe_formats", "read_cells"]

# Names by the conventions of loompy, and those that anndata writes.
LOOM_CELLS = ("CellID", "obs_names")
LOOM_FEATURES = ("Gene", "var_names", "Accession")


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Options of formats that do not determine the cells by themselves.

    Attributes
    ----------
    transpose
        Text files have a row for each feature and a column for each cell (False), or a row for each cell (True).
    feature_type
        The type of features to use from 10x files with several types; None: "Gene Expression".
    follow_links
        Read data that an HDF5 file takes from other files.
    """

    transpose: bool = False
    feature_type: str | None = None
    follow_links: bool = False


Reader: TypeAlias = Callable[[Path, ReadOptions], ad.AnnData]


def read_cells(path: Path, options: ReadOptions = ReadOptions()) -> ad.AnnData:
    """Read the cells of a file or folder.

    Parameters
    ----------
    path
        The file or folder, or ``file.h5mu/modality``.
    options
        Options of its format.

    Returns
    -------
    AnnData
        Cells x features, with the names in the file.

    Raises
    ------
    ValueError
        If the format is unknown, the file is damaged, its parts do not fit together, or a package is not installed.
    """
    modality = split_h5mu_path(path)
    file = path if modality is None else modality[0]
    if file.is_file():
        check_content(file)
        _check_hdf5(file, options)
    return _name_with_text(_find_reader(path)(path, options) if modality is None else _read_h5mu(*modality))


def _check_hdf5(path: Path, options: ReadOptions) -> None:
    """Check that a file takes no data from others, if it is an HDF5 file, and load the filters that it may need."""
    load_filters()
    if options.follow_links or not h5py.is_hdf5(path):
        return
    try:
        with h5py.File(path) as file:
            check_links(file)
    except OSError:
        # Reading the file will raise the error.
        return


def _name_with_text(adata: ad.AnnData) -> ad.AnnData:
    """Return the cells with names that .h5ad can hold: text, in an index without the name of a column."""
    for table in (adata.obs, adata.var):
        names = table.index.name
        table.index = make_text(table.index).rename(names if isinstance(names, str) and names not in table else None)
    return adata


def _find_reader(path: Path) -> Reader:
    if path.is_dir() and is_zarr_folder(path):
        return READERS[".zarr"]
    extensions = [extension for extension in READERS if path.name.lower().endswith(extension)]
    if extensions:
        return READERS[max(extensions, key=len)]
    if path.is_dir():
        return _read_matrix_folder
    advice = advise_extension(path)
    if advice is not None:
        raise ValueError(f"{path} {advice}.")
    raise ValueError(f"{path}: cells cannot be read from this format. Known formats: {describe_formats()}.")


def describe_formats() -> str:
    """Return text that lists the formats, for messages."""
    packed = {f"{extension}{own}" for extension in READERS for own in PACKED[1:]}
    extensions = ", ".join(extension for extension in READERS if extension not in packed)
    return f"{extensions} (text and .zarr also compressed), file.h5mu/modality, and folders ({describe_layouts()})"


def _read_checked(path: Path, kind: str, read: Callable[[], ad.AnnData]) -> ad.AnnData:
    """Call `read` and check the matrices. Errors are turned into one that names the file."""
    try:
        adata = read()
        # scipy does not check stored columns, and writes outside its memory if one is outside the matrix.
        for matrix in (adata.X, *adata.layers.values()):
            if isinstance(matrix, sparse.spmatrix | sparse.sparray):
                matrix.check_format(full_check=True)
    except (MemoryError, ImportError, AdvisedError):
        raise
    except Exception as error:
        raise ValueError(
            f"{path} is not a readable {kind} file ({type(error).__name__}: {error}). It may be truncated or damaged: copy it again "
            "from its origin, or write it again."
        ) from error
    return adata


def _read_anndata(path: Path, options: ReadOptions) -> ad.AnnData:
    return _read_checked(path, "AnnData", lambda: _read_h5ad(path))


def _read_zarr(path: Path, options: ReadOptions) -> ad.AnnData:
    return _read_checked(path, "AnnData zarr", lambda: read_zarr(path))


def _read_matrix_folder(path: Path, options: ReadOptions) -> ad.AnnData:
    return read_matrix_folder(path, options.feature_type)


def _read_table(path: Path, options: ReadOptions) -> ad.AnnData:
    return read_text(path, transpose=options.transpose)


def _read_h5ad(path: Path) -> ad.AnnData:
    with h5py.File(path) as file:
        # Before version 0.7, anndata wrote obs as one array, and a part of it to uns.
        if not isinstance(file.get("obs"), h5py.Dataset):
            return read_anndata_group(file, path, lambda name: check_element(file[name]))
    return ad.read_h5ad(path)


def _read_hdf5(path: Path, options: ReadOptions) -> ad.AnnData:
    """Read a file by what is in it: its extension fits many formats."""
    return CONTENTS.get(_find_content(path), _read_tenx_h5)(path, options)


def _find_content(path: Path) -> str:
    """Return the name that tells the format of a file, or any other."""
    try:
        with h5py.File(path) as file:
            return next((name for name in CONTENTS if name in file), "matrix")
    except OSError:
        # Reading the file will raise the error.
        return "matrix"


def _read_tenx_h5(path: Path, options: ReadOptions) -> ad.AnnData:
    return select_feature_type(_read_checked(path, "10x .h5", lambda: read_tenx_h5(path)), options.feature_type, path)


def _refuse_seurat(path: Path, options: ReadOptions) -> ad.AnnData:
    raise ValueError(f"{path} {advise_extension(path.with_suffix('.h5seurat'))}.")


def _read_loom(path: Path, options: ReadOptions) -> ad.AnnData:
    n_threads = torch.get_num_threads()
    try:
        import loompy  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{path}: .loom files are read by loompy, which is not installed: pip install 'scalex[loom]'.") from error
    finally:
        # The import of loompy makes torch use all cores, which would change the bits of its sums.
        torch.set_num_threads(n_threads)
    cells, features = _find_loom_names(path)
    with warnings.catch_warnings():
        # anndata advises those who write the format to choose another.
        warnings.filterwarnings("ignore", message="The function read_loom is deprecated", category=FutureWarning)
        return _read_checked(path, ".loom", lambda: ad.io.read_loom(path, obs_names=cells, var_names=features, validate=False))


def _find_loom_names(path: Path) -> tuple[str, str]:
    """Return the attributes of a .loom file that hold the names of cells and of features."""
    names = []
    for kind, group, candidates in (("cells", "col_attrs", LOOM_CELLS), ("features", "row_attrs", LOOM_FEATURES)):
        try:
            with h5py.File(path) as file:
                attributes = list(file[group])
        except (OSError, KeyError) as error:
            raise ValueError(f"{path} is not a readable .loom file ({error}). It may be truncated or damaged: copy it again.") from error
        name = next((name for name in candidates if name in attributes), None)
        if name is None:
            raise ValueError(
                f"{path} has no names of {kind}: {group} needs {' or '.join(candidates)}, but holds {', '.join(attributes) or 'nothing'}. "
                "Rename the attribute that holds them."
            )
        names.append(name)
    return names[0], names[1]


def _read_only_modality(path: Path, options: ReadOptions) -> ad.AnnData:
    modalities = _list_modalities(path)
    if len(modalities) > 1:
        raise ValueError(f"{path} holds several modalities: {', '.join(modalities)}. Name one of them, as in {path}/{modalities[0]}.")
    return _read_h5mu(path, modalities[0])


def _read_h5mu(path: Path, modality: str) -> ad.AnnData:
    modalities = _list_modalities(path)
    if modality not in modalities:
        raise ValueError(
            f"{path} has no modality {modality!r}. Modalities: {', '.join(modalities)}. Name one of them, as in {path}/{modalities[0]}."
        )
    return _read_checked(path, ".h5mu", lambda: read_modality(path, modality))


def _list_modalities(path: Path) -> list[str]:
    try:
        with h5py.File(path) as file:
            modalities = list(file["mod"])
    except (OSError, KeyError) as error:
        raise ValueError(f"{path} is not a readable .h5mu file ({error}). Copy it again, or write it with MuData.write.") from error
    if not modalities:
        raise ValueError(f"{path} holds no modality. Write it again with MuData.write.")
    return modalities


# By the extension of the file, in lower case; the longest match counts. To add a format, write a reader and add it here.
READERS: dict[str, Reader] = {
    ".h5ad": _read_anndata,
    ".zarr": _read_zarr,
    ".zarr.zip": _read_zarr,
    ".h5": _read_hdf5,
    ".hdf5": _read_hdf5,
    **dict.fromkeys(TEXT_EXTENSIONS, _read_table),
    ".mtx": _read_matrix_folder,
    ".mtx.gz": _read_matrix_folder,
    ".loom": _read_loom,
    ".h5mu": _read_only_modality,
}
# By a name at the top of a file whose extension is that of HDF5.
CONTENTS: dict[str, Reader] = {
    "mod": _read_only_modality,
    "obs": _read_anndata,
    "col_attrs": _read_loom,
    "cell.names": _refuse_seurat,
}
