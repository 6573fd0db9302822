"""Names of cells and features."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import anndata as ad
import pandas as pd

__all__ = ["ENSEMBL", "is_ensembl", "format_names", "make_text", "make_unique", "rename_by_column", "strip_version"]

logger = logging.getLogger(__name__)

# Ensembl stable identifiers of features. Some files append a version: ENSG00000141510.18, ENSMUSG00000059552.13.
ENSEMBL = r"ENS[A-Z]*[GTPE]\d{11}"
# The identifier of a gene's copy on the Y chromosome ends with _PAR_Y.
VERSIONED = rf"^({ENSEMBL})\.\d+(_PAR_Y)?$"
# Names that are tested, and the share of identifiers among them above which all count as identifiers.
N_TESTED, MIN_SHARE = 1000, 0.5


def make_text(names: pd.Index) -> pd.Index:
    """Return the names as text in an index of objects.

    pandas 3 would hold them in a type that anndata 0.13 writes in a form of its own, and would keep missing names as they are.
    """
    return pd.Index([str(name) for name in names], dtype=object, name=names.name)


def make_unique(table: pd.DataFrame, kind: str, source: str) -> pd.DataFrame:
    """Return a copy of the table whose index is unique text. A warning tells which names were changed.

    Parameters
    ----------
    kind
        "cell" or "feature", for the warning.
    source
        Name of the source, for the warning.
    """
    table = table.copy()
    table.index = make_text(table.index)
    if not table.index.is_unique:
        repeated = table.index[table.index.duplicated()].unique()
        logger.warning(
            "%s: %d %s names are not unique (%s); repeats get the suffixes -1, -2, ...",
            source, len(repeated), kind, format_names(repeated),
        )  # fmt: skip
        table.index = make_text(ad.utils.make_index_unique(table.index))
    return table


def rename_by_column(var: pd.DataFrame, *, column: str | None, source: str, several: bool) -> pd.DataFrame:
    """Return the table of features with a column as index. A feature whose value is missing keeps its name.

    Parameters
    ----------
    column
        The column; None returns the table unchanged.
    source
        Name of the source, for messages.
    several
        The source is one of several. Without such a column it keeps its names.

    Raises
    ------
    KeyError
        If the only source has no such column.
    """
    if column is None:
        return var
    if column not in var:
        if several:
            logger.info("%s has no column %r in var and keeps the names of its features", source, column)
            return var
        raise KeyError(f"var_names_from={column!r} is not in var of {source}. Columns: {format_names(var.columns, 20)}.")
    text = var[column].astype(object)
    return var.set_axis(make_text(pd.Index(text.where(text.notna() & (text != ""), var.index.to_numpy()), name=None)))


def strip_version(names: pd.Index, *, copies_apart: bool = False) -> pd.Index:
    """Remove the versions of Ensembl identifiers.

    Parameters
    ----------
    copies_apart
        Keep "_PAR_Y", which distinguishes a gene's copy on the Y chromosome from the copy on the X chromosome.
    """
    return pd.Index(make_text(names).str.replace(VERSIONED, r"\1\2" if copies_apart else r"\1", regex=True), dtype=object)


def is_ensembl(names: pd.Index) -> bool:
    """Return whether most names are Ensembl identifiers, with or without a version."""
    tested = strip_version(names[:N_TESTED])
    return len(tested) > 0 and float(tested.str.fullmatch(ENSEMBL).mean()) > MIN_SHARE


def format_names(names: Iterable[Any], most: int = 5) -> str:
    """Format the first names for a message."""
    shown = [str(name) for name in names]
    return ", ".join(shown[:most]) + (", ..." if len(shown) > most else "") if shown else "none"
