"""Names of cells and features: made unique, and listed in messages."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import anndata as ad
import pandas as pd

__all__ = ["listed", "unique"]

logger = logging.getLogger(__name__)


def unique(table: pd.DataFrame, kind: str, source: str) -> pd.DataFrame:
    """The table with text as index in which no name is repeated; that names had to be changed is said.

    Parameters
    ----------
    kind
        What the names are of, "cell" or "feature".
    source
        Whose they are, for the message.
    """
    table = table.copy()
    table.index = table.index.astype(str)
    if not table.index.is_unique:
        repeated = table.index[table.index.duplicated()].unique()
        logger.warning(
            "%s: %d %s names occur more than once (%s); repeats are numbered -1, -2, ...",
            source, len(repeated), kind, listed(repeated),
        )  # fmt: skip
        table.index = ad.utils.make_index_unique(table.index)
    return table


def listed(names: Iterable[Any], most: int = 5) -> str:
    """Some names for a message."""
    shown = [str(name) for name in names]
    return ", ".join(shown[:most]) + (", ..." if len(shown) > most else "") if shown else "none"
