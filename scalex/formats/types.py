"""Selection of features by type: genes, proteins, peaks."""

from __future__ import annotations

import logging
from pathlib import Path

import anndata as ad

__all__ = ["select_feature_type"]

logger = logging.getLogger(__name__)

DEFAULT_TYPE = "Gene Expression"


def select_feature_type(adata: ad.AnnData, feature_type: str | None, path: Path) -> ad.AnnData:
    """Return the cells with the features of one type.

    Parameters
    ----------
    adata
        Cells with the types of features in var["feature_types"]. Without that column, all features have one type.
    feature_type
        The type; None: the only type, or "Gene Expression".
    path
        Path of the file, for messages.

    Raises
    ------
    ValueError
        If no feature has this type; the message lists the types.
    """
    if "feature_types" not in adata.var:
        if feature_type is not None:
            raise ValueError(f"feature_type={feature_type!r}: {path} does not give the types of its features. Leave out feature_type.")
        return adata
    counts = adata.var["feature_types"].value_counts()
    types = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    if feature_type is None:
        if len(counts) == 1:
            return adata
        feature_type = DEFAULT_TYPE
    if feature_type not in counts.index:
        raise ValueError(f"{path} has no features of type {feature_type!r}. Types: {types}. Choose one with feature_type.")
    if len(counts) > 1:
        logger.info("%s: uses the features of type %s (feature_type), of: %s", path, feature_type, types)
    return adata[:, (adata.var["feature_types"] == feature_type).to_numpy()].copy()
