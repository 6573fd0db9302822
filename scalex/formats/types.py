"""Files that hold features of several types: genes, proteins, peaks."""

from __future__ import annotations

import logging
from pathlib import Path

import anndata as ad

__all__ = ["of_one_type"]

logger = logging.getLogger(__name__)

USUAL = "Gene Expression"


def of_one_type(adata: ad.AnnData, wanted: str | None, path: Path) -> ad.AnnData:
    """The cells with the features of one type.

    Parameters
    ----------
    adata
        With var["feature_types"], or features of one type alone.
    wanted
        The type; None: the only one, or "Gene Expression".
    path
        Where they are from, for messages.

    Raises
    ------
    ValueError
        If there is no such feature; the message lists the types that there are.
    """
    if "feature_types" not in adata.var:
        if wanted is not None:
            raise ValueError(f"feature_type={wanted!r}: {path} does not say of which type its features are. Leave feature_type out.")
        return adata
    counts = adata.var["feature_types"].value_counts()
    there = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    if wanted is None:
        if len(counts) == 1:
            return adata
        wanted = USUAL
    if wanted not in counts.index:
        raise ValueError(f"{path} has no features of type {wanted!r}. There is: {there}; choose one with feature_type.")
    if len(counts) > 1:
        logger.info("%s: uses the features of type %s (feature_type), of: %s", path, wanted, there)
    return adata[:, (adata.var["feature_types"] == wanted).to_numpy()].copy()
