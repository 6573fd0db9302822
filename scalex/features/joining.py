"""Several sources joined: their features, and the annotation of those."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from scalex.features.mismatch import why_few_are_shared
from scalex.features.names import is_ensembl, listed, without_version
from scalex.features.peaks import MatchPeaks, matched_by_overlap

__all__ = ["alike", "check_joinable", "joined_features", "renamed_features", "writable"]

logger = logging.getLogger(__name__)

# Below this share of the smallest source's features in common, there is a reason to be looked for.
FEW = 0.05
# Share of a source's values that may be lacking without a word.
ABSENT = 0.5


def alike(features: Sequence[pd.Index], names: Sequence[str], match_peaks: MatchPeaks) -> list[pd.Index]:
    """The names under which the features of the sources are joined, which need not be unique.

    Peaks are united if that is asked for. Versions of Ensembl identifiers are left out where the sources have different ones.
    """
    if match_peaks == "overlap":
        return _united(features, names)
    if not all(map(is_ensembl, features)):
        return list(features)
    plain = [without_version(own, copies_apart=True) for own in features]
    if len(set.intersection(*map(set, plain))) <= len(set.intersection(*map(set, features))):
        return list(features)
    logger.info("The sources have different versions of Ensembl identifiers: they are joined without them")
    # What would be the same as another one of its source keeps its version.
    return [own.where(without.duplicated(keep=False), without) for own, without in zip(features, plain, strict=True)]


def _united(features: Sequence[pd.Index], names: Sequence[str]) -> list[pd.Index]:
    regions = matched_by_overlap(features, names)
    n_before, n_regions = sum(len(own) for own in features), len(set().union(*regions))
    shared, smallest = len(set.intersection(*map(set, regions))), min(own.nunique() for own in regions)
    if shared < FEW * smallest:
        examples = "; ".join(f"{name}: {listed(own, 2)}" for name, own in zip(names, features, strict=True))
        raise ValueError(
            f"match_peaks='overlap': {shared:,} regions have peaks of all sources, of {smallest:,} in the smallest ({examples}). The peaks "
            "are of different genomes, or their chromosomes are called differently: bring them to the same ones."
        )
    logger.info("Peaks that overlap are united: %s become %s regions", f"{n_before:,}", f"{n_regions:,}")
    return regions


def check_joinable(
    features: Sequence[pd.DataFrame],
    columns: Sequence[Sequence[str]],
    names: Sequence[str],
    *,
    join: str,
    source_key: str,
    cells: Sequence[Sequence[str]] = (),
) -> None:
    """See that the sources have features in common, and say which column of obs is lost.

    Parameters
    ----------
    features, columns, names
        Of each source: the table of its features, the columns of its obs, its name.
    join, source_key
        As in `AnnDataSource`.
    cells
        Some names of the cells of each source.

    Raises
    ------
    ValueError
        An inner join is empty, or so little is shared that there is a reason for it, which the message tells.
    """
    shared = set.intersection(*(set(var.index) for var in features))
    smallest = min(len(var) for var in features)
    if len(shared) < FEW * smallest:
        why = why_few_are_shared(features, names, cells)
        if why is not None:
            raise ValueError(f"{len(shared):,} features are in all sources, of {smallest:,} in the smallest. {why}")
    if join == "inner" and not shared:
        examples = "; ".join(f"{n}: {listed(var.index)}" for n, var in zip(names, features, strict=True))
        raise ValueError(
            f"The sources share no feature, so an inner join is empty. Their features: {examples}. "
            "Bring them to the same names, or use join='outer'."
        )
    if any(source_key in there for there in columns):
        logger.warning("obs[%r] of the sources is replaced by the name of the source; choose another column with source_key.", source_key)


def renamed_features(var: pd.DataFrame, names: pd.Index) -> pd.DataFrame:
    """The table of features under the names of `alike`; of those with the same name the first stays."""
    table = var.set_axis(names)
    return table[~table.index.duplicated()]


def joined_features(features: Sequence[pd.DataFrame], names: Sequence[str], join: Literal["inner", "outer"]) -> pd.DataFrame:
    """The features of the joined cells in the order of `anndata.concat`; of a feature's annotation the first that is there counts.

    "n_sources" says how many of the sources, which are called `names`, have a feature.
    """
    # anndata itself, joining no cells, says the order.
    without_cells = [ad.AnnData(sparse.csr_matrix((0, len(var)), dtype=np.float32), var=var[[]]) for var in features]
    order = ad.concat(without_cells, join=join).var_names
    joined = features[0].reindex(order)
    for var in features[1:]:
        joined = joined.combine_first(var.reindex(order))
    joined = writable(joined).loc[order]
    joined["n_sources"] = sum(joined.index.isin(var.index).astype(int) for var in features)
    smallest = min(len(var) for var in features)
    if len(joined) < smallest / 5:
        logger.warning(
            "Only %s features are in all sources, of at least %s in each: are they named alike?", f"{len(joined):,}", f"{smallest:,}"
        )
    for var, name in zip(features, names, strict=True):
        absent = 1 - len(joined.index.intersection(var.index)) / len(joined) if len(joined) else 0
        if absent > ABSENT:
            logger.warning(
                "%s lacks %.0f %% of the joined features, which are 0 in its cells: join=inner leaves them out.", name, 100 * absent
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
