"""Columns of obs that a user names."""

from __future__ import annotations

import numpy as np
import pandas as pd

__all__ = ["require_column"]


def require_column(obs: pd.DataFrame, name: str, option: str) -> pd.Categorical:
    """Return a column of obs as text, in categories without unused ones. A missing value and the text "unknown" stay what they are.

    Raises
    ------
    KeyError
        If there is no such column. The message lists those there are.
    """
    if name not in obs:
        raise KeyError(f"{option}={name!r} is not in obs. Columns: {', '.join(map(str, obs.columns))}.")
    column = pd.Categorical(obs[name]).remove_unused_categories()
    # Numbers are in their order, and 1 and "1" are the same.
    code, text = pd.factorize(column.categories.astype(str))
    return pd.Categorical.from_codes(np.append(code, -1)[column.codes], text)
