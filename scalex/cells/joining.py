"""Several sources joined: their features, and the annotation of those."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from scalex.cells.names import listed

__all__ = ["check_joinable", "joined_features", "writable"]

logger = logging.getLogger(__name__)


def check_joinable(
    features: Sequence[pd.DataFrame], columns: Sequence[Sequence[str]], names: Sequence[str], *, join: str, source_key: str
) -> None:
    """See that the sources have features in common, as far as the join needs it, and say which column of obs is lost.

    Parameters
    ----------
    features, columns, names
        Of each source: the table of its features, the columns of its obs, its name.
    join, source_key
        As in `AnnDataSource`.

    Raises
    ------
    ValueError
        An inner join is empty.
    """
    if join == "inner" and not set.intersection(*(set(var.index) for var in features)):
        examples = "; ".join(f"{n}: {listed(var.index)}" for n, var in zip(names, features, strict=True))
        raise ValueError(
            f"The sources share no feature, so an inner join is empty. Their features: {examples}. "
            "Bring them to the same names, or use join='outer'."
        )
    if any(source_key in there for there in columns):
        logger.warning("obs[%r] of the sources is replaced by the name of the source; choose another column with source_key.", source_key)


def joined_features(features: Sequence[pd.DataFrame], join: Literal["inner", "outer"]) -> pd.DataFrame:
    """The features of the joined cells in the order of `anndata.concat`; of a feature's annotation the first that is there counts."""
    # anndata itself, joining no cells, says the order.
    without_cells = [ad.AnnData(sparse.csr_matrix((0, len(var)), dtype=np.float32), var=var[[]]) for var in features]
    names = ad.concat(without_cells, join=join).var_names
    joined = features[0].reindex(names)
    for var in features[1:]:
        joined = joined.combine_first(var.reindex(names))
    joined = writable(joined).loc[names]
    joined["n_sources"] = sum(joined.index.isin(var.index).astype(int) for var in features)
    smallest = min(len(var) for var in features)
    if len(joined) < smallest / 5:
        logger.warning(
            "Only %s features are in all sources, of at least %s in each: are they named alike?", f"{len(joined):,}", f"{smallest:,}"
        )
    return joined


def writable(table: pd.DataFrame) -> pd.DataFrame:
    """The table with columns that .h5ad can hold: joining leaves objects where a source lacks a column or has it with another type."""
    table = table.copy()
    for name, column in table.items():
        if column.dtype == object and pd.api.types.infer_dtype(column, skipna=True) == "boolean":
            table[name] = column.astype("boolean")
        elif column.dtype == object:
            table[name] = pd.Categorical(column.where(column.isna(), column.astype(str)))
    return table
