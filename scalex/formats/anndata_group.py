"""Reading of an AnnData from a group of an HDF5 file or zarr store, element by element."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

__all__ = ["read_anndata_group"]

logger = logging.getLogger(__name__)

# Elements of which cells can do without some.
OPTIONAL = ("layers", "obsm", "varm", "obsp", "varp", "uns")


def read_anndata_group(group: Any, path: Path, check: Callable[[str], None]) -> ad.AnnData:
    """Read an AnnData. What cannot be read of layers, obsm, varm, obsp, varp, uns and raw is left out, with a warning that names it.

    Parameters
    ----------
    group
        The group that holds X, obs and var.
    path
        Path of the file, for the warning.
    check
        Function that raises an error if the element of a name, such as "obsm/X_pca", must not be read.

    Raises
    ------
    Exception
        If X, obs or var cannot be read: KeyError, OSError, ValueError and others of anndata.
    """
    if missing := [name for name in ("obs", "var") if name not in group]:
        # Without var, anndata would number the features.
        raise KeyError(f"it holds no {' and no '.join(missing)}, but {', '.join(sorted(group)[:8]) or 'nothing'}")
    for name in ("obs", "var"):
        check(name)
    adata = ad.AnnData(**{name: _read_table(group[name]) for name in ("obs", "var")})
    if "X" in group and getattr(group["X"], "shape", ()) is not None:
        check("X")
        adata.X = _read_matrix(group["X"], adata.shape)
    left_out = []
    for name in _list_optional(group):
        try:
            check(name)
            _add(adata, group, name)
        except (MemoryError, ImportError):
            raise
        # anndata raises errors of many kinds.
        except Exception as error:
            left_out.append(f"{name} ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})")
    if left_out:
        logger.warning("%s: left out what cannot be read: %s", path, ", ".join(left_out))
    return adata


def _read_table(stored: Any) -> Any:
    table = ad.io.read_elem(stored)
    index = stored.attrs.get("_index", "_index")
    if not isinstance(table, dict) or index not in table:
        return table
    # Some versions of SeuratDisk do not say that it is a table.
    columns = {name: values for name, values in table.items() if name != index and np.ndim(values) == 1}
    return pd.DataFrame(columns, index=table[index])


def _list_optional(group: Any) -> list[str]:
    names = [f"{kind}/{name}" for kind in OPTIONAL if kind in group and hasattr(group[kind], "keys") for name in group[kind]]
    return names + ["raw"] * ("raw" in group and hasattr(group["raw"], "keys"))


def _add(adata: ad.AnnData, group: Any, name: str) -> None:
    kind, _, key = name.partition("/")
    if kind == "layers":
        adata.layers[key] = _read_matrix(group[name], adata.shape)
    elif kind == "raw":
        parts = {part: ad.io.read_elem(group["raw"][part]) for part in ("X", "var", "varm") if part in group["raw"]}
        adata.raw = ad.AnnData(**parts, obs=adata.obs[[]])
    else:
        getattr(adata, kind)[key] = ad.io.read_elem(group[name])


def _read_matrix(stored: Any, shape: tuple[int, int]) -> Any:
    """Read a matrix, after a check of its sizes."""
    is_sparse = hasattr(stored, "keys") and "indptr" in stored
    if not is_sparse and hasattr(stored, "keys"):
        return ad.io.read_elem(stored)
    # Versions of anndata before 0.7 wrote the second name.
    sizes = stored.attrs["shape" if "shape" in stored.attrs else "h5sparse_shape"] if is_sparse else stored.shape
    own = tuple(int(size) for size in sizes)
    if own != shape:
        raise ValueError(f"{stored.name.strip('/')} is {' x '.join(map(str, own))}, but obs has {shape[0]} rows and var has {shape[1]}")
    if is_sparse:
        n_values = {stored[part].shape[0] for part in ("data", "indices")} | {int(stored["indptr"][-1])}
        if len(n_values) > 1:
            raise ValueError(
                f"{stored.name.strip('/')} has {stored['data'].shape[0]} values and {stored['indices'].shape[0]} positions, but its indptr "
                f"ends at {int(stored['indptr'][-1])}"
            )
    return ad.io.read_elem(stored)
