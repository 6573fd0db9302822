"""Cells in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scalex.cells.one_source import OneSource
from scalex.features.annotation import make_writable, use_categories
from scalex.features.names import format_names, make_text, make_unique

# The layer that stands for `.raw`, which has features of its own.
RAW = "raw"

__all__ = ["InMemoryCells", "MemoryTable", "named_layers", "open_anndata"]


@dataclass(frozen=True)
class InMemoryCells:
    """Cells with their matrix in memory, (n_cells, n_features) CSR float32. See `Cells` for the other attributes."""

    matrix: sparse.csr_matrix
    obs: pd.DataFrame
    var: pd.DataFrame
    domain: pd.Categorical
    label: pd.Categorical | None = None

    def __post_init__(self) -> None:
        assert self.matrix.shape == (len(self.obs), len(self.var))
        assert len(self.domain) == len(self.obs)
        assert (np.asarray(self.domain.codes) >= 0).all(), "each cell has a domain"

    @property
    def in_memory(self) -> bool:
        """True."""
        return True

    @property
    def memory_gb(self) -> None:
        """None: nothing is read during training."""
        return

    @property
    def cache(self) -> None:
        """None: nothing is kept."""
        return

    @property
    def identity(self) -> None:
        """None: unknown."""
        return

    def read_obs(self, rows: slice) -> pd.DataFrame:
        """Return the annotation of a run of cells."""
        return self.obs.iloc[rows]

    def read(self, rows: slice | NDArray[np.int64]) -> sparse.csr_matrix:
        """Return the stored values of `rows`, (len(rows), n_features) float32."""
        return self.matrix[rows]


class MemoryTable:
    """Annotation of the cells of an AnnData. See `Table` for the attributes and methods.

    Parameters
    ----------
    obs
        The annotation.
    source
        Name of the source, for messages.
    is_joined
        Whether the table is joined with others. Its columns of objects then become categories or booleans.
    """

    def __init__(self, obs: pd.DataFrame, source: str, *, is_joined: bool = False) -> None:
        table = make_writable(make_unique(obs, "cell", source), f"obs of {source}")
        self._obs = use_categories(table) if is_joined else table
        self.columns = list(self._obs.columns)
        self.n_rows = len(self._obs)

    def read(self, rows: slice) -> pd.DataFrame:
        """Return a run of rows, with all columns."""
        return self._obs.iloc[rows].copy()

    def read_names(self, rows: slice) -> pd.Index:
        """Return the names of a run of cells."""
        return self._obs.index[rows]

    def hash_names(self) -> NDArray[np.uint64]:
        """Return a hash of each name, (n_rows,). Collisions are practically impossible."""
        hashes: NDArray[np.uint64] = pd.util.hash_array(self._obs.index.to_numpy(object), categorize=False)
        return hashes

    def iter_column(self, name: str) -> Iterator[pd.Series]:
        """Yield a column in one chunk, without cell names."""
        yield self._obs[name].reset_index(drop=True)


@dataclass(frozen=True)
class _MemoryMatrix:
    values: sparse.csr_matrix

    @property
    def shape(self) -> tuple[int, int]:
        n_cells, n_features = self.values.shape
        return n_cells, n_features

    def read(self, rows: slice | NDArray[np.int64]) -> sparse.csr_matrix:
        # Indexing would copy the whole matrix.
        whole = isinstance(rows, slice) and rows.indices(self.shape[0]) == (0, self.shape[0], 1)
        return self.values if whole else self.values[rows]


def named_layers(adata: ad.AnnData) -> list[str]:
    """Return the names of the layers, without the one of anndata 0.13 that stands for X."""
    return [name for name in adata.layers if name is not None]


def open_anndata(adata: ad.AnnData, layer: str, source: str, *, is_joined: bool) -> OneSource:
    """Open the cells of an AnnData, with one of its matrices as CSR float32.

    Parameters
    ----------
    adata
        The cells. They are not changed.
    layer
        "X", "raw", or the name of a layer or of an entry of obsm.
    source
        Name of the source, for messages.
    is_joined
        Whether other sources are joined to it.

    Raises
    ------
    KeyError
        If the matrix does not exist.
    ValueError
        If X is empty.
    """
    var = adata.var
    if layer == "X":
        matrix = adata.X
        if matrix is None:
            raise ValueError(f"{source}: X is empty. Layers: {format_names(named_layers(adata))}; choose one with layer=.")
    elif layer in adata.layers:
        matrix = adata.layers[layer]
    elif layer == RAW and adata.raw is not None:
        matrix, var = adata.raw.X, adata.raw.var
    elif layer in adata.obsm:
        entry = adata.obsm[layer]
        matrix = entry if sparse.issparse(entry) else np.asarray(entry)
        names = entry.columns if isinstance(entry, pd.DataFrame) else [f"{layer}_{i}" for i in range(matrix.shape[1])]
        var = pd.DataFrame(index=make_text(pd.Index(names)))
    else:
        raw = "; raw" if adata.raw is not None else ""
        raise KeyError(
            f"layer={layer!r} is not in {source}. Layers: {format_names(named_layers(adata))}; obsm: {format_names(adata.obsm)}{raw}; or X."
        )
    values = sparse.csr_matrix(matrix, dtype=np.float32)
    if not values.has_canonical_format:
        values = values.copy()
        values.sum_duplicates()
    return OneSource(_MemoryMatrix(values), MemoryTable(adata.obs, source, is_joined=is_joined), var, in_memory=True)
