"""Joining of the features of several sources, with their annotation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from scalex.features.annotation import use_categories
from scalex.features.mismatch import explain_mismatch
from scalex.features.names import format_names, is_ensembl, strip_version
from scalex.features.peaks import MatchPeaks, merge_overlapping

__all__ = ["harmonize_names", "check_joinable", "join_features", "rename_features"]

logger = logging.getLogger(__name__)

# Below this share of the smallest source's features in common, something is wrong.
FEW = 0.05
# Share of the joined features that a source may lack without a warning.
MAX_ABSENT = 0.5


def harmonize_names(features: Sequence[pd.Index], names: Sequence[str], match_peaks: MatchPeaks) -> list[pd.Index]:
    """Return the names under which the features of each source are joined. They need not be unique.

    With match_peaks="overlap", overlapping peaks get one name. Ensembl identifiers lose their versions if those differ between sources.
    """
    if match_peaks == "overlap":
        return _merge_peaks(features, names)
    if not all(map(is_ensembl, features)):
        return list(features)
    stripped = [strip_version(own, copies_apart=True) for own in features]
    if len(set.intersection(*map(set, stripped))) <= len(set.intersection(*map(set, features))):
        return list(features)
    logger.info("The versions of Ensembl identifiers differ between the sources and are removed")
    # An identifier keeps its version if the source has it in several versions.
    return [own.where(without.duplicated(keep=False), without) for own, without in zip(features, stripped, strict=True)]


def _merge_peaks(features: Sequence[pd.Index], names: Sequence[str]) -> list[pd.Index]:
    regions = merge_overlapping(features, names)
    n_before, n_regions = sum(len(own) for own in features), len(set().union(*regions))
    shared, smallest = len(set.intersection(*map(set, regions))), min(own.nunique() for own in regions)
    if shared < FEW * smallest:
        examples = "; ".join(f"{name}: {format_names(own, 2)}" for name, own in zip(names, features, strict=True))
        raise ValueError(
            f"match_peaks='overlap': all sources have peaks in {shared:,} of the {smallest:,} regions of the smallest ({examples}). Their "
            "genomes or the names of their chromosomes differ: use the same genome and names in all sources."
        )
    logger.info("Merged %s overlapping peaks into %s regions", f"{n_before:,}", f"{n_regions:,}")
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
    """Check that the sources have features in common, and warn if a column of obs is replaced.

    Parameters
    ----------
    features, columns, names
        For each source, the table of its features, the columns of its obs and its name.
    join, source_key
        As in `AnnDataSource`.
    cells
        Some names of the cells of each source.

    Raises
    ------
    ValueError
        If an inner join is empty, or if the sources share few features for a reason that the message gives.
    """
    shared = set.intersection(*(set(var.index) for var in features))
    smallest = min(len(var) for var in features)
    if len(shared) < FEW * smallest:
        reason = explain_mismatch(features, names, cells)
        if reason is not None:
            raise ValueError(f"The sources share only {len(shared):,} features, and the smallest has {smallest:,}. {reason}")
    if join == "inner" and not shared:
        examples = "; ".join(f"{n}: {format_names(var.index)}" for n, var in zip(names, features, strict=True))
        raise ValueError(
            f"The sources share no feature, so an inner join is empty. Their features: {examples}. "
            "Rename the features, or use join='outer'."
        )
    if any(source_key in own for own in columns):
        logger.warning("The name of the source replaces obs[%r] of the sources. To keep that column, set source_key.", source_key)


def rename_features(var: pd.DataFrame, names: pd.Index) -> pd.DataFrame:
    """Return the table of features under other names. Of features with the same name the first stays."""
    table = var.set_axis(names)
    return table[~table.index.duplicated()]


def join_features(features: Sequence[pd.DataFrame], names: Sequence[str], join: Literal["inner", "outer"]) -> pd.DataFrame:
    """Return the table of the joined features, in the order of `anndata.concat`.

    Each annotation comes from the first source that has it. Column "n_sources" counts the sources that have the feature. `names` are the
    names of the sources, for messages.
    """
    # anndata itself determines the order, by joining no cells.
    without_cells = [ad.AnnData(sparse.csr_matrix((0, len(var)), dtype=np.float32), var=var[[]]) for var in features]
    order = ad.concat(without_cells, join=join).var_names
    joined = features[0].reindex(order)
    for var in features[1:]:
        joined = joined.combine_first(var.reindex(order))
    joined = use_categories(joined).loc[order]
    joined["n_sources"] = sum(joined.index.isin(var.index).astype(int) for var in features)
    smallest = min(len(var) for var in features)
    if len(joined) < smallest / 5:
        logger.warning(
            "The sources share only %s features, and each has at least %s. Check that they use the same names.",
            f"{len(joined):,}", f"{smallest:,}",
        )  # fmt: skip
    for var, name in zip(features, names, strict=True):
        absent = 1 - len(joined.index.intersection(var.index)) / len(joined) if len(joined) else 0
        if absent > MAX_ABSENT:
            logger.warning("%s lacks %.0f %% of the joined features. They are 0 in its cells; join=inner drops them.", name, 100 * absent)
    return joined
