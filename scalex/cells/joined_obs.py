"""The annotation of cells of several sources, with the same columns and types in each run of rows.

A column's type is found once: from an example of each source, and, where the sources hold it in types that do not fit together, from all
values that there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_object_dtype, is_string_dtype, union_categoricals

from scalex.cells.protocol import Table
from scalex.features.joining import make_writable
from scalex.h5ad.common_columns import conform

__all__ = ["JoinedTable", "find_rows", "read_column"]


class JoinedTable:
    """The tables of several sources, one after the other, and a column with the name of each cell's source. See `Table`.

    Text that a source lacks is "": it could be missing only as categories, of which there may be as many as cells.

    Parameters
    ----------
    tables
        Annotation of each source.
    names
        Of the sources, one each; added to the names of all cells if any name occurs in two sources.
    source_key
        The column with the name of the source; it takes the place of one that the sources have.
    """

    def __init__(self, tables: Sequence[Table], names: Sequence[str], source_key: str) -> None:
        self._tables, self._names, self._source_key = tables, list(names), source_key
        self._types: dict[str, Any] = {}
        self._ends = np.cumsum([table.n_rows for table in tables])
        self.n_rows = int(self._ends[-1])
        self._own_columns = [name for name in dict.fromkeys(n for table in tables for n in table.columns) if name != source_key]
        self.columns = list(dict.fromkeys([*(n for table in tables for n in table.columns), source_key]))
        self._names_are_shared = len(np.unique(self.name_hashes())) < self.n_rows

    def rows(self, rows: slice) -> pd.DataFrame:
        """A run of rows, with the columns, types and categories of all."""
        parts = []
        for i, own in find_rows(rows, self._ends):
            part = self._conform(self._tables[i].rows(own), self._own_columns)
            part.index = self._with_source(i, part.index)
            part[self._source_key] = self._source(i, len(part))
            parts.append(part)
        return (parts[0] if len(parts) == 1 else pd.concat(parts))[self.columns]

    def names(self, rows: slice) -> pd.Index:
        """Names of a run of cells."""
        parts = [self._with_source(i, self._tables[i].names(own)) for i, own in find_rows(rows, self._ends)]
        return parts[0].append(parts[1:])

    def name_hashes(self) -> NDArray[np.uint64]:
        """(n_rows,) a number for each name that a source gives, which no other name has, as good as certainly."""
        return np.concatenate([table.name_hashes() for table in self._tables])

    def column(self, name: str) -> Iterator[pd.Series]:
        """A column piece by piece, without names; text, of which sources may lack some, as categories of each piece."""
        for i, table in enumerate(self._tables):
            if name == self._source_key:
                yield pd.Series(self._source(i, table.n_rows))
            elif name not in table.columns:
                yield self._absent(name, table.n_rows)
            elif is_text(self._type(name)):
                yield from (pd.Series(pd.Categorical(piece.astype(object))) for piece in table.column(name))
            else:
                yield from (self._conform(piece.to_frame(name), [name])[name] for piece in table.column(name))

    def _absent(self, name: str, n_rows: int) -> pd.Series:
        """A column of a source that lacks it."""
        if is_text(self._type(name)):
            return pd.Series(pd.Categorical([None] * n_rows, categories=pd.Index([], dtype=object)))
        return self._conform(pd.DataFrame(index=range(n_rows)), [name])[name]

    def _conform(self, table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
        """Rows of one source with these columns of the joined cells."""
        types = {name: self._type(name) for name in names}
        there = [name for name, dtype in types.items() if name in table and isinstance(dtype, pd.CategoricalDtype)]
        return conform(table.assign(**{name: _of_categories(table[name], types[name]) for name in there}), types)

    def _type(self, name: str) -> Any:
        if name not in self._types:
            self._types[name] = self._find_type(name)
        return self._types[name]

    def _find_type(self, name: str) -> Any:
        examples = [_example(table, name) if name in table.columns else None for table in self._tables]
        if not all(map(_says_nothing, examples)):
            examples = [None if _says_nothing(example) else example for example in examples]
        frames = [pd.DataFrame(index=[0]) if example is None else example.to_frame(name) for example in examples]
        dtype = pd.concat(frames)[name].dtype
        if not is_object_dtype(dtype) or all(example is None or is_text(example.dtype) for example in examples):
            return dtype
        there = (table for table in self._tables if name in table.columns)
        values = [value for table in there for piece in table.column(name) for value in piece.dropna().astype(object).unique()]
        return make_writable(pd.DataFrame({name: pd.Series(values, dtype=object)}))[name].dtype

    def _source(self, i: int, n_rows: int) -> pd.Categorical:
        return pd.Categorical.from_codes(np.full(n_rows, i), categories=self._names)

    def _with_source(self, i: int, names: pd.Index) -> pd.Index:
        return names.rename(None) + (f"-{self._names[i]}" if self._names_are_shared else "")


def find_rows(rows: slice | NDArray[np.int64], ends: NDArray[np.int64]) -> list[tuple[int, Any]]:
    """The sources that some rows are of, at least one, and the rows counted within each.

    Parameters
    ----------
    rows
        Rows of the joined cells; an array ascends.
    ends
        (n_sources,) where each source ends among them.
    """
    n_rows, starts = int(ends[-1]), [0, *ends[:-1].tolist()]
    if isinstance(rows, slice):
        first, stop, _ = rows.indices(n_rows)
        runs = [slice(max(first - start, 0), max(min(stop, end) - start, 0)) for start, end in zip(starts, ends.tolist(), strict=True)]
        return [(i, run) for i, run in enumerate(runs) if run.start < run.stop] or [(0, slice(0, 0))]
    at = np.searchsorted(rows, [*starts, n_rows])
    return [(i, rows[at[i] : at[i + 1]] - starts[i]) for i in np.flatnonzero(np.diff(at)).tolist()] or [(0, rows)]


def read_column(table: Table, name: str) -> pd.Series:
    """A column of all cells, without their names; text of several pieces as categories."""
    pieces = list(table.column(name))
    if len(pieces) == 1:
        return pieces[0]
    if all(piece.dtype == pieces[0].dtype for piece in pieces) and not is_text(pieces[0].dtype):
        return pd.concat(pieces, ignore_index=True)
    return pd.Series(union_categoricals([pd.Categorical(piece) for piece in pieces], sort_categories=True))


def is_text(dtype: Any) -> bool:
    """Whether it is the type of text that is not stored as categories."""
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


def _says_nothing(example: pd.Series | None) -> bool:
    """Whether the type of a column has to be found without this source, which lacks it or has no value in it."""
    return example is None or (not isinstance(example.dtype, pd.CategoricalDtype) and bool(example.isna().all()))


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
