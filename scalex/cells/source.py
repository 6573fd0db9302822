"""Cells from AnnData objects and files: one, or several joined."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scalex.cells.backed import BackedCells, read_rows
from scalex.cells.domains_and_labels import columns_of, domains, labels
from scalex.cells.file_cells import NotInRunsError
from scalex.cells.h5ad_cells import h5ad_store
from scalex.cells.in_memory import InMemoryCells, memory_store
from scalex.cells.joined import JoinedCells
from scalex.cells.joined_obs import read_column
from scalex.cells.one_source import OneSource
from scalex.cells.protocol import Cells, Store
from scalex.cells.stores import open_store
from scalex.features.names import format_names, make_unique, rename_by_column
from scalex.features.peaks import MatchPeaks
from scalex.formats import ReadOptions, find_sources, inside_h5mu, name_of_source, read_cells

__all__ = ["AnnDataSource"]

logger = logging.getLogger(__name__)

One: TypeAlias = str | Path | ad.AnnData


@dataclass(frozen=True, kw_only=True)
class AnnDataSource:
    """Cells of one AnnData, or of several joined on their features.

    Parameters
    ----------
    path
        A file or folder of cells (see `scalex.formats.FORMATS`), a glob for several, a name in ``~/.scalex/``, an AnnData object, or a list
        of them. Each file and object is a source. The matrix of objects that were opened with ``backed="r"`` stays in their files.
    batch_key
        Column of obs that holds each cell's domain; several columns, separated by commas, are joined with "_".
        None: several sources are the domains; a single source's domains are its column `source_key` where there is one, and
        otherwise it is one domain.
    batch_categories
        Names of the sources, one each. None: the files' names without ending; 0, 1, ... for AnnData objects.
    source_key
        Column of obs in which the source of each cell is written when there are several.
    join
        Features that all sources have ("inner"), or that any has ("outer", absent ones are 0).
    layer
        "X", or the name of a layer or of an obsm entry to use as the matrix.
    transpose
        Text files have a row for each feature and a column for each cell (False), or the other way (True).
    feature_type
        Of 10x files with several types of features, the one to use; None: "Gene Expression".
    var_names_from
        Column of var whose text are the names of the features, in sources that have it; None: the index of var.
    match_peaks
        Peaks of several sources are the same if their names are ("exact"), or those that overlap are united and their counts added
        ("overlap"). In a projection each peak counts for the one of the reference that it overlaps most.
    label_key
        Column of obs with known cell types, for scores and plots; not used in training. May be absent.
    fraction, n_obs
        Use a random share, in (0, 1], or a random number of the cells, of each domain its share.
    seed
        Seed of that choice.
    backed
        Leave the matrix and the annotation of .h5ad files and .zarr stores where they are and read them in runs of rows: those with a CSR
        or dense matrix, or with a CSC matrix and `cache`. Other sources are read into memory, with a message.
    memory_gb
        Memory that reading may take while cells that stay in their files are trained on, in GB; None: a quarter of what is free then.
    cache
        Folder in which the model's inputs of such cells are kept for later runs with the same sources and preprocessing; a matrix
        that is stored by columns is kept there by rows.
    """

    path: One | Sequence[One]
    batch_key: str | None = None
    batch_categories: Sequence[str] | None = None
    source_key: str = "batch"
    join: Literal["inner", "outer"] = "inner"
    layer: str = "X"
    transpose: bool = False
    feature_type: str | None = None
    var_names_from: str | None = None
    match_peaks: MatchPeaks = "exact"
    label_key: str = "cell_type"
    fraction: float | None = None
    n_obs: int | None = None
    seed: int = 124
    backed: bool = False
    memory_gb: float | None = None
    cache: str | Path | None = None

    def __post_init__(self) -> None:
        if self.cache is not None and not self.backed:
            raise ValueError("cache is for cells that stay in their files: set backed=true, or leave cache out.")
        if self.join not in ("inner", "outer"):
            raise ValueError(f"join={self.join!r}: allowed are 'inner' and 'outer'.")
        if self.match_peaks not in get_args(MatchPeaks):
            raise ValueError(f"match_peaks={self.match_peaks!r}: allowed are 'exact' and 'overlap'.")
        if self.fraction is not None and self.n_obs is not None:
            raise ValueError("fraction and n_obs are both given: give one of them.")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise ValueError(f"fraction={self.fraction}: it must be above 0 and at most 1.")
        if self.memory_gb is not None and self.memory_gb <= 0:
            raise ValueError(f"memory_gb={self.memory_gb}: it must be above 0.")
        if self.n_obs is not None and self.n_obs < 1:
            raise ValueError(f"n_obs={self.n_obs}: it must be at least 1.")
        if isinstance(self.path, Sequence) and not isinstance(self.path, str) and len(self.path) == 0:
            raise ValueError("No cells given: path is an empty list.")

    def open(self) -> Cells:
        """Read the sources, join them and find each cell's domain.

        Raises
        ------
        FileNotFoundError
            A file does not exist.
        KeyError
            A column, layer or obsm entry is not there; the message lists those that are.
        ValueError
            A file is not an AnnData, the sources share no feature, or a cell has no domain.
        """
        given = [self.path] if isinstance(self.path, str | Path | ad.AnnData) else list(self.path)
        paths: list[Path | ad.AnnData] = []
        for one in given:
            paths.extend([one] if isinstance(one, ad.AnnData) else find_sources(one))
        if len(paths) > 1 and self.batch_key is not None and self.source_key in columns_of(self.batch_key):
            raise ValueError(
                f"batch_key={self.batch_key!r} names the column in which the source of each cell is written (source_key). Leave "
                "batch_key out to have the sources as domains, or set source_key to another name to keep the column of the sources."
            )
        names = _source_names(paths, self.batch_categories)
        # Cells that were opened in their file are meant to stay there.
        in_files = self.backed or all(isinstance(one, ad.AnnData) and one.isbacked for one in paths)
        several = len(paths) > 1
        # One after the other: of each that is read into memory no more than the matrix that is used stays.
        stores: list[Store] = [self._open_one(one, name, in_files, several) for one, name in zip(paths, names, strict=True)]
        column = self.var_names_from
        if column is not None and not any(column in store.var for store in stores):
            there = dict.fromkeys(str(name) for store in stores for name in store.var.columns)
            raise KeyError(f"var_names_from={column!r} is not in var of any source. Columns: {format_names(there, 20)}.")
        join: Any = {"join": self.join, "source_key": self.source_key, "match_peaks": self.match_peaks}
        store = JoinedCells(stores, names, **join) if several else stores[0]
        n_cells, n_features = store.matrix.shape
        if n_cells == 0 or n_features == 0:
            raise ValueError(f"There is no cell or no feature: the matrix is {n_cells} x {n_features}.")
        table = store.table
        wanted = {self.label_key, *columns_of(self.batch_key or self.source_key)}
        obs = pd.DataFrame({name: read_column(table, name) for name in table.columns if name in wanted}, index=range(n_cells))
        domain = domains(
            obs,
            self.batch_key,
            self.source_key,
            several=several,
            columns=table.columns,
            name_of=lambda row: table.names(slice(row, row + 1))[0],
        )
        label = labels(obs, self.label_key)
        rows = self._sample(domain)
        if rows is not None:
            domain, label = domain[rows].remove_unused_categories(), None if label is None else label[rows].remove_unused_categories()
        if store.in_memory:
            kept = slice(0, n_cells) if rows is None else rows
            annotation = table.rows(kept) if isinstance(kept, slice) else read_rows(table, kept)
            return InMemoryCells(store.matrix.read(kept), annotation, store.var, domain, label)
        # The annotation of objects may be others than that of the files, after which a cache is called.
        identity = (
            None if any(isinstance(one, ad.AnnData) for one in paths) else self._identity([one for one in paths if isinstance(one, Path)])
        )
        cache = None if self.cache is None or identity is None else Path(self.cache)
        return BackedCells(store, domain, label, rows, self.memory_gb, cache, identity)

    def _open_one(self, one: Path | ad.AnnData, name: str, in_file: bool, several: bool) -> OneSource:
        """The cells of one source, in its file if they can stay there, with unique names of their features."""
        store = self._open_in_file(one, name, several) if in_file else None
        if store is None:
            if isinstance(one, Path):
                logger.info("Reads %s", one)
                adata = read_cells(one, ReadOptions(transpose=self.transpose, feature_type=self.feature_type))
            else:
                adata = one.to_memory() if one.isbacked else one
            store = memory_store(adata, self.layer, name, is_joined=several)
            logger.info("Read %s: %s x %s", name, *(f"{n:,}" for n in store.matrix.shape))
        var = rename_by_column(store.var, column=self.var_names_from, source=name, several=several)
        return replace(store, var=make_unique(var, "feature", name))

    def _open_in_file(self, one: Path | ad.AnnData, name: str, several: bool) -> OneSource | None:
        cache = None if self.cache is None else Path(self.cache)
        try:
            store = open_store(one, self.layer, name, cache) if isinstance(one, Path) else _open_backed(one, self.layer, name, cache)
        except NotInRunsError as reason:
            logger.info("Read into memory, although backed=true: %s%s", f"{name}: " if several else "", reason)
            return None
        logger.info("Opened %s: %s x %s; it stays on disk", getattr(one, "filename", one), *(f"{n:,}" for n in store.matrix.shape))
        return store

    def _identity(self, paths: Sequence[Path]) -> str:
        """Which cells these are, as text."""
        states = [state for path in paths for state in _state(path)]
        categories = None if self.batch_categories is None else [str(name) for name in self.batch_categories]
        options = (self.batch_key, categories, self.source_key, self.join, self.layer, self.var_names_from, self.match_peaks)
        # The seed is that of the choice: without one it changes nothing.
        chosen = None if self.fraction is None and self.n_obs is None else (self.fraction, self.n_obs, self.seed)
        return json.dumps([states, options, chosen])

    def _sample(self, domain: pd.Categorical) -> NDArray[np.int64] | None:
        """Rows of the cells to use, ascending, of each domain its share; None: all."""
        n_cells = len(domain)
        wanted = self.n_obs if self.n_obs is not None else None if self.fraction is None else max(1, round(self.fraction * n_cells))
        if wanted is None or wanted >= n_cells:
            return None
        rng = np.random.default_rng(self.seed)
        # The cells in random order, domain by domain; of them as many as are wanted, at equal distances.
        order = rng.permutation(n_cells)
        order = order[np.argsort(domain.codes[order], kind="stable")]
        at = ((np.arange(wanted) + rng.random()) * (n_cells / wanted)).astype(np.int64)
        logger.info("Sampled %s of %s cells", f"{wanted:,}", f"{n_cells:,}")
        return np.sort(order[np.minimum(at, n_cells - 1)])


def _open_backed(adata: ad.AnnData, layer: str, name: str, cache: Path | None) -> OneSource:
    """The cells of an AnnData that was opened in its file, with the annotation of the object, which may have been changed since."""
    if not adata.isbacked:
        raise NotInRunsError("it is there already")
    if adata.is_view:
        raise NotInRunsError("of a view of cells in a file, its rows are read")
    return h5ad_store(Path(str(adata.filename)), layer, name, cache, adata)


def _state(path: Path) -> list[tuple[str, int, int]]:
    """Path, size and time of a file, or of each file of a folder."""
    modality = inside_h5mu(path)
    path = path if modality is None else modality[0]
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _source_names(paths: Sequence[Path | ad.AnnData], categories: Sequence[str] | None) -> list[str]:
    if categories is not None:
        if len(categories) != len(paths):
            raise ValueError(f"batch_categories has {len(categories)} names for {len(paths)} sources: give one each.")
        names = [str(category) for category in categories]
        if len(set(names)) < len(names):
            raise ValueError(f"batch_categories={names}: each source needs a name of its own.")
        return names
    names = [str(i) if isinstance(one, ad.AnnData) else name_of_source(one) for i, one in enumerate(paths)]
    repeated = {name for name, count in Counter(names).items() if count > 1}
    files = [one.absolute() for one, name in zip(paths, names, strict=True) if name in repeated and isinstance(one, Path)]
    # Folders of the same name, as Cell Ranger gives them, are called by the first folder above them that tells them apart.
    for level in range(min((len(file.parents) for file in files), default=0)):
        above = {file: file.parents[level].name for file in files}
        if len(set(above.values()) | set(names)) == len(files) + len(set(names)):
            return [above[one.absolute()] if name in repeated else name for one, name in zip(paths, names, strict=True)]
    return [f"{name}-{i}" if name in repeated else name for i, name in enumerate(names)]
