"""Annotation of the cells of several sources, with the same columns and types in each run of rows.

The type of a column is found once: from an example of each source or, if the types of the sources are incompatible, from all values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_object_dtype, is_string_dtype, union_categoricals

from scalex.cells.protocol import Table
from scalex.features.annotation import stack_tables, use_categories
from scalex.features.names import make_text
from scalex.h5ad.common_columns import conform

__all__ = ["JoinedTable", "read_column", "split_by_source"]


class JoinedTable:
    """Tables of several sources, one after the other, with a column that names the source of each cell. See `Table`.

    Text of an absent column is "". It could only be missing as categories, of which there may be as many as cells.

    Parameters
    ----------
    tables
        Annotation of each source.
    names
        Name of each source. If two sources share a cell name, all cell names get the name of their source as suffix.
    source_key
        Column for the name of the source. It replaces a column of that name.
    """

    def __init__(self, tables: Sequence[Table], names: Sequence[str], source_key: str) -> None:
        self._tables, self._names, self._source_key = tables, list(names), source_key
        self._types: dict[str, Any] = {}
        self._ends = np.cumsum([table.n_rows for table in tables])
        self.n_rows = int(self._ends[-1])
        self._own_columns = [name for name in dict.fromkeys(n for table in tables for n in table.columns) if name != source_key]
        self.columns = list(dict.fromkeys([*(n for table in tables for n in table.columns), source_key]))
        self._names_are_shared = len(np.unique(self.hash_names())) < self.n_rows

    def read(self, rows: slice) -> pd.DataFrame:
        """Read a run of rows, with the columns, types and categories of the whole table."""
        parts = []
        for i, own in split_by_source(rows, self._ends):
            part = self._conform(self._tables[i].read(own), self._own_columns)
            part.index = self._add_source(i, part.index)
            part[self._source_key] = self._make_source_column(i, len(part))
            parts.append(part)
        return stack_tables(parts)[self.columns]

    def read_names(self, rows: slice) -> pd.Index:
        """Read the names of a run of cells."""
        parts = [self._add_source(i, self._tables[i].read_names(own)) for i, own in split_by_source(rows, self._ends)]
        return make_text(parts[0].append(parts[1:]))

    def hash_names(self) -> NDArray[np.uint64]:
        """Return a hash of each name within its source, (n_rows,). Collisions are practically impossible."""
        return np.concatenate([table.hash_names() for table in self._tables])

    def iter_column(self, name: str) -> Iterator[pd.Series]:
        """Yield a column in chunks, without cell names. Text becomes categories of each chunk, so that it can be missing."""
        for i, table in enumerate(self._tables):
            if name == self._source_key:
                yield pd.Series(self._make_source_column(i, table.n_rows))
            elif name not in table.columns:
                yield self._make_missing_column(name, table.n_rows)
            elif is_text(self._get_type(name)):
                yield from (pd.Series(pd.Categorical(chunk.astype(object))) for chunk in table.iter_column(name))
            else:
                yield from (self._conform(chunk.to_frame(name), [name])[name] for chunk in table.iter_column(name))

    def _make_missing_column(self, name: str, n_rows: int) -> pd.Series:
        """Return the column for a source that does not have it."""
        if is_text(self._get_type(name)):
            return pd.Series(pd.Categorical([None] * n_rows, categories=pd.Index([], dtype=object)))
        return self._conform(pd.DataFrame(index=range(n_rows)), [name])[name]

    def _conform(self, table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
        """Return rows of one source with the given columns, in the types of the joined table."""
        types = {name: self._get_type(name) for name in names}
        categorical = [name for name, dtype in types.items() if name in table and isinstance(dtype, pd.CategoricalDtype)]
        return conform(table.assign(**{name: _convert_categories(table[name], types[name]) for name in categorical}), types)

    def _get_type(self, name: str) -> Any:
        if name not in self._types:
            self._types[name] = self._find_type(name)
        return self._types[name]

    def _find_type(self, name: str) -> Any:
        examples = [_find_example(table, name) if name in table.columns else None for table in self._tables]
        if not all(map(_is_uninformative, examples)):
            examples = [None if _is_uninformative(example) else example for example in examples]
        frames = [pd.DataFrame(index=[0]) if example is None else example.to_frame(name) for example in examples]
        dtype = pd.concat(frames)[name].dtype
        if not is_object_dtype(dtype) or all(example is None or is_text(example.dtype) for example in examples):
            return dtype
        tables = (table for table in self._tables if name in table.columns)
        values = [value for table in tables for chunk in table.iter_column(name) for value in chunk.dropna().astype(object).unique()]
        return use_categories(pd.DataFrame({name: pd.Series(values, dtype=object)}))[name].dtype

    def _make_source_column(self, i: int, n_rows: int) -> pd.Categorical:
        return pd.Categorical.from_codes(np.full(n_rows, i), categories=self._names)

    def _add_source(self, i: int, names: pd.Index) -> pd.Index:
        names = names.rename(None)
        return make_text(names + f"-{self._names[i]}") if self._names_are_shared else names


def split_by_source(rows: slice | NDArray[np.int64], ends: NDArray[np.int64]) -> list[tuple[int, Any]]:
    """Split rows of the joined cells by source.

    Parameters
    ----------
    rows
        Slice, or ascending rows.
    ends
        (n_sources,) row at which each source ends.

    Returns
    -------
    list of (int, slice or array)
        Position of each source that has some of the rows, and its rows, counted within the source. Without rows, one source.
    """
    n_rows, starts = int(ends[-1]), [0, *ends[:-1].tolist()]
    if isinstance(rows, slice):
        first, stop, _ = rows.indices(n_rows)
        runs = [slice(max(first - start, 0), max(min(stop, end) - start, 0)) for start, end in zip(starts, ends.tolist(), strict=True)]
        return [(i, run) for i, run in enumerate(runs) if run.start < run.stop] or [(0, slice(0, 0))]
    cuts = np.searchsorted(rows, [*starts, n_rows])
    return [(i, rows[cuts[i] : cuts[i + 1]] - starts[i]) for i in np.flatnonzero(np.diff(cuts)).tolist()] or [(0, rows)]


def read_column(table: Table, name: str) -> pd.Series:
    """Read a column of all cells, without their names. Text in several chunks becomes categories."""
    chunks = list(table.iter_column(name))
    if len(chunks) == 1:
        return chunks[0]
    if all(chunk.dtype == chunks[0].dtype for chunk in chunks) and not is_text(chunks[0].dtype):
        return pd.concat(chunks, ignore_index=True)
    return pd.Series(union_categoricals([pd.Categorical(chunk) for chunk in chunks], sort_categories=True))


def is_text(dtype: Any) -> bool:
    """Return whether a type is text, not stored as categories."""
    return not isinstance(dtype, pd.CategoricalDtype) and is_string_dtype(dtype)


def _find_example(table: Table, name: str) -> pd.Series:
    """Return a value of a column, with a missing value if the type may depend on it; an empty column if the table is empty.

    pandas ignores columns whose values are all missing when it joins.
    """
    examples: dict[bool, pd.Series] = {}
    for chunk in table.iter_column(name):
        missing = chunk.isna().to_numpy()
        for is_missing in set(np.unique(missing)) - set(examples):
            examples[is_missing] = chunk[missing == is_missing][:1]
        # Categories of numbers become integers only if none is missing.
        enough = {False, True} if isinstance(chunk.dtype, pd.CategoricalDtype) and not is_object_dtype(chunk.cat.categories) else {False}
        if enough <= set(examples):
            break
    return pd.concat(list(examples.values())) if examples else chunk


def _is_uninformative(example: pd.Series | None) -> bool:
    """Return whether a source does not determine the type of a column: the column is absent, or has no value."""
    return example is None or (not isinstance(example.dtype, pd.CategoricalDtype) and bool(example.isna().all()))


def _convert_categories(values: pd.Series, dtype: pd.CategoricalDtype) -> pd.Series:
    """Convert a column to categories, which match by their text."""
    if values.dtype == dtype:
        # Types are equal even if the order of their categories differs.
        return values.cat.set_categories(dtype.categories)
    if isinstance(values.dtype, pd.CategoricalDtype):
        # There may be many more cells than categories.
        position = dtype.categories.get_indexer(values.cat.categories.astype(str))
        codes = np.append(position, -1)[values.cat.codes]
    else:
        text = values.astype(object)
        codes = dtype.categories.get_indexer(text.where(text.isna(), text.astype(str)))
    return pd.Series(pd.Categorical.from_codes(codes, dtype=dtype), index=values.index)
