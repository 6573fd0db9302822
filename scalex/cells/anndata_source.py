"""Cells from AnnData objects and .h5ad files: one, or several joined."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from scalex.cells.backed import BackedCells, not_backed_because
from scalex.cells.in_memory import InMemoryCells
from scalex.cells.protocol import Cells

__all__ = ["AnnDataSource"]

logger = logging.getLogger(__name__)

One: TypeAlias = str | Path | ad.AnnData


@dataclass(frozen=True, kw_only=True)
class AnnDataSource:
    """Cells of one AnnData, or of several joined on their features.

    Parameters
    ----------
    path
        An .h5ad file, an AnnData object, or a list of them. Each member of a list is a source.
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
    label_key
        Column of obs with known cell types, for scores and plots; not used in training. May be absent.
    fraction, n_obs
        Use a random share, in (0, 1], or a random number of the cells.
    seed
        Seed of that choice.
    backed
        Leave the matrix and the annotation in the file and read them piece by piece: for one .h5ad file with a CSR or dense matrix. Other
        sources are read into memory, with a message.
    """

    path: One | Sequence[One]
    batch_key: str | None = None
    batch_categories: Sequence[str] | None = None
    source_key: str = "batch"
    join: Literal["inner", "outer"] = "inner"
    layer: str = "X"
    label_key: str = "cell_type"
    fraction: float | None = None
    n_obs: int | None = None
    seed: int = 124
    backed: bool = False

    def __post_init__(self) -> None:
        if self.join not in ("inner", "outer"):
            raise ValueError(f"join={self.join!r}: allowed are 'inner' and 'outer'.")
        if self.fraction is not None and self.n_obs is not None:
            raise ValueError("fraction and n_obs are both given: give one of them.")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise ValueError(f"fraction={self.fraction}: it must be above 0 and at most 1.")
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
        paths: list[One] = [self.path] if isinstance(self.path, str | Path | ad.AnnData) else list(self.path)
        if len(paths) > 1 and self.batch_key is not None and self.source_key in _columns(self.batch_key):
            raise ValueError(
                f"batch_key={self.batch_key!r} names the column in which the source of each cell is written (source_key). Leave "
                "batch_key out to have the sources as domains, or set source_key to another name to keep the column of the sources."
            )
        if self.backed and (cells := self._open_backed(paths)) is not None:
            return cells
        names = _source_names(paths, self.batch_categories)
        sources = [_select(_read(one), self.layer, name) for one, name in zip(paths, names, strict=True)]
        logger.info("Read %s", ", ".join(f"{n}: {len(s.obs):,} x {len(s.var):,}" for n, s in zip(names, sources, strict=True)))
        source = sources[0] if len(sources) == 1 else _join(sources, names, join=self.join, source_key=self.source_key)
        source = _sample(source, fraction=self.fraction, n_obs=self.n_obs, seed=self.seed)
        if len(source.obs) == 0 or len(source.var) == 0:
            raise ValueError(f"There is no cell or no feature: the matrix is {len(source.obs)} x {len(source.var)}.")
        domain = _domain(source.obs, self.batch_key, self.source_key, several=len(sources) > 1)
        return InMemoryCells(source.matrix, source.obs, source.var, domain, _label(source.obs, self.label_key))

    def _open_backed(self, paths: Sequence[One]) -> BackedCells | None:
        matrix = self.layer if self.layer == "X" else f"layers/{self.layer}"
        if len(paths) > 1:
            reason: str | None = "there are several sources"
        elif isinstance(paths[0], ad.AnnData):
            reason = "it is there already"
        elif self.fraction is not None or self.n_obs is not None:
            reason = "only a sample is asked for"
        else:
            reason = not_backed_because(_existing(paths[0]), matrix)
        if reason is not None:
            logger.info("Read into memory, although backed=true: %s", reason)
            return None
        file = h5py.File(Path(paths[0]))
        stored = file["obs"]
        columns = [str(column) for column in stored.attrs["column-order"]]
        wanted = {self.label_key, *_columns(self.batch_key or self.source_key)}
        n_cells = len(stored[stored.attrs["_index"]])
        obs = pd.DataFrame({c: ad.io.read_elem(stored[c]) for c in columns if c in wanted}, index=pd.RangeIndex(n_cells))
        var = _unique(ad.io.read_elem(file["var"]), "feature", str(paths[0]))
        if n_cells == 0 or len(var) == 0:
            raise ValueError(f"There is no cell or no feature: the matrix is {n_cells} x {len(var)}.")
        names = stored[stored.attrs["_index"]].asstr()
        domain = _domain(obs, self.batch_key, self.source_key, several=False, columns=columns, name_of=lambda row: names[row])
        logger.info("Opened %s: %s x %s; it stays on disk", paths[0], f"{n_cells:,}", f"{len(var):,}")
        return BackedCells(file, matrix, var, domain, _label(obs, self.label_key))


@dataclass(frozen=True)
class _Source:
    matrix: sparse.csr_matrix
    obs: pd.DataFrame
    var: pd.DataFrame


def _read(one: One) -> ad.AnnData:
    if isinstance(one, ad.AnnData):
        return one
    path = _existing(one)
    try:
        return ad.read_h5ad(path)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a readable AnnData file ({error}). Write it with adata.write_h5ad.") from error


def _existing(one: str | Path) -> Path:
    path = Path(one)
    if not path.exists():
        raise FileNotFoundError(f"No such file: {path} (looked in {path.absolute().parent}).")
    if path.suffix != ".h5ad":
        raise NotImplementedError(f"{path}: only .h5ad files and AnnData objects can be read yet.")
    return path


def _source_names(paths: Sequence[One], categories: Sequence[str] | None) -> list[str]:
    if categories is not None:
        if len(categories) != len(paths):
            raise ValueError(f"batch_categories has {len(categories)} names for {len(paths)} sources: give one each.")
        names = [str(category) for category in categories]
        if len(set(names)) < len(names):
            raise ValueError(f"batch_categories={names}: each source needs a name of its own.")
        return names
    names = [str(i) if isinstance(one, ad.AnnData) else Path(one).stem for i, one in enumerate(paths)]
    repeated = {name for name, count in Counter(names).items() if count > 1}
    return [f"{name}-{i}" if name in repeated else name for i, name in enumerate(names)]


def _select(adata: ad.AnnData, layer: str, name: str) -> _Source:
    """The matrix to learn from, as CSR float32, with unique names."""
    var = adata.var
    if layer == "X":
        matrix = adata.X
        if matrix is None:
            raise ValueError(f"{name}: X is empty. Layers: {_listed(adata.layers)}; choose one with layer=.")
    elif layer in adata.layers:
        matrix = adata.layers[layer]
    elif layer in adata.obsm:
        entry = adata.obsm[layer]
        matrix = entry if sparse.issparse(entry) else np.asarray(entry)
        var = pd.DataFrame(index=pd.Index([f"{layer}_{i}" for i in range(matrix.shape[1])]))
    else:
        raise KeyError(f"layer={layer!r} is not in {name}. Layers: {_listed(adata.layers)}; obsm: {_listed(adata.obsm)}; or X.")
    matrix = sparse.csr_matrix(matrix, dtype=np.float32)
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    return _Source(matrix, _unique(adata.obs, "cell", name), _unique(var, "feature", name))


def _unique(table: pd.DataFrame, kind: str, source: str) -> pd.DataFrame:
    table = table.copy()
    table.index = table.index.astype(str)
    if not table.index.is_unique:
        repeated = table.index[table.index.duplicated()].unique()
        logger.warning(
            "%s: %d %s names occur more than once (%s); repeats are numbered -1, -2, ...",
            source, len(repeated), kind, _listed(repeated),
        )  # fmt: skip
        table.index = ad.utils.make_index_unique(table.index)
    return table


def _join(sources: Sequence[_Source], names: Sequence[str], *, join: str, source_key: str) -> _Source:
    if join == "inner" and not set.intersection(*(set(s.var.index) for s in sources)):
        examples = "; ".join(f"{n}: {_listed(s.var.index)}" for n, s in zip(names, sources, strict=True))
        raise ValueError(
            f"The sources share no feature, so an inner join is empty. Their features: {examples}. "
            "Bring them to the same names, or use join='outer'."
        )
    if any(source_key in s.obs for s in sources):
        logger.warning("obs[%r] of the sources is replaced by the name of the source; choose another column with source_key.", source_key)
    all_cells = pd.Index(np.concatenate([s.obs.index for s in sources]))
    joined = ad.concat(
        {n: ad.AnnData(s.matrix, obs=s.obs[[]], var=s.var[[]]) for n, s in zip(names, sources, strict=True)},
        join=join,
        fill_value=0,
        index_unique="-",
    )
    obs = _writable(pd.concat([s.obs for s in sources], join="outer"))
    # Where a cell's name occurs in two sources, all cells get the source's name added.
    obs.index = all_cells if all_cells.is_unique else joined.obs_names
    obs[source_key] = pd.Categorical(np.repeat(names, [len(s.obs) for s in sources]), categories=names)
    var = sources[0].var.reindex(joined.var_names)
    for source in sources[1:]:
        var = var.combine_first(source.var.reindex(joined.var_names))
    var = _writable(var).loc[joined.var_names]
    var["n_sources"] = sum(var.index.isin(s.var.index).astype(int) for s in sources)
    smallest = min(len(source.var) for source in sources)
    if len(var) < smallest / 5:
        logger.warning(
            "Only %s features are in all sources, of at least %s in each: are they named alike?", f"{len(var):,}", f"{smallest:,}"
        )
    logger.info("Joined %d sources (%s): %s cells x %s features", len(names), join, f"{len(obs):,}", f"{len(var):,}")
    return _Source(sparse.csr_matrix(joined.X, dtype=np.float32), obs, var)


def _writable(table: pd.DataFrame) -> pd.DataFrame:
    """The table with columns that .h5ad can hold: joining leaves objects where a source lacks a column or has it with another type."""
    table = table.copy()
    for name, column in table.items():
        if column.dtype == object and pd.api.types.infer_dtype(column, skipna=True) == "boolean":
            table[name] = column.astype("boolean")
        elif column.dtype == object:
            table[name] = pd.Categorical(column.where(column.isna(), column.astype(str)))
    return table


def _label(obs: pd.DataFrame, label_key: str) -> pd.Categorical | None:
    """Known types; a cell without one stays without."""
    if label_key not in obs or obs[label_key].isna().all():
        return None
    return _joined_text([pd.Categorical(obs[label_key])])


def _columns(batch_key: str) -> list[str]:
    return [column.strip() for column in batch_key.split(",")]


def _sample(source: _Source, *, fraction: float | None, n_obs: int | None, seed: int) -> _Source:
    n_cells = len(source.obs)
    wanted = n_obs if n_obs is not None else None if fraction is None else max(1, round(fraction * n_cells))
    if wanted is None or wanted >= n_cells:
        return source
    rows = np.sort(np.random.default_rng(seed).choice(n_cells, wanted, replace=False))
    logger.info("Sampled %s of %s cells", f"{wanted:,}", f"{n_cells:,}")
    return _Source(source.matrix[rows], source.obs.iloc[rows].copy(), source.var)


def _domain(
    obs: pd.DataFrame,
    batch_key: str | None,
    source_key: str,
    *,
    several: bool,
    columns: Sequence[str] | None = None,
    name_of: Callable[[int], str] | None = None,
) -> pd.Categorical:
    """Domain of each cell. Where obs is not read whole, `columns` are those it has and `name_of` gives a cell's name."""
    there = list(obs.columns) if columns is None else columns
    if batch_key is None:
        if not several and source_key not in obs:
            logger.warning(
                "No batch_key given and no column %r in obs: all cells form one domain. Columns: %s.",
                source_key, _listed(there, 20),
            )  # fmt: skip
            return pd.Categorical(["all"] * len(obs))
        batch_key = source_key
    keys = _columns(batch_key)
    for column in keys:
        if column not in obs:
            raise KeyError(f"batch_key={column!r} is not in obs. Columns: {_listed(there, 20)}.")
    missing = obs[keys].isna().any(axis=1)
    if missing.any():
        row = int(np.flatnonzero(missing)[0])
        first = obs.index[row] if name_of is None else name_of(row)
        raise ValueError(
            f"{int(missing.sum())} cells have no value in obs[{batch_key!r}] (first: {first}): fill the column or remove those cells."
        )
    return _joined_text([pd.Categorical(obs[key]) for key in keys])


def _joined_text(columns: Sequence[pd.Categorical]) -> pd.Categorical:
    """The text of several columns joined with "_", without making a string for each cell; missing where the first is."""
    codes, inverse = np.unique(np.stack([column.codes for column in columns], axis=1), axis=0, return_inverse=True)
    known = codes[:, 0] >= 0
    text = ["_".join(str(column.categories[c]) for column, c in zip(columns, row, strict=True)) for row in codes[known]]
    joined = pd.Categorical(text)
    position = np.full(len(codes), -1)
    position[known] = joined.codes
    return pd.Categorical.from_codes(position[inverse.ravel()], joined.categories)


def _listed(names: Iterable[Any], most: int = 5) -> str:
    """Some names for a message."""
    shown = [str(name) for name in names]
    return ", ".join(shown[:most]) + (", ..." if len(shown) > most else "") if shown else "none"
