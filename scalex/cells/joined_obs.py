"""Columns of obs of several files, brought to the types that they have when the cells are joined in memory.

A file is read in runs of rows, each of which has to come with the same types and categories. So a column's type is found once: from an
example of each file, and, where the files hold it in types that do not fit together, from all values that there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_object_dtype, is_string_dtype, union_categoricals

from scalex.cells.protocol import Table
from scalex.features.joining import make_writable
from scalex.h5ad.common_columns import conform

__all__ = ["JoinedColumns"]


class JoinedColumns:
    """The columns of the joined cells.

    Text stays text, and is "" where a source lacks the column: in memory it becomes categories, but there may be as many of them as cells.

    Parameters
    ----------
    tables
        Annotation of each source.
    """

    def __init__(self, tables: Sequence[Table]) -> None:
        self._tables = tables
        self._types: dict[str, Any] = {}

    @property
    def names(self) -> list[str]:
        """The columns that any of the sources has."""
        return list(dict.fromkeys(name for table in self._tables for name in table.columns))

    def conform(self, table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
        """Rows of one source with these columns of the joined cells."""
        types = {name: self._type(name) for name in names}
        there = [name for name, dtype in types.items() if name in table and isinstance(dtype, pd.CategoricalDtype)]
        return conform(table.assign(**{name: _of_categories(table[name], types[name]) for name in there}), types)

    def column(self, name: str) -> pd.Series:
        """One column of all cells, without their names; text as categories."""
        parts = [part for table in self._tables for part in self._parts(table, name)]
        is_text = _is_text(self._type(name))
        return pd.Series(union_categoricals(parts, sort_categories=True)) if is_text else pd.concat(parts, ignore_index=True)

    def _parts(self, table: Table, name: str) -> Iterator[Any]:
        there = name in table.columns
        is_text = _is_text(self._type(name))
        for piece in (one.to_frame(name) for one in table.column(name)) if there else [pd.DataFrame(index=range(table.n_rows))]:
            if not is_text:
                yield self.conform(piece, [name])[name]
            elif there:
                yield pd.Categorical(piece[name].astype(object))
            else:
                yield pd.Categorical.from_codes(np.full(len(piece), -1), categories=pd.Index([], dtype=object))

    def _type(self, name: str) -> Any:
        if name not in self._types:
            self._types[name] = self._find_type(name)
        return self._types[name]

    def _find_type(self, name: str) -> Any:
        examples = [_example(table, name) if name in table.columns else None for table in self._tables]
        frames = [pd.DataFrame(index=[0]) if example is None else example.to_frame(name) for example in examples]
        dtype = pd.concat(frames)[name].dtype
        if not is_object_dtype(dtype) or all(example is None or _is_text(example.dtype) for example in examples):
            return dtype
        there = (table for table in self._tables if name in table.columns)
        values = [value for table in there for piece in table.column(name) for value in piece.dropna().astype(object).unique()]
        return make_writable(pd.DataFrame({name: pd.Series(values, dtype=object)}))[name].dtype


def _is_text(dtype: Any) -> bool:
    return not isinstance(dtype, pd.CategoricalDtype) and is_string_dtype(dtype)


def _example(table: Table, name: str) -> pd.Series:
    """A value of a column, and a missing one where that may change its type; pandas passes over a column in which all are missing."""
    found: dict[bool, pd.Series] = {}
    for piece in table.column(name):
        missing = piece.isna().to_numpy()
        for which in set(np.unique(missing)) - set(found):
            found[which] = piece[missing == which][:1]
        # Numbers that are categories become whole numbers only where none is missing.
        enough = {False, True} if isinstance(piece.dtype, pd.CategoricalDtype) and not is_object_dtype(piece.cat.categories) else {False}
        if enough <= set(found):
            break
    return pd.concat(list(found.values())) if found else piece


def _of_categories(values: pd.Series, dtype: pd.CategoricalDtype) -> pd.Series:
    if values.dtype == dtype:
        # Types with the same categories in another order are equal.
        return values.cat.set_categories(dtype.categories)
    if isinstance(values.dtype, pd.CategoricalDtype):
        # By categories and not by cells, of which there may be many more.
        position = dtype.categories.get_indexer(values.cat.categories.astype(str))
        codes = np.append(position, -1)[values.cat.codes]
    else:
        text = values.astype(object)
        codes = dtype.categories.get_indexer(text.where(text.isna(), text.astype(str)))
    return pd.Series(pd.Categorical.from_codes(codes, dtype=dtype), index=values.index)
