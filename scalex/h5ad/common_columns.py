"""Columns of obs of several groups of cells, brought to the same types so that they can stand in one table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_extension_array_dtype, is_numeric_dtype, is_object_dtype

__all__ = ["check_writable", "common_types", "conform", "find_free_suffix"]


def common_types(tables: Sequence[pd.DataFrame]) -> dict[str, Any]:
    """For each column that any of the tables has, a type that holds the values of all, and missing ones where a table lacks it.

    Categories are joined; numbers become floating point where values are missing; what has no common type becomes text.
    """
    names = dict.fromkeys(name for table in tables for name in table.columns)
    return {name: _common([t[name].dtype if name in t else None for t in tables]) for name in names}


def _common(dtypes: Sequence[Any]) -> Any:
    there = [dtype for dtype in dtypes if dtype is not None]
    lacking = len(there) < len(dtypes)
    if any(isinstance(dtype, pd.CategoricalDtype) for dtype in there):
        if not all(isinstance(dtype, pd.CategoricalDtype) for dtype in there):
            return np.dtype(object)
        same = all(dtype == there[0] for dtype in there)
        return there[0] if same else pd.CategoricalDtype(list(dict.fromkeys(str(c) for dtype in there for c in dtype.categories)))
    if all(isinstance(dtype, np.dtype) and dtype.kind == "b" for dtype in there):
        return pd.BooleanDtype() if lacking else np.dtype(bool)
    if all(isinstance(dtype, np.dtype) and dtype.kind in "biuf" for dtype in there):
        common = np.result_type(*there)
        return np.result_type(common, np.float32) if lacking else common
    if any(is_extension_array_dtype(dtype) for dtype in there):
        # Types that can hold missing values, with their like that cannot.
        kinds = {dtype if is_extension_array_dtype(dtype) else pd.array(np.zeros(1, dtype)).dtype for dtype in there}
        if len(kinds) == 1:
            return kinds.pop()
        if all(is_numeric_dtype(kind) and not is_bool_dtype(kind) for kind in kinds):
            return pd.Float64Dtype()
    return np.dtype(object)


def conform(table: pd.DataFrame, types: dict[str, Any]) -> pd.DataFrame:
    """The table with these columns of these types, in this order; what it lacks is missing, and "" where the type is text."""
    return pd.DataFrame({name: _column(table.get(name), dtype, table.index) for name, dtype in types.items()}, index=table.index)


def _column(values: pd.Series | None, dtype: Any, index: pd.Index) -> pd.Series:
    if isinstance(dtype, pd.CategoricalDtype):
        if values is None:
            return pd.Series(pd.Categorical.from_codes(np.full(len(index), -1), dtype=dtype), index=index)
        if values.dtype == dtype and list(values.cat.categories) == list(dtype.categories):
            return values
        # By categories and not by cells, of which there may be many more.
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


def find_free_suffix(taken: pd.Index, names: Callable[[], Iterable[pd.Index]]) -> str:
    """What to add to the names of new cells so that none is taken: nothing, or "-query" as often as needed.

    Parameters
    ----------
    taken
        Names that are there.
    names
        Gives the new names, run by run, as often as it is asked.
    """
    suffix = ""
    while any((run.astype(str) + suffix).isin(taken).any() for run in names()):
        suffix += "-query"
    return suffix


def check_writable(table: pd.DataFrame) -> None:
    """See that .h5ad can hold every column.

    Raises
    ------
    ValueError
        Naming the column that it cannot hold.
    """
    with h5py.File("check", "w", driver="core", backing_store=False) as file:
        for column in table:
            try:
                ad.io.write_elem(file, "column", table[[column]])
            except Exception as error:
                raise ValueError(
                    f"The column {column!r} of obs or var cannot be written to .h5ad ({type(error).__name__}): it may mix text and "
                    "numbers. Convert it, for example with astype(str), or drop it."
                ) from error
