"""Matrices in .mtx files, the Matrix Market format.

scipy's reader ends the process when it meets some damaged files, and asks for the memory of all values that a header declares.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scalex.formats.advice import AdvisedError
from scalex.formats.packed import DAMAGE, open_text

__all__ = ["read_matrix_market", "read_shape"]

# Rows that are in memory at a time, besides the values read before.
CHUNK_ROWS = 1 << 22
FIELDS = ("integer", "unsigned-integer", "real", "double", "pattern")
# scipy writes counts as symmetric if they happen to be, as those of one cell and one feature are.
SYMMETRIES = {"coordinate": ("general", "symmetric"), "array": ("general",)}
# Header lines that are read in search of the sizes, and characters of each.
MAX_HEADER_LINES, MAX_LINE = 10_000, 100_000


class _Header(NamedTuple):
    is_dense: bool
    is_symmetric: bool
    has_values: bool
    shape: tuple[int, int]
    n_entries: int


def read_shape(path: Path) -> tuple[int, int]:
    """Return the number of rows and columns that the header declares. Raises the errors of `read_matrix_market`."""
    with _explain_errors(path), open_text(path, "latin-1") as file:
        return _read_header(file).shape


def read_matrix_market(path: Path) -> sparse.coo_matrix:
    """Read a matrix, as float32. Memory is taken for the values in the file, not for those that its header declares.

    Raises
    ------
    ValueError
        If the file is damaged, or holds another kind of matrix.
    """
    with _explain_errors(path), open_text(path, "latin-1") as file:
        header = _read_header(file)
        parts, n_read = [], 0
        for table in _read_tables(file, header):
            parts.append(_convert(table, header, n_read))
            n_read += len(table)
            if n_read > header.n_entries:
                raise ValueError(f"it has more than the {header.n_entries:,} values that its header declares")
        if n_read < header.n_entries:
            raise ValueError(f"it ends after {n_read:,} of the {header.n_entries:,} values that its header declares")
    if not parts:
        return sparse.coo_matrix(header.shape, dtype=np.float32)
    value, row, column = (np.concatenate(part) for part in zip(*parts, strict=True))
    matrix = sparse.coo_matrix((value, (row, column)), shape=header.shape)
    # One of two equal values is in the file.
    return matrix + sparse.tril(matrix, -1).T + sparse.triu(matrix, 1).T if header.is_symmetric else matrix


def _convert(table: pd.DataFrame, header: _Header, n_before: int) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int32]]:
    """Return the values of a table with their rows and columns, counted from 0."""
    value = table.iloc[:, -1].to_numpy(np.float32) if header.has_values else np.ones(len(table), np.float32)
    if not header.is_dense:
        row, column = (_check_range(table[i].to_numpy(), header.shape[i], ("row", "column")[i]) for i in range(2))
        return value, row.astype(np.int32), column.astype(np.int32)
    # All values are listed, column by column.
    position = np.arange(n_before, n_before + len(table))[value != 0]
    row, column = position % max(header.shape[0], 1), position // max(header.shape[0], 1)
    return value[value != 0], row.astype(np.int32), column.astype(np.int32)


@contextmanager
def _explain_errors(path: Path) -> Iterator[None]:
    """Turn errors of reading into one that names the file."""
    try:
        yield
    except AdvisedError:
        raise
    except (*DAMAGE, ValueError) as error:
        raise ValueError(
            f"{path} is not a readable Matrix Market file ({error}). It may be truncated or damaged: copy it again."
        ) from error


def _read_header(file: TextIO) -> _Header:
    banner = file.readline(MAX_LINE).split()
    if len(banner) != 5 or banner[0] != "%%MatrixMarket":
        raise ValueError("its first line is not a header such as '%%MatrixMarket matrix coordinate integer general'")
    kind, layout, field, symmetry = (word.lower() for word in banner[1:])
    if kind != "matrix" or layout not in SYMMETRIES or field not in FIELDS or symmetry not in SYMMETRIES[layout]:
        raise ValueError(f"it holds {' '.join(banner[1:])}: known are a matrix, coordinate or array, of integer, real or pattern, general")
    for _ in range(MAX_HEADER_LINES):
        line = file.readline(MAX_LINE)
        if not line:
            break
        if line.strip() and not line.startswith("%"):
            sizes = [int(size) for size in line.split()]
            is_dense = layout == "array"
            if len(sizes) != (2 if is_dense else 3) or min(sizes) < 0 or max(sizes[:2]) > np.iinfo(np.int32).max:
                raise ValueError(f"its sizes are {line.strip()[:60]!r}, not the numbers of rows, columns and values")
            return _Header(
                is_dense, symmetry == "symmetric", field != "pattern", (sizes[0], sizes[1]), sizes[0] * sizes[1] if is_dense else sizes[2]
            )
    raise ValueError("it has no line of sizes")


def _read_tables(file: TextIO, header: _Header) -> Iterator[pd.DataFrame]:
    """Yield tables of rows, columns and values."""
    n_columns = (0 if header.is_dense else 2) + header.has_values
    types: dict[int, type] = dict.fromkeys(range(n_columns), np.int64)
    if header.has_values:
        types[n_columns - 1] = np.float64
    # One more column than expected: pandas drops additional values in the first row of a chunk.
    types[n_columns] = str
    try:
        chunks = pd.read_csv(
            file, sep=r"\s+", header=None, names=range(n_columns + 1), dtype=types, keep_default_na=False, comment="%", index_col=False,
            chunksize=CHUNK_ROWS,
        )  # fmt: skip
    except pd.errors.EmptyDataError:
        return
    for table in chunks:
        if (table.pop(n_columns).fillna("") != "").any():
            raise ValueError(f"a line has more than {n_columns} values")
        yield table


def _check_range(position: NDArray[np.int64], size: int, name: str) -> NDArray[np.int64]:
    if len(position) and (position.min() < 1 or position.max() > size):
        raise ValueError(f"it has values in {name}s {position.min()} to {position.max()}, but {size} {name}s, counted from 1")
    return position - 1
