"""Columns of obs that a user names."""

from __future__ import annotations

import pandas as pd

__all__ = ["require_column"]


def require_column(obs: pd.DataFrame, name: str, option: str) -> pd.Categorical:
    """Return a column of obs as categories without unused ones. A missing value and the text "unknown" stay what they are.

    Raises
    ------
    KeyError
        If there is no such column. The message lists those there are.
    """
    if name not in obs:
        raise KeyError(f"{option}={name!r} is not in obs. Columns: {', '.join(map(str, obs.columns))}.")
    column = obs[name]
    if not isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(str).where(column.notna())
    return pd.Categorical(column).remove_unused_categories()
