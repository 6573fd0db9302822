"""Pseudobulk: sums of the counts of the cells of each type and sample."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.utils import make_index_unique
from numpy.typing import NDArray
from pydantic import SkipValidation
from scipy import sparse

from scalex.cells import AnnDataSource
from scalex.features.columns import require_column
from scalex.genes.counts import find_no_count
from scalex.genes.group_sums import GroupSums, combine_codes, sum_groups
from scalex.system.chunks import chunks
from scalex.system.settings import Count, check_call

__all__ = ["DROPPED", "make_pseudobulk", "sum_counts"]

logger = logging.getLogger(__name__)

# Entry of uns that lists the groups with too few cells.
DROPPED = "dropped_groups"
# Cells that are read at a time.
CHUNK_SIZE = 4096
# Groups that the log names.
MAX_NAMED = 10
# Names of decoupler, whose functions then take the result.
N_CELLS, N_COUNTS, SHARES = "psbulk_cells", "psbulk_counts", "psbulk_props"


@check_call
def make_pseudobulk(
    source: SkipValidation[AnnDataSource | AnnData | str | Path],
    *,
    label: str,
    sample: str,
    condition: str | None = None,
    obs: SkipValidation[pd.DataFrame | None] = None,
    min_cells: Count = 10,
) -> AnnData:
    """Sum the counts of the cells of each label and sample, reading the cells in chunks.

    Parameters
    ----------
    source
        The cells, with raw counts in X, or their file; or the source of a training, such as
        ``AnnDataSource(path=..., layer="counts")``. With its ``backed=True`` they stay in their files.
    label
        Column of obs with types or clusters.
    sample
        Column of obs with the samples, the replicates of a later test: donors, not cells.
    condition
        Column of obs with conditions. A sample may then have several; each has a sum of its own.
    obs
        Annotation with these columns, for some or all of the cells by their names: obs of a result, which has clusters and transferred
        labels. None: that of the source. Cells that it does not name are left out.
    min_cells
        Groups of fewer cells are dropped, logged, and listed in uns["dropped_groups"].

    Returns
    -------
    AnnData
        Groups x features. X: int64 sums of counts. obs: `label`, `sample`, `condition`, the other columns of obs that have one value in
        each group, such as the technology, "psbulk_cells" and "psbulk_counts" (numbers of cells and counts). layers["psbulk_props"]: shares
        of the cells that express each feature. decoupler and PyDESeq2 take it as it is.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If the values are no counts, if `obs` names none of the cells or one of them twice, or if no group has `min_cells` cells.
    """
    if not isinstance(source, AnnDataSource):
        source = AnnDataSource(path=source)
    cells = source.open()
    known = cells.obs if obs is None else obs
    rows = np.arange(len(cells.domain))
    if obs is not None:
        if not obs.index.is_unique:
            raise ValueError(f"obs has several rows for the same cell, such as {obs.index[obs.index.duplicated()][0]!r}: keep one of them.")
        position = obs.index.get_indexer(cells.obs.index)
        rows = np.flatnonzero(position >= 0)
        if not len(rows):
            raise ValueError(f"obs names none of the cells of the source: {obs.index[0]!r} is not among {cells.obs.index[0]!r}, ...")
        known = obs.iloc[position[rows]]
    counts = (cells.read(rows[part]) for part in chunks(len(rows), CHUNK_SIZE))
    return sum_counts(
        counts, known, cells.var, label=label, sample=sample, condition=condition, min_cells=min_cells, describe=lambda: _describe(source)
    )


def sum_counts(
    counts: Iterable[sparse.csr_matrix],
    obs: pd.DataFrame,
    var: pd.DataFrame,
    *,
    label: str,
    sample: str,
    condition: str | None = None,
    min_cells: int = 10,
    describe: Callable[[], str] = lambda: "the source",
) -> AnnData:
    """Sum counts that are given in chunks of rows, in the order of `obs`; see `make_pseudobulk`. `describe` names them in an error."""
    options: Mapping[str, str | None] = {"label": label, "sample": sample, "condition": condition}
    used = {option: name for option, name in options.items() if name is not None}
    by = pd.DataFrame({name: require_column(obs, name, option) for option, name in used.items()}, index=obs.index)
    code, groups = combine_codes(by)
    if not len(groups):
        raise ValueError(f"No cell has a value in each of the columns {', '.join(by)}.")
    sums = _sum_all(counts, code, len(groups), len(var), describe)
    groups[N_CELLS], groups[N_COUNTS] = sums.n_cells, sums.total.sum(1).astype(np.int64)
    for name in obs.columns.difference(groups.columns, sort=False):
        if (values := _find_constant(obs[name], code, len(groups))) is not None:
            groups[name] = values
    # Two groups may have the same name: "a_b" of "c", and "a" of "b_c".
    groups.index = make_index_unique(pd.Index(groups[list(by)].astype(str).agg("_".join, axis=1)))
    kept = groups[N_CELLS].to_numpy() >= min_cells
    dropped = groups.loc[~kept, [*by, N_CELLS]]
    _log(groups, dropped, int((code < 0).sum()), min_cells)
    if not kept.any():
        raise ValueError(f"No group has {min_cells} cells or more (min_cells); the largest has {groups[N_CELLS].max()}.")
    adata = AnnData(sums.total[kept].astype(np.int64), obs=groups[kept], var=var[[]].copy())
    adata.layers[SHARES] = (sums.n_expressing[kept] / sums.n_cells[kept, None]).astype(np.float32)
    adata.uns[DROPPED] = dropped.astype(dict.fromkeys(by, str))
    return adata


def _sum_all(
    counts: Iterable[sparse.csr_matrix], code: NDArray[np.int64], n_groups: int, n_features: int, describe: Callable[[], str]
) -> GroupSums:
    """Sum all chunks. Raises `ValueError` for values that are no counts."""
    empty = np.zeros((n_groups, n_features))
    sums, start = GroupSums(empty, empty, np.zeros(n_groups, np.int64)), 0
    for values in counts:
        wrong = find_no_count(values.data)
        if wrong is not None:
            raise ValueError(
                f"Pseudobulk needs counts, and {describe()} holds other values, such as {wrong:g}. Name the matrix with the counts "
                "(layer=), or give the file that has them. Estimated counts can be rounded first."
            )
        sums += sum_groups(values, code[start : start + values.shape[0]], n_groups)
        start += values.shape[0]
    assert start == len(code)
    return sums


def _find_constant(column: pd.Series, code: NDArray[np.int64], n_groups: int) -> pd.Series | None:
    """Return each group's value of a column that has one value in every group, or None."""
    grouped = column[code >= 0].groupby(code[code >= 0])
    if (grouped.nunique(dropna=False) > 1).any():
        return None
    found, first = np.unique(code, return_index=True)
    assert len(found[found >= 0]) == n_groups
    return column.iloc[first[found >= 0]].reset_index(drop=True)


def _describe(source: AnnDataSource) -> str:
    found = source.find_counts()
    return source.layer + (f" (whole numbers are in {' and '.join(found)})" if found else "")


def _log(groups: pd.DataFrame, dropped: pd.DataFrame, n_without: int, min_cells: int) -> None:
    without = f"; {n_without:,} cells without a value in one of the columns are left out" if n_without else ""
    logger.info("Pseudobulk: %s groups of %s cells%s", f"{len(groups):,}", f"{groups[N_CELLS].sum():,}", without)
    if len(dropped):
        named = ", ".join(f"{name} ({n})" for name, n in dropped[N_CELLS].head(MAX_NAMED).items())
        more = "" if len(dropped) <= MAX_NAMED else f" and {len(dropped) - MAX_NAMED} more"
        logger.info("Groups of fewer than %d cells are dropped (min_cells): %s%s", min_cells, named, more)
