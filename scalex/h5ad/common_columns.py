"""Common types for the columns of several tables, so that they can be joined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_extension_array_dtype, is_numeric_dtype, is_object_dtype

__all__ = ["find_common_types", "conform", "find_free_suffix"]


def find_common_types(tables: Sequence[pd.DataFrame]) -> dict[str, Any]:
    """Return a type for each column of the tables that holds the values of all, and missing values if a table does not have the column.

    Categories are united, numbers become floating point if values are missing, and types that have nothing in common become text.
    """
    names = dict.fromkeys(name for table in tables for name in table.columns)
    return {name: _find_common_type([t[name].dtype if name in t else None for t in tables]) for name in names}


def _find_common_type(dtypes: Sequence[Any]) -> Any:
    # pandas 3 holds text in a type of its own.
    known: list[Any] = [np.dtype(object) if isinstance(dtype, pd.StringDtype) else dtype for dtype in dtypes if dtype is not None]
    is_missing = len(known) < len(dtypes)
    if any(isinstance(dtype, pd.CategoricalDtype) for dtype in known):
        if not all(isinstance(dtype, pd.CategoricalDtype) for dtype in known):
            return np.dtype(object)
        same = all(dtype == known[0] for dtype in known)
        return known[0] if same else pd.CategoricalDtype(list(dict.fromkeys(str(c) for dtype in known for c in dtype.categories)))
    if all(isinstance(dtype, np.dtype) and dtype.kind == "b" for dtype in known):
        return pd.BooleanDtype() if is_missing else np.dtype(bool)
    if all(isinstance(dtype, np.dtype) and dtype.kind in "biuf" for dtype in known):
        common = np.result_type(*known)
        return np.result_type(common, np.float32) if is_missing else common
    if any(is_extension_array_dtype(dtype) for dtype in known):
        # Each NumPy type is replaced by the nullable type for the same values.
        kinds = {dtype if is_extension_array_dtype(dtype) else pd.array(np.zeros(1, dtype)).dtype for dtype in known}
        if len(kinds) == 1:
            return kinds.pop()
        if all(is_numeric_dtype(kind) and not is_bool_dtype(kind) for kind in kinds):
            return pd.Float64Dtype()
    return np.dtype(object)


def conform(table: pd.DataFrame, types: dict[str, Any]) -> pd.DataFrame:
    """Return the table with these columns and types, in this order. Values of absent columns are missing, or "" if the type is text.

    The index has no name, which would be another column of a file.
    """
    index = table.index.rename(None)
    columns = {name: _convert_column(table.get(name), dtype, table.index) for name, dtype in types.items()}
    return pd.DataFrame({name: column.set_axis(index) for name, column in columns.items()}, index=index)


def _convert_column(values: pd.Series | None, dtype: Any, index: pd.Index) -> pd.Series:
    if isinstance(dtype, pd.CategoricalDtype):
        if values is None:
            return pd.Series(pd.Categorical.from_codes(np.full(len(index), -1), dtype=dtype), index=index)
        if values.dtype == dtype and list(values.cat.categories) == list(dtype.categories):
            return values
        # There may be many more cells than categories.
        position = dtype.categories.get_indexer(values.cat.categories.astype(str))
        codes = np.append(position, -1)[values.cat.codes]
        return pd.Series(pd.Categorical.from_codes(codes, dtype=dtype), index=index)
    if values is None:
        missing: Any = "" if is_object_dtype(dtype) else np.nan if isinstance(dtype, np.dtype) else pd.NA
        return pd.Series(missing, index=index, dtype=dtype)
    if is_object_dtype(dtype):
        text = values.astype(object)
        return text.where(text.isna(), text.astype(str)).fillna("")
    return values.astype(dtype)


def find_free_suffix(old: pd.Index, read_new: Callable[[], Iterable[pd.Index]]) -> str:
    """Return the suffix that makes the names of new cells differ from the old names: "", or "-query" as often as needed.

    Parameters
    ----------
    old
        Names of the old cells.
    read_new
        Function that returns the names of the new cells, in chunks. It may be called several times.
    """
    suffix = ""
    while any((names.astype(str) + suffix).isin(old).any() for names in read_new()):
        suffix += "-query"
    return suffix
