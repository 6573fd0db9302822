"""Tables of annotation in a form that .h5ad can hold, for every version of anndata that reads the result."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import infer_dtype

from scalex.features.names import format_names, make_text

__all__ = ["make_writable", "make_writable_names", "make_writable_text", "rename_column", "stack_tables", "use_categories"]

logger = logging.getLogger(__name__)

# The name under which anndata stores the index of a table.
RESERVED = "_index"
# Kinds of objects, as pandas names them, that a NumPy type holds.
NUMERIC = {"floating": "float64", "mixed-integer-float": "float64", "decimal": "float64"}
# The nullable types that .h5ad holds, besides booleans.
INTEGER_TYPES = (
    pd.Int8Dtype | pd.Int16Dtype | pd.Int32Dtype | pd.Int64Dtype | pd.UInt8Dtype | pd.UInt16Dtype | pd.UInt32Dtype | pd.UInt64Dtype
)


def make_writable(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return a table whose names and columns .h5ad can hold. One line of the log names what was converted.

    Text stays text, whatever type holds it, and becomes categories where it is missing. What no type of .h5ad holds becomes text: dates,
    intervals, lists, numbers mixed with text. Columns that can be written as they are do not change.

    Parameters
    ----------
    table
        Annotation of cells or features.
    source
        Name of the source, for messages.
    """
    if not table.columns.is_unique:
        table = _drop_copies(table)
    names = make_writable_names(list(table.columns), source)
    columns: dict[str, Any] = {}
    converted = []
    for i, name in enumerate(names):
        columns[name], became = _convert(table.iloc[:, i])
        converted += [f"{name} ({became})"] if became else []
    if converted:
        logger.info("%s: columns that .h5ad cannot hold were converted: %s", source, format_names(converted, 10))
    writable = pd.DataFrame(columns, index=table.index, columns=pd.Index(names, dtype=object))
    writable.index = make_text(writable.index)
    # anndata writes the name of the index among the columns.
    name = table.index.name
    writable.index.name = name if isinstance(name, str) and name not in (*names, RESERVED) and "/" not in name else None
    return writable


def make_writable_names(columns: list[Any], source: str) -> list[str]:
    """Return names for the columns of a table that are distinct text without slashes. One line of the log names those that changed.

    Columns of the same name all get a number, so that none of them is taken for the other.
    """
    names = [rename_column(column) for column in columns]
    repeated = {name for name, count in Counter(names).items() if count > 1}
    number, taken = Counter[str](), set(names) - repeated
    for i, name in enumerate(names):
        if name in repeated:
            while f"{name}-{number[name] + 1}" in taken:
                number[name] += 1
            number[name] += 1
            names[i] = f"{name}-{number[name]}"
    changed = [f"{column!r} -> {name}" for column, name in zip(columns, names, strict=True) if column != name]
    if changed:
        logger.info("%s: columns were renamed, since .h5ad needs distinct text without slashes: %s", source, format_names(changed, 10))
    return names


def rename_column(column: Any) -> str:
    """Return the name under which a column can be written, as text without slashes."""
    name = str(column).replace("/", "|") or "unnamed"
    return f"{name}-column" if name in (RESERVED, ".", "..") else name


def use_categories(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with categories or booleans in place of objects, which joining leaves where sources lack a column or differ in it."""
    table = table.copy()
    for name, column in table.items():
        if column.dtype == object and infer_dtype(column, skipna=True) == "boolean":
            table[name] = column.astype("boolean")
        elif column.dtype == object:
            table[name] = pd.Categorical(column.where(column.isna(), column.astype(str)))
    return table


def stack_tables(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of tables with the same columns, one after the other.

    pandas 3 would turn their names into a type of its own.
    """
    if len(tables) == 1:
        return tables[0]
    stacked = pd.concat(tables)
    return stacked.set_axis(make_text(stacked.index))


def _drop_copies(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table without the columns that repeat the name and the values of another."""
    kept: list[int] = []
    for i, name in enumerate(table.columns):
        if not any(table.columns[k] == name and table.iloc[:, k].equals(table.iloc[:, i]) for k in kept):
            kept.append(i)
    return table.iloc[:, kept]


def _convert(column: pd.Series) -> tuple[Any, str | None]:
    """Return a column that can be written, and what its values became; None if they are the same."""
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return _convert_categories(column)
    if isinstance(dtype, pd.SparseDtype):
        return column.sparse.to_dense(), None
    if isinstance(dtype, np.dtype) and dtype.kind in "biuf":
        return column, None
    if isinstance(dtype, pd.BooleanDtype | INTEGER_TYPES):
        return column, None
    if isinstance(dtype, pd.Float32Dtype | pd.Float64Dtype):
        return column.astype(dtype.numpy_dtype.name), None
    if isinstance(dtype, np.dtype) and dtype.kind in "cmM":
        return _to_text(column), "text"
    return _convert_objects(column.astype(object))


def _convert_objects(column: pd.Series) -> tuple[Any, str | None]:
    kind, missing = infer_dtype(column, skipna=True), bool(column.isna().any())
    if kind == "string":
        text = _to_text(column)
        return text, None
    if kind == "boolean":
        return column.astype("boolean" if missing else "bool"), None
    if kind == "integer":
        try:
            return column.astype("Int64" if missing else "int64"), None
        except (OverflowError, TypeError):
            return _to_text(column), "text"
    if kind in NUMERIC:
        return column.astype(NUMERIC[kind]), None
    return _to_text(column), "nothing but missing values" if kind == "empty" else "text"


def _convert_categories(column: pd.Series) -> tuple[Any, str | None]:
    categories = column.cat.categories
    if categories.dtype == object and infer_dtype(categories) == "string":
        known = _is_plain_text(categories)
    else:
        known = isinstance(categories.dtype, np.dtype) and categories.dtype.kind in "biuf"
    if known:
        return column, None
    text = pd.Index(_to_text(pd.Series(categories)), dtype=object)
    same = infer_dtype(categories) == "string"
    if not text.is_unique:
        # 1 and "1" are one category.
        return pd.Series(pd.Categorical(text.to_numpy()[column.cat.codes], categories=text.unique()), index=column.index), "text"
    return column.cat.rename_categories(text), None if same else "text"


def _to_text(column: pd.Series) -> pd.Series:
    """Return the values as text, in categories if some are missing: .h5ad has no other missing text that every version of anndata reads."""
    missing = column.isna().to_numpy()
    values = column.to_numpy(object)
    if not missing.any() and infer_dtype(values) == "string" and _is_plain_text(values):
        return column if column.dtype == object else pd.Series(values, index=column.index, dtype=object)
    text = np.array([None if gone else make_writable_text(value) for value, gone in zip(values, missing, strict=True)], dtype=object)
    return pd.Series(pd.Categorical(text) if missing.any() else text, index=column.index)


def make_writable_text(value: Any) -> str:
    """Return a value as text that .h5ad can hold."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    # HDF5 holds neither zero bytes nor halves of surrogate pairs.
    return text.replace("\0", "").encode(errors="replace").decode()


def _is_plain_text(values: Any) -> bool:
    """Return whether HDF5 can hold all texts."""
    joined = "\n".join(values)
    return "\0" not in joined and joined.encode(errors="ignore").decode() == joined
