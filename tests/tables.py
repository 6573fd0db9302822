"""Comparison of tables by their values, whatever type holds their text."""

from __future__ import annotations

from typing import Any

import pandas as pd


def hold_text_in_objects(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose text, names and categories are objects, as before pandas 3."""
    held = table.set_axis(pd.Index(table.index, dtype=object), axis=0) if isinstance(table.index.dtype, pd.StringDtype) else table.copy()
    for name, column in table.items():
        if isinstance(column.dtype, pd.StringDtype):
            held[name] = column.set_axis(held.index).astype(object)
        elif isinstance(column.dtype, pd.CategoricalDtype) and isinstance(column.cat.categories.dtype, pd.StringDtype):
            held[name] = column.set_axis(held.index).cat.rename_categories(column.cat.categories.astype(object))
    return held.set_axis(pd.Index(table.columns, dtype=object), axis=1)


def assert_same_table(found: pd.DataFrame, expected: pd.DataFrame, **options: Any) -> None:
    """Assert that two tables have the same names, types and values. `options` are those of pandas."""
    pd.testing.assert_frame_equal(hold_text_in_objects(found), hold_text_in_objects(expected), **options)
