"""The domain and the label of each cell, from columns of obs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

import numpy as np
import pandas as pd

from scalex.features.annotation import rename_column
from scalex.features.names import format_names

__all__ = ["find_domains", "find_labels", "split_batch_key"]

logger = logging.getLogger(__name__)


def split_batch_key(batch_key: str, columns: Collection[str]) -> list[str]:
    """Return the columns that `batch_key` names, under the names by which they are written.

    A comma separates columns, unless there is a column of that whole name.
    """
    whole = rename_column(batch_key)
    return [whole] if whole in columns else [rename_column(column.strip()) for column in batch_key.split(",")]


def find_labels(obs: pd.DataFrame, label_key: str) -> pd.Categorical | None:
    """Return the label of each cell, (n_cells,), missing where the column has no value; None if no cell has a label."""
    if label_key not in obs or obs[label_key].isna().all():
        return None
    return _join_text([pd.Categorical(obs[label_key])])


def find_domains(
    obs: pd.DataFrame,
    batch_key: str | None,
    source_key: str,
    *,
    several: bool,
    name: str,
    columns: Sequence[str],
    get_name: Callable[[int], str],
) -> pd.Categorical:
    """Return the domain of each cell, (n_cells,).

    Parameters
    ----------
    obs
        The columns of the annotation that may hold domains.
    batch_key, source_key
        As in `AnnDataSource`.
    several
        Whether the cells come from several sources.
    name
        The domain of a single source that has no column of domains.
    columns
        All columns of the annotation, for messages.
    get_name
        Function that returns the name of the cell in a row, for messages.

    Raises
    ------
    KeyError
        If `batch_key` names an absent column.
    ValueError
        If a cell has no domain.
    """
    given = source_key if batch_key is None else batch_key
    keys = split_batch_key(given, columns)
    for key in keys:
        if key not in columns and {f"{key}-1", f"{key}-2"} <= set(columns):
            raise ValueError(f"obs has several columns named {key!r}, with different values: rename those that do not hold the domains.")
    if batch_key is None:
        if not several and source_key not in obs:
            logger.info(
                "No batch_key given and no column %r in obs: all cells form one domain, %s. Columns: %s.",
                source_key, name, format_names(columns, 20),
            )  # fmt: skip
            return pd.Categorical([name] * len(obs))
        batch_key = source_key
    for column in keys:
        if column not in obs:
            raise KeyError(f"batch_key={column!r} is not in obs. Columns: {format_names(columns, 20)}.")
    missing = obs[keys].isna().any(axis=1)
    if missing.any():
        row = int(np.flatnonzero(missing)[0])
        raise ValueError(
            f"{int(missing.sum())} cells have no value in obs[{batch_key!r}] (first: {get_name(row)}): fill the column, or remove those "
            "cells."
        )
    return _join_text([pd.Categorical(obs[key]) for key in keys])


def _join_text(columns: Sequence[pd.Categorical]) -> pd.Categorical:
    """Join the text of columns with "_", by category and not by cell. The result is missing where the first column is."""
    codes, inverse = np.unique(np.stack([column.codes for column in columns], axis=1), axis=0, return_inverse=True)
    known = codes[:, 0] >= 0
    text = ["_".join(str(column.categories[c]) for column, c in zip(columns, row, strict=True)) for row in codes[known]]
    joined = pd.Categorical(text)
    position = np.full(len(codes), -1)
    position[known] = joined.codes
    return pd.Categorical.from_codes(position[inverse.ravel()], joined.categories)
