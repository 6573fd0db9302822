"""Cells from AnnData objects and files: one, or several joined."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scalex.cells.backed import BackedCells, ChosenCells
from scalex.cells.domains_and_labels import columns_of, domains, labels
from scalex.cells.h5ad_cells import StoredCells, not_backed_because
from scalex.cells.in_memory import InMemoryCells
from scalex.cells.joined import JoinedCells
from scalex.cells.protocol import Cells
from scalex.features.joining import check_joinable, harmonize_names, join_features, make_writable, rename_features
from scalex.features.names import format_names, make_unique, rename_by_column
from scalex.features.peaks import MatchPeaks
from scalex.formats import ReadOptions, located, name_of_source, read_cells

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
        Leave the matrix and the annotation in their files and read them piece by piece: for .h5ad files with a CSR or dense matrix, or
        with a CSC matrix and `cache`. If one of the sources is something else, all are read into memory, with a message.
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
            paths.extend([one] if isinstance(one, ad.AnnData) else located(one))
        if len(paths) > 1 and self.batch_key is not None and self.source_key in columns_of(self.batch_key):
            raise ValueError(
                f"batch_key={self.batch_key!r} names the column in which the source of each cell is written (source_key). Leave "
                "batch_key out to have the sources as domains, or set source_key to another name to keep the column of the sources."
            )
        names = _source_names(paths, self.batch_categories)
        # Cells that were opened in their file are meant to stay there.
        all_opened = all(isinstance(one, ad.AnnData) and one.isbacked for one in paths)
        if (self.backed or all_opened) and (cells := self._open_backed(paths, names)) is not None:
            return cells
        sources = []
        # One after the other: of each no more than the matrix that is used stays.
        for one, name in zip(paths, names, strict=True):
            sources.append(self._select(self._read(one), name, several=len(paths) > 1))
            logger.info("Read %s: %s x %s", name, f"{len(sources[-1].obs):,}", f"{len(sources[-1].var):,}")
        self._check_named(sources)
        source = sources[0] if len(sources) == 1 else self._join(sources, names)
        _check_not_empty(len(source.obs), len(source.var))
        domain = domains(source.obs, self.batch_key, self.source_key, several=len(sources) > 1)
        rows = self._sample(domain)
        if rows is not None:
            source = _Source(source.matrix[rows], source.obs.iloc[rows].copy(), source.var)
            domain = domain[rows].remove_unused_categories()
        return InMemoryCells(source.matrix, source.obs, source.var, domain, labels(source.obs, self.label_key))

    def _read(self, one: Path | ad.AnnData) -> ad.AnnData:
        if isinstance(one, ad.AnnData):
            return one.to_memory() if one.isbacked else one
        logger.info("Reads %s", one)
        return read_cells(one, ReadOptions(transpose=self.transpose, feature_type=self.feature_type))

    def _open_backed(self, paths: Sequence[Path | ad.AnnData], names: Sequence[str]) -> BackedCells | None:
        matrix = self.layer if self.layer == "X" else f"layers/{self.layer}"
        cache = None if self.cache is None else Path(self.cache)
        files = []
        for one, name in zip(paths, names, strict=True):
            reason, file = _where(one, matrix, cache)
            if file is None:
                logger.info("Read into memory, although backed=true: %s%s", f"{name}: " if len(paths) > 1 else "", reason)
                return None
            files.append(file)
        several = len(files) > 1
        sources = []
        for one, path, name in zip(paths, files, names, strict=True):
            name_features = partial(rename_by_column, column=self.var_names_from, source=name, several=several)
            opened = one if isinstance(one, ad.AnnData) else None
            sources.append(StoredCells(path, matrix, name, cache, name_features, opened))
        for path, source in zip(files, sources, strict=True):
            logger.info("Opened %s: %s x %s; it stays on disk", path, f"{source.n_cells:,}", f"{len(source.var):,}")
        self._check_named(sources)
        stored = (
            JoinedCells(sources, names, join=self.join, source_key=self.source_key, match_peaks=self.match_peaks) if several else sources[0]
        )
        _check_not_empty(stored.n_cells, len(stored.var))
        wanted = {self.label_key, *columns_of(self.batch_key or self.source_key)}
        obs = pd.DataFrame({name: stored.column(name) for name in stored.columns if name in wanted}, index=range(stored.n_cells))

        def name_of(row: int) -> str:
            return str(stored.names(slice(row, row + 1))[0])

        domain = domains(obs, self.batch_key, self.source_key, several=several, columns=stored.columns, name_of=name_of)
        label = labels(obs, self.label_key)
        rows = self._sample(domain)
        cells = stored if rows is None else ChosenCells(stored, rows)
        if rows is not None:
            domain, label = domain[rows].remove_unused_categories(), None if label is None else label[rows].remove_unused_categories()
        if any(isinstance(one, ad.AnnData) for one in paths):
            # Their annotation may be others than that of the files, after which a cache is called.
            cache = None
        return BackedCells(cells, domain, label, self.memory_gb, cache, self._identity(files))

    def _check_named(self, sources: Sequence[_Source | StoredCells]) -> None:
        column = self.var_names_from
        if column is not None and not any(column in source.var for source in sources):
            there = dict.fromkeys(str(name) for source in sources for name in source.var.columns)
            raise KeyError(f"var_names_from={column!r} is not in var of any source. Columns: {format_names(there, 20)}.")

    def _identity(self, files: Sequence[Path]) -> str:
        """Which cells these are, as text."""
        states = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
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

    def _select(self, adata: ad.AnnData, name: str, *, several: bool) -> _Source:
        """The matrix to learn from, as CSR float32, with unique names."""
        layer, var = self.layer, adata.var
        if layer == "X":
            matrix = adata.X
            if matrix is None:
                raise ValueError(f"{name}: X is empty. Layers: {format_names(adata.layers)}; choose one with layer=.")
        elif layer in adata.layers:
            matrix = adata.layers[layer]
        elif layer in adata.obsm:
            entry = adata.obsm[layer]
            matrix = entry if sparse.issparse(entry) else np.asarray(entry)
            var = pd.DataFrame(index=pd.Index([f"{layer}_{i}" for i in range(matrix.shape[1])]))
        else:
            raise KeyError(
                f"layer={layer!r} is not in {name}. Layers: {format_names(adata.layers)}; obsm: {format_names(adata.obsm)}; or X."
            )
        matrix = sparse.csr_matrix(matrix, dtype=np.float32)
        if not matrix.has_canonical_format:
            matrix = matrix.copy()
            matrix.sum_duplicates()
        var = rename_by_column(var, column=self.var_names_from, source=name, several=several)
        return _Source(matrix, make_unique(adata.obs, "cell", name), make_unique(var, "feature", name))

    def _join(self, sources: Sequence[_Source], names: Sequence[str]) -> _Source:
        renamed = harmonize_names([source.var.index for source in sources], names, self.match_peaks)
        sources = [_renamed(source, own) for source, own in zip(sources, renamed, strict=True)]
        features = [source.var for source in sources]
        check_joinable(
            features,
            [list(source.obs.columns) for source in sources],
            names,
            join=self.join,
            source_key=self.source_key,
            cells=[list(source.obs.index) for source in sources],
        )
        all_cells = pd.Index(np.concatenate([s.obs.index for s in sources]))
        joined = ad.concat(
            {n: ad.AnnData(s.matrix, obs=s.obs[[]], var=s.var[[]]) for n, s in zip(names, sources, strict=True)},
            join=self.join,
            fill_value=0,
            index_unique="-",
        )
        obs = make_writable(pd.concat([s.obs for s in sources], join="outer"))
        # Where a cell's name occurs in two sources, all cells get the source's name added.
        obs.index = all_cells if all_cells.is_unique else joined.obs_names
        obs[self.source_key] = pd.Categorical(np.repeat(names, [len(s.obs) for s in sources]), categories=names)
        var = join_features(features, names, self.join)
        assert var.index.equals(joined.var_names)
        logger.info("Joined %d sources (%s): %s cells x %s features", len(names), self.join, f"{len(obs):,}", f"{len(var):,}")
        matrix = sparse.csr_matrix(joined.X, dtype=np.float32)
        matrix.sort_indices()
        return _Source(matrix, obs, var)


@dataclass(frozen=True)
class _Source:
    matrix: sparse.csr_matrix
    obs: pd.DataFrame
    var: pd.DataFrame


def _renamed(source: _Source, names: pd.Index) -> _Source:
    """The source with other names of its features; the values of those that get the same name are added."""
    if names.equals(source.var.index):
        return source
    position, kept = names.factorize()
    united = sparse.csr_matrix((np.ones(len(names), np.float32), (np.arange(len(names)), position)), shape=(len(names), len(kept)))
    return _Source((source.matrix @ united).tocsr(), source.obs, rename_features(source.var, names))


def _where(one: Path | ad.AnnData, matrix: str, cache: Path | None) -> tuple[str | None, Path | None]:
    """The file in which the cells can stay; without one, the reason."""
    if isinstance(one, ad.AnnData):
        if not one.isbacked:
            return "it is there already", None
        if one.is_view:
            return "of a view of cells in a file, its rows are read", None
    file = Path(str(one.filename)) if isinstance(one, ad.AnnData) else one
    reason = not_backed_because(file, matrix, cache)
    return reason, file if reason is None else None


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


def _check_not_empty(n_cells: int, n_features: int) -> None:
    if n_cells == 0 or n_features == 0:
        raise ValueError(f"There is no cell or no feature: the matrix is {n_cells} x {n_features}.")
