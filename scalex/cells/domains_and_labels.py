"""The domain and the known type of each cell, from columns of its annotation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from scalex.features.names import format_names

__all__ = ["columns_of", "domains", "labels"]

logger = logging.getLogger(__name__)


def columns_of(batch_key: str) -> list[str]:
    """The columns that `batch_key` names."""
    return [column.strip() for column in batch_key.split(",")]


def labels(obs: pd.DataFrame, label_key: str) -> pd.Categorical | None:
    """Known types; a cell without one stays without."""
    if label_key not in obs or obs[label_key].isna().all():
        return None
    return _join_text([pd.Categorical(obs[label_key])])


def domains(
    obs: pd.DataFrame,
    batch_key: str | None,
    source_key: str,
    *,
    several: bool,
    columns: Sequence[str] | None = None,
    name_of: Callable[[int], str] | None = None,
) -> pd.Categorical:
    """Domain of each cell. Where obs is not read whole, `columns` are those it has and `name_of` gives a cell's name."""
    there = list(obs.columns) if columns is None else columns
    if batch_key is None:
        if not several and source_key not in obs:
            logger.warning(
                "No batch_key given and no column %r in obs: all cells form one domain. Columns: %s.",
                source_key, format_names(there, 20),
            )  # fmt: skip
            return pd.Categorical(["all"] * len(obs))
        batch_key = source_key
    keys = columns_of(batch_key)
    for column in keys:
        if column not in obs:
            raise KeyError(f"batch_key={column!r} is not in obs. Columns: {format_names(there, 20)}.")
    missing = obs[keys].isna().any(axis=1)
    if missing.any():
        row = int(np.flatnonzero(missing)[0])
        first = obs.index[row] if name_of is None else name_of(row)
        raise ValueError(
            f"{int(missing.sum())} cells have no value in obs[{batch_key!r}] (first: {first}): fill the column or remove those cells."
        )
    return _join_text([pd.Categorical(obs[key]) for key in keys])


def _join_text(columns: Sequence[pd.Categorical]) -> pd.Categorical:
    """The text of several columns joined with "_", without making a string for each cell; missing where the first is."""
    codes, inverse = np.unique(np.stack([column.codes for column in columns], axis=1), axis=0, return_inverse=True)
    known = codes[:, 0] >= 0
    text = ["_".join(str(column.categories[c]) for column, c in zip(columns, row, strict=True)) for row in codes[known]]
    joined = pd.Categorical(text)
    position = np.full(len(codes), -1)
    position[known] = joined.codes
    return pd.Categorical.from_codes(position[inverse.ravel()], joined.categories)
