"""Names of cells and features: made unique, and listed in messages."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import anndata as ad
import pandas as pd

__all__ = ["ENSEMBL", "is_ensembl", "listed", "named_by", "unique", "without_version"]

logger = logging.getLogger(__name__)

# Ensembl stable identifiers of features, and the version that some files append: ENSG00000141510.18, ENSMUSG00000059552.13.
ENSEMBL = r"ENS[A-Z]*[GTPE]\d{11}"
# That of a gene's copy on the Y chromosome ends with _PAR_Y.
VERSIONED = rf"^({ENSEMBL})\.\d+(_PAR_Y)?$"
# Names that are looked at, and the share of them that are identifiers where all are called so.
LOOKED_AT, MOST = 1000, 0.5


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


def named_by(var: pd.DataFrame, *, column: str | None, source: str, several: bool) -> pd.DataFrame:
    """The table of features with the text of a column as their names; where that is missing, the name stays.

    Parameters
    ----------
    column
        The column; None: the names stay.
    source
        Whose features they are, for messages.
    several
        One of several sources, which keeps its names if it has no such column.

    Raises
    ------
    KeyError
        If the only source has no such column.
    """
    if column is None:
        return var
    if column not in var:
        if several:
            logger.info("%s keeps the names of its features: it has no column %r in var", source, column)
            return var
        raise KeyError(f"var_names_from={column!r} is not in var of {source}. Columns: {listed(var.columns, 20)}.")
    text = var[column].astype(object)
    return var.set_axis(pd.Index(text.where(text.notna() & (text != ""), var.index.to_numpy()).astype(str)))


def without_version(names: pd.Index, *, copies_apart: bool = False) -> pd.Index:
    """The names, Ensembl identifiers without their version.

    Parameters
    ----------
    copies_apart
        Keep "_PAR_Y", which tells a gene's copy on the Y chromosome from that on the X chromosome.
    """
    return pd.Index(names.astype(str).str.replace(VERSIONED, r"\1\2" if copies_apart else r"\1", regex=True))


def is_ensembl(names: pd.Index) -> bool:
    """Whether most names are Ensembl identifiers, with or without a version."""
    looked = without_version(names[:LOOKED_AT])
    return len(looked) > 0 and float(looked.str.fullmatch(ENSEMBL).mean()) > MOST


def listed(names: Iterable[Any], most: int = 5) -> str:
    """Some names for a message."""
    shown = [str(name) for name in names]
    return ", ".join(shown[:most]) + (", ..." if len(shown) > most else "") if shown else "none"
