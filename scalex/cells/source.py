"""Cells from AnnData objects and files: one, or several joined."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import SkipValidation
from scipy import sparse

from scalex.cells.backed import BackedCells, read_rows
from scalex.cells.domains_and_labels import find_domains, find_labels, split_batch_key
from scalex.cells.file_cells import NotBackableError
from scalex.cells.h5ad_cells import open_h5ad
from scalex.cells.in_memory import InMemoryCells, open_anndata
from scalex.cells.joined import JoinedCells
from scalex.cells.joined_obs import read_column
from scalex.cells.one_source import OneSource
from scalex.cells.protocol import Cells, Store
from scalex.cells.stores import list_layers, open_store
from scalex.features.annotation import make_writable, rename_column
from scalex.features.names import format_names, make_unique, rename_by_column
from scalex.features.peaks import MatchPeaks
from scalex.formats import ReadOptions, find_sources, name_sample, name_source, read_cells, split_h5mu_path
from scalex.system.settings import Count, Described, Fraction, Positive, Seed, check_call

__all__ = ["AnnDataSource"]

logger = logging.getLogger(__name__)

# The domain of a single AnnData without a name.
ALONE = "all"
# Cells that are tested for counts.
N_TESTED = 1000

Source: TypeAlias = str | Path | ad.AnnData


@check_call
@dataclass(frozen=True, kw_only=True)
class AnnDataSource:
    """Cells of one AnnData, or of several joined on their features.

    Parameters
    ----------
    path
        A file or folder of cells (see `scalex.formats.READERS`), a glob for several, a name in ``~/.scalex/``, an AnnData object, or a list
        or dict of them. Each file and object is a source, and the keys of a dict are the names of the sources. An AnnData that was opened
        with ``backed="r"`` keeps its matrix in its file.
    batch_key
        Column of obs that holds the domain of each cell. Several columns, separated by commas, are joined with "_".
        None: several sources are the domains; a single source takes its domains from column `source_key`, or is one domain with the name
        of the source if it has no such column.
    batch_categories
        Name of each source. None: the names of files without extension, and 0, 1, ... for AnnData objects, or "all" for a single one.
    source_key
        Column of obs for the name of each cell's source, if there are several sources.
    join
        Features that all sources have ("inner"), or that any source has ("outer"; they are 0 in the other sources).
    layer
        "X"; "raw", the matrix of `.raw` with its own features; or the name of a layer or of an obsm entry to use as the matrix.
    transpose
        Text files have a row for each feature and a column for each cell (False), or a row for each cell (True).
    feature_type
        The type of features to use from 10x files with several types; None: "Gene Expression".
    var_names_from
        Column of var that holds the names of the features, in the sources that have it; None: the index of var.
    match_peaks
        "exact": peaks of several sources are the same if their names are equal. "overlap": overlapping peaks are merged and their counts
        added; in a projection, each peak counts for the peak of the reference that it overlaps most.
    label_key
        Column of obs with known cell types, for scores and plots, not for training. It may be absent.
    fraction, n_obs
        Use a random sample of the cells: a share in (0, 1], or a number. All domains are sampled in proportion to their cells.
    seed
        Seed of the sample.
    backed
        Leave the matrix and the annotation of .h5ad files and .zarr stores on disk and read them in runs of rows. The matrix must be CSR or
        dense, or CSC if `cache` is set. Other sources are read into memory, with a message.
    memory_gb
        Memory that reading cells on disk may take during training, in GB; None: a quarter of the free memory.
    cache
        Folder that keeps the model's inputs of cells on disk, for later runs with the same sources and preprocessing. A matrix that is
        stored by columns is kept there by rows.
    follow_links
        Read data that an HDF5 file takes from other files. False: such a file is refused.
    """

    path: Annotated[
        SkipValidation[Source | Sequence[Source] | Mapping[str, Source]],
        Described("a file, a folder, a glob, a name in ~/.scalex/, or a list or mapping of them"),
    ]
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
    fraction: Fraction | None = None
    n_obs: Count | None = None
    seed: Seed = 124
    backed: bool = False
    memory_gb: Positive | None = None
    cache: str | Path | None = None
    follow_links: bool = False

    def __post_init__(self) -> None:
        if self.cache is not None and not self.backed:
            raise ValueError("cache is for cells that stay in their files: set backed=true, or leave cache out.")
        if self.fraction is not None and self.n_obs is not None:
            raise ValueError("fraction and n_obs are both given: give one of them.")
        if isinstance(self.path, Mapping):
            if self.batch_categories is not None:
                raise ValueError("path is a dict, whose keys name the sources, and batch_categories names them, too: give one of them.")
            object.__setattr__(self, "batch_categories", [str(name) for name in self.path])
            object.__setattr__(self, "path", list(self.path.values()))
        entries = self._list_entries()
        if not entries:
            raise ValueError("path: the list is empty. Give an AnnData, a path, or a list of them.")
        for entry in entries:
            _check_entry(entry)

    def open(self) -> Cells:
        """Read the sources, join them and find each cell's domain.

        Raises
        ------
        FileNotFoundError
            If a file does not exist.
        KeyError
            If a column, layer or obsm entry is absent; the message lists those that exist.
        ValueError
            If a file is not readable, the sources share no feature, or a cell has no domain.
        """
        sources = self._list_sources()
        several = len(sources) > 1
        source_key = rename_column(self.source_key)
        if several and self.batch_key is not None and source_key in split_batch_key(self.batch_key, ()):
            raise ValueError(
                f"batch_key={self.batch_key!r} names the column in which the source of each cell is written (source_key). Leave out "
                "batch_key to use the sources as domains, or set source_key to another name to keep the column of the sources."
            )
        names = _name_sources(sources, self.batch_categories)
        # AnnData objects that were opened with backed="r" are meant to stay in their files.
        in_files = self.backed or all(isinstance(source, ad.AnnData) and source.isbacked for source in sources)
        # Sources are opened one by one, and each keeps only its matrix in memory.
        stores: list[Store] = [self._open_source(source, name, in_files, several) for source, name in zip(sources, names, strict=True)]
        column = None if self.var_names_from is None else rename_column(self.var_names_from)
        if column is not None and not any(column in store.var for store in stores):
            columns = dict.fromkeys(str(name) for store in stores for name in store.var.columns)
            raise KeyError(f"var_names_from={column!r} is not in var of any source. Columns: {format_names(columns, 20)}.")
        join: Any = {"join": self.join, "source_key": source_key, "match_peaks": self.match_peaks}
        store = JoinedCells(stores, names, **join) if several else stores[0]
        n_cells, n_features = store.matrix.shape
        if n_cells == 0 or n_features == 0:
            raise ValueError(f"There is no cell or no feature: the matrix is {n_cells} x {n_features}.")
        table = store.table
        label_key = rename_column(self.label_key)
        keys = {label_key, *split_batch_key(source_key if self.batch_key is None else self.batch_key, table.columns)}
        obs = pd.DataFrame({name: read_column(table, name) for name in table.columns if name in keys}, index=range(n_cells))
        domain = find_domains(
            obs,
            self.batch_key,
            source_key,
            several=several,
            name=names[0] if self.batch_categories is not None else _name_domain(sources[0]),
            columns=table.columns,
            get_name=lambda row: table.read_names(slice(row, row + 1))[0],
        )
        label = find_labels(obs, label_key)
        rows = self._sample(domain)
        if rows is not None:
            domain, label = domain[rows].remove_unused_categories(), None if label is None else label[rows].remove_unused_categories()
        if store.in_memory:
            kept = slice(0, n_cells) if rows is None else rows
            annotation = table.read(kept) if isinstance(kept, slice) else read_rows(table, kept)
            return InMemoryCells(store.matrix.read(kept), annotation, store.var, domain, label)
        # Files do not identify the cells of AnnData objects, whose annotation may have been changed.
        paths = [source for source in sources if isinstance(source, Path)]
        identity = self._identify(paths) if len(paths) == len(sources) else None
        cache = None if self.cache is None or identity is None else Path(self.cache)
        return BackedCells(store, domain, label, rows, self.memory_gb, cache, identity)

    def list_numbered_domains(self, cells: Cells) -> list[str]:
        """Return the domains of its opened cells that have no names: AnnData objects that are only numbered, or "all"."""
        if self.batch_key is not None or self.batch_categories is not None:
            return []
        sources = self._list_sources()
        if len(sources) == 1 and rename_column(self.source_key) in cells.read_obs(slice(0, 1)):
            return []
        names = [ALONE] if len(sources) == 1 else _name_sources(sources, None)
        return [name for source, name in zip(sources, names, strict=True) if isinstance(source, ad.AnnData)]

    def find_counts(self) -> list[str]:
        """Return the values of `layer` with which the first cells of the first source are whole numbers, as counts are."""
        entry = self._list_entries()[0]
        first = entry if isinstance(entry, ad.AnnData) else find_sources(entry)[0]
        layers = list_layers(first, follow_links=self.follow_links)
        return [layer for layer in layers if layer != self.layer and _holds_counts(first, layer, follow_links=self.follow_links)]

    def _list_sources(self) -> list[Path | ad.AnnData]:
        """Return the files, folders and objects that `path` stands for."""
        sources: list[Path | ad.AnnData] = []
        for entry in self._list_entries():
            sources.extend([entry] if isinstance(entry, ad.AnnData) else find_sources(entry))
        return sources

    def _list_entries(self) -> list[Source]:
        """Return the entries of `path`."""
        # Only lists and their like: a MuData or a table can be iterated over, too.
        return list(self.path) if isinstance(self.path, Sequence) and not isinstance(self.path, str) else [self.path]

    def _open_source(self, source: Path | ad.AnnData, name: str, in_file: bool, several: bool) -> OneSource:
        """Open the cells of one source, in its file if they can stay there, with unique names of features."""
        store = self._open_in_file(source, name, several) if in_file else None
        if store is None:
            if isinstance(source, Path):
                logger.info("Reads %s", source)
                options = ReadOptions(transpose=self.transpose, feature_type=self.feature_type, follow_links=self.follow_links)
                adata = read_cells(source, options)
            else:
                adata = source.to_memory() if source.isbacked else source
            store = open_anndata(adata, self.layer, name, is_joined=several)
            title = name if isinstance(source, Path) else f"AnnData {name}" if several else "AnnData"
            logger.info("Read %s: %s cells x %s features", title, *(f"{n:,}" for n in store.matrix.shape))
        column = None if self.var_names_from is None else rename_column(self.var_names_from)
        var = rename_by_column(make_writable(store.var, f"var of {name}"), column=column, source=name, several=several)
        return replace(store, var=make_unique(var, "feature", name))

    def _open_in_file(self, source: Path | ad.AnnData, name: str, several: bool) -> OneSource | None:
        cache = None if self.cache is None else Path(self.cache)
        try:
            if isinstance(source, Path):
                store = open_store(source, self.layer, name, cache, follow_links=self.follow_links)
            else:
                store = _open_backed_anndata(source, self.layer, name, cache, follow_links=self.follow_links)
        except NotBackableError as reason:
            logger.info("Reads into memory, since these cells cannot be read in pieces: %s%s", f"{name}: " if several else "", reason)
            return None
        logger.info("Opened %s: %s x %s; it stays on disk", getattr(source, "filename", source), *(f"{n:,}" for n in store.matrix.shape))
        return store

    def _identify(self, paths: Sequence[Path]) -> str:
        """Return text that identifies the cells."""
        states = [state for path in paths for state in _read_state(path)]
        categories = None if self.batch_categories is None else [str(name) for name in self.batch_categories]
        options = (self.batch_key, categories, self.source_key, self.join, self.layer, self.var_names_from, self.match_peaks)
        # Without a sample the seed has no effect.
        sample = None if self.fraction is None and self.n_obs is None else (self.fraction, self.n_obs, self.seed)
        return json.dumps([states, options, sample])

    def _sample(self, domain: pd.Categorical) -> NDArray[np.int64] | None:
        """Return the rows of the sample, ascending, in proportion to the cells of each domain; None: all cells are used."""
        n_cells = len(domain)
        n_sampled = self.n_obs if self.n_obs is not None else None if self.fraction is None else max(1, round(self.fraction * n_cells))
        if n_sampled is None or n_sampled >= n_cells:
            return None
        rng = np.random.default_rng(self.seed)
        # Cells at equal distances, after all were brought into random order within each domain.
        order = rng.permutation(n_cells)
        order = order[np.argsort(domain.codes[order], kind="stable")]
        position = ((np.arange(n_sampled) + rng.random()) * (n_cells / n_sampled)).astype(np.int64)
        logger.info("Sampled %s of %s cells", f"{n_sampled:,}", f"{n_cells:,}")
        return np.sort(order[np.minimum(position, n_cells - 1)])


def _holds_counts(source: Path | ad.AnnData, layer: str, *, follow_links: bool) -> bool:
    try:
        if isinstance(source, Path):
            store = open_store(source, layer, "", follow_links=follow_links)
        else:
            store = open_anndata(source[:N_TESTED], layer, "", is_joined=False)
    except NotBackableError:
        return False
    values = store.matrix.read(slice(0, min(N_TESTED, store.matrix.shape[0]))).data
    return len(values) > 0 and bool((values >= 0).all() and (values % 1 == 0).all())


def _check_entry(entry: object) -> None:
    """Check that an entry of `path` is a source.

    Raises
    ------
    ValueError
        If it is another object. The message says how to make a source of it.
    """
    if isinstance(entry, str | Path | ad.AnnData):
        return
    advice = "Give an AnnData, a path, or a list of them."
    if isinstance(modalities := getattr(entry, "mod", None), Mapping):
        advice = f"Give one of its modalities, as in data[{next(iter(modalities), 'rna')!r}]. It has: {format_names(modalities)}."
    elif isinstance(entry, pd.DataFrame | np.ndarray) or sparse.issparse(entry):
        advice = "Give anndata.AnnData(...) of it, with a row for each cell, a column for each feature, and their names."
    raise ValueError(f"path: cells cannot be read from {'null' if entry is None else type(entry).__name__}. {advice}")


def _open_backed_anndata(adata: ad.AnnData, layer: str, name: str, cache: Path | None, *, follow_links: bool) -> OneSource:
    """Open the cells of an AnnData whose matrix is in a file. The annotation is that of the object, which may have been changed."""
    if not adata.isbacked:
        raise NotBackableError("it is already in memory")
    if adata.is_view:
        raise NotBackableError("it is a view of an AnnData in a file")
    return open_h5ad(Path(str(adata.filename)), layer, name, cache, adata, follow_links=follow_links)


def _read_state(path: Path) -> list[tuple[str, int, int]]:
    """Return path, size in bytes and modification time in ns of a file, or of each file in a folder."""
    modality = split_h5mu_path(path)
    path = path if modality is None else modality[0]
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _name_domain(source: Path | ad.AnnData) -> str:
    """Return the domain of a single source that nothing else names."""
    return ALONE if isinstance(source, ad.AnnData) else name_sample(source)


def _name_sources(sources: Sequence[Path | ad.AnnData], categories: Sequence[str] | None) -> list[str]:
    if categories is not None:
        if len(categories) != len(sources):
            raise ValueError(f"batch_categories has {len(categories)} names for {len(sources)} sources: give one name for each source.")
        names = [str(category) for category in categories]
        if len(set(names)) < len(names):
            raise ValueError(f"batch_categories={names}: each source needs its own name.")
        return names
    if len(sources) == 1 and isinstance(sources[0], ad.AnnData):
        return ["AnnData"]
    names = [str(i) if isinstance(source, ad.AnnData) else name_source(source) for i, source in enumerate(sources)]
    repeated = {name for name, count in Counter(names).items() if count > 1}
    files = [source.absolute() for source, name in zip(sources, names, strict=True) if name in repeated and isinstance(source, Path)]
    # Sources with the same name, such as the folders of Cell Ranger, get the name of the lowest parent folder that distinguishes them.
    for level in range(min((len(file.parents) for file in files), default=0)):
        parents = {file: file.parents[level].name for file in files}
        if len(set(parents.values()) | set(names)) == len(files) + len(set(names)):
            return [parents[source.absolute()] if name in repeated else name for source, name in zip(sources, names, strict=True)]
    return [f"{name}-{i}" if name in repeated else name for i, name in enumerate(names)]
