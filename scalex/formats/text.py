"""Matrices as text: .csv, .tsv and .txt, and their .gz."""

from __future__ import annotations

import csv
import gzip
import logging
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice, zip_longest
from pathlib import Path
from typing import NamedTuple, TextIO

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

__all__ = ["ENDINGS", "read_text"]

logger = logging.getLogger(__name__)

ENDINGS = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
# What separates values, by the ending; of .txt whichever there is.
DELIMITERS = {".csv": ",", ".tsv": "\t"}
# The likelier first: commas may be those of decimals, and spaces those of names.
SPOKEN = {"\t": "tabs", ";": "semicolons", ",": "commas", " ": "spaces"}
NO_TEXT = "{} is not text in UTF-8 ({}). Is it compressed, a spreadsheet, or in another encoding such as UTF-16? Save it as text in UTF-8."
NUMBER = re.compile(r"\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\s*", re.ASCII)
# How other programs write that there is no value.
MISSING = ("", "na", "n/a", "nan", "none", "null", "-", ".")
# Values that are in memory at a time, besides those above 0 that were read before.
VALUES_AT_A_TIME = 1 << 24
# Names as sequencing leaves them, with or without a sample's name before or after.
CELL_NAME = re.compile(r"(?:.*[_\-#:.])?[ACGT]{10,}(?:[_\-.].*)?", re.IGNORECASE)
# Ensembl identifiers, regions of a chromosome, mitochondrial genes.
FEATURE_NAME = re.compile(r"ENS[A-Z]*G\d{11}(?:\.\d+)?|chr\w+[:\-_]\d+[\-_]\d+|MT-.+|mt-.+")
# Genes of almost every data set of mammals.
COMMON_GENES = frozenset(["ACTB", "ACTG1", "B2M", "EEF1A1", "FTL", "GAPDH", "MALAT1", "RPL13", "RPLP0", "RPS18", "TMSB4X", "UBC"])


class _Header(NamedTuple):
    delimiter: str
    names: list[str]


def read_text(path: Path, *, transpose: bool = False) -> ad.AnnData:
    """Read a table of numbers with names in its first row and its first column.

    Parameters
    ----------
    path
        The file.
    transpose
        False: a row for each feature and a column for each cell. True: the other way.

    Returns
    -------
    AnnData
        Cells x features, float32 CSR. In memory at a time are 16 million values, besides those that are not 0.

    Raises
    ------
    ValueError
        If it is no such table; the message names the row and the column.
    """
    with _name_file(path):
        header = _header(path)
        names, parts = [], []
        for piece in _pieces(path, header):
            names.append(piece.index)
            parts.append(sparse.csr_matrix(piece.to_numpy(np.float32)))
    if not any(map(len, names)):
        raise ValueError(f"{path} has names in its first row, but no other row. It may be cut off: copy it again, or write it again.")
    rows, columns = pd.Index(np.concatenate(names)).astype(str), pd.Index(header.names)
    matrix = sparse.vstack(parts, format="csr")
    cells, features = (rows, columns) if transpose else (columns, rows)
    _say_if_turned(path, cells, features, transpose)
    return ad.AnnData(matrix if transpose else matrix.T.tocsr(), obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=features))


@contextmanager
def _name_file(path: Path) -> Iterator[None]:
    """Say in plain words what is wrong with a file."""
    try:
        yield
    except pd.errors.ParserError as error:
        raise ValueError(f"{path}: {_spoken(error)}. All rows need as many values as there are names in the first row.") from error
    except UnicodeDecodeError as error:
        raise ValueError(NO_TEXT.format(path, f"{error.reason} at byte {error.start}")) from error
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise ValueError(f"{path} cannot be read ({error}). It may be cut off or damaged: copy it again.") from error


def _spoken(error: pd.errors.ParserError) -> str:
    found = re.search(r"in line (\d+), saw (\d+)", str(error))
    # pandas does not know of the first line.
    return f"line {int(found[1]) + 1:,} has {found[2]} fields, which is too many" if found else str(error).strip()


def _open_text(path: Path) -> TextIO:
    return gzip.open(path, "rt", encoding="utf-8-sig") if path.suffix.lower() == ".gz" else path.open(encoding="utf-8-sig")


def _header(path: Path) -> _Header:
    """What separates the values, and the names of the columns; the first row may or may not have a field above the names of the rows."""
    with _open_text(path) as file:
        lines = [file.readline().rstrip("\r\n") for _ in range(2)]
    if not any(lines):
        raise ValueError(f"{path} is empty. It may not have been copied or written to its end: do so again.")
    if not lines[0]:
        raise ValueError(f"{path} begins with an empty row: take it out, so that the names of the columns come first.")
    if "\0" in lines[0]:
        raise ValueError(NO_TEXT.format(path, "zero bytes"))
    delimiter = _delimiter(path, lines)
    fields, values = (_fields(line, delimiter) for line in lines)
    if values and len(values) not in (len(fields), len(fields) + 1):
        raise ValueError(
            f"{path}: the first row has {len(fields)} field(s) and the second {len(values)}. There must be as many, or one less in the "
            "first, which has no need of a name above those of the rows. Rows above the names, such as a title, have to be taken out."
        )
    return _Header(delimiter, fields if len(values) == len(fields) + 1 else fields[1:])


def _delimiter(path: Path, lines: Sequence[str]) -> str:
    """What separates the fields of the first two rows, which has to be what the ending says."""
    ending = (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()
    wanted = DELIMITERS.get(ending)

    def fits(delimiter: str) -> tuple[bool, bool, bool, int]:
        names, values = (_fields(line, delimiter) for line in lines)
        n, is_table = max(len(names), len(values)), len(values) > 1 and len(values) - len(names) in (0, 1)
        return is_table, is_table and all(map(_is_number, values[1:])), n > 1 and delimiter == wanted, n

    # Names may hold what separates values in other files: that there are numbers between tells it from them.
    best = max(SPOKEN, key=fits)
    if fits(best)[-1] < 2:
        raise ValueError(
            f"{path} has one column: nothing in its first rows separates values ({lines[0][:60]!r}). They have to be separated by "
            f"{SPOKEN[wanted] if wanted else ', '.join(SPOKEN.values())}."
        )
    if wanted not in (None, best):
        better = {"\t": ".tsv", ",": ".csv"}.get(best, ".txt")
        raise ValueError(
            f"{path}: its values are separated by {SPOKEN[best]}, and not by {SPOKEN[wanted]} as {ending} says. Rename it to {better}."
        )
    return best


def _fields(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        # Too long for a field: it is not this that separates them.
        return [line]


def _is_number(text: str) -> bool:
    """Whether it is meant as a number, if with a decimal comma, of which is told later."""
    try:
        float(re.sub(r",(?=\d)", ".", text))
    except ValueError:
        return False
    return True


def _pieces(path: Path, header: _Header) -> Iterator[pd.DataFrame]:
    """Rows of numbers, some at a time."""
    n_columns = len(header.names)
    at_a_time = max(VALUES_AT_A_TIME // max(n_columns, 1), 1)
    # One column more than there are: pandas leaves out what is beyond the last one in the first row of what it reads at a time.
    beyond = n_columns + 1
    types = {0: str, beyond: str} | dict.fromkeys(range(1, beyond), np.float32)
    with _open_text(path) as file:
        # Not skipped by pandas, which takes the quotes of names for those of a field that goes on in the next row.
        file.readline()
        pieces = pd.read_csv(
            file, sep=header.delimiter, header=None, names=range(beyond + 1), index_col=0, dtype=types, keep_default_na=False,
            chunksize=at_a_time,
        )  # fmt: skip
        n_read = 0
        while True:
            try:
                piece = next(pieces)
            except StopIteration:
                return
            except pd.errors.ParserError:
                raise
            except ValueError as error:
                _raise_for_text(path, header, n_read)
                raise ValueError(f"{path}: a value is no number ({error}). Write it as one.") from error
            longer = piece.index[piece.pop(beyond).fillna("") != ""]
            if len(longer):
                raise ValueError(f"{path}: the row {longer[0]!r} has more values than there are names in the first row, {n_columns:,}.")
            yield piece
            n_read += len(piece)


def _raise_for_text(path: Path, header: _Header, n_read: int) -> None:
    """Name the first value that is no number, in the rows after those that were read."""
    with _open_text(path) as file:
        file.readline()
        rows = (row for row in csv.reader(file, delimiter=header.delimiter) if len(row) > 1 or "".join(row).strip())
        for name, *values in islice(rows, n_read, None):
            for i, (column, value) in enumerate(zip_longest(header.names, values, fillvalue="")):
                if NUMBER.fullmatch(value) is None or not np.isfinite(float(value)):
                    said = repr(value) if value else "empty"
                    raise ValueError(
                        f"{path}: the value in row {name!r}, column {column!r} is {said}, which is no number. "
                        f"{_advice(value, is_last=not any(values[i:]))}"
                    )


def _advice(value: str, *, is_last: bool) -> str:
    """What to do about a value that is no number, after which there may be none in its row."""
    if re.fullmatch(r"[-+]?\d+,\d+(?:[eE][-+]?\d+)?", value):
        return "Numbers need a point, not a comma, and nothing between thousands."
    if not value and is_last:
        return "The row ends there: it has too few values, or the file is cut off. Copy it again, or write it again."
    if value.strip().lower() in MISSING:
        return "Missing values are not allowed: write 0 where nothing was counted, or leave the feature or the cell out."
    return "Text about cells or features does not belong into the matrix: take such rows and columns out."


def _say_if_turned(path: Path, cells: pd.Index, features: pd.Index, transpose: bool) -> None:
    """Warn where what is read as cells is called like features, or the other way."""
    turned = _share(features, CELL_NAME) > 0.5 or _are_features(cells)
    right = _share(cells, CELL_NAME) > 0.5 or _are_features(features)
    said = f"a {'row' if transpose else 'column'} for each cell (transpose={str(transpose).lower()})"
    logger.info("%s: read with %s: %s cells x %s features", path, said, f"{len(cells):,}", f"{len(features):,}")
    if turned and not right:
        logger.warning(
            "%s looks turned: its cells are called %s and its features %s. It was read with %s; if that is wrong, use transpose=%s.",
            path, _some(cells), _some(features), said, str(not transpose).lower(),
        )  # fmt: skip


def _are_features(names: pd.Index) -> bool:
    return _share(names, FEATURE_NAME) > 0.5 or len(COMMON_GENES & {name.upper() for name in names}) >= 3


def _share(names: pd.Index, pattern: re.Pattern[str]) -> float:
    looked: Sequence[str] = names[:1000].tolist()
    return sum(pattern.fullmatch(name) is not None for name in looked) / max(len(looked), 1)


def _some(names: pd.Index) -> str:
    return ", ".join(names[:3])
