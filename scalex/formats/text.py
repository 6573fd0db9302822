"""Matrices in text files: .csv, .tsv and .txt, also compressed."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice, takewhile, zip_longest
from pathlib import Path
from typing import NamedTuple, TextIO

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from scalex.formats.packed import DAMAGE, open_text

__all__ = ["EXTENSIONS", "read_text"]

logger = logging.getLogger(__name__)

PACKED = ("", ".gz", ".bz2", ".xz", ".zip")
EXTENSIONS = tuple(text + packed for packed in PACKED for text in (".csv", ".tsv", ".txt"))
# Delimiters by extension. A .txt file may have any.
DELIMITERS = {".csv": ",", ".tsv": "\t"}
# The likeliest first: commas may be decimal commas, and spaces may be parts of names.
DELIMITER_NAMES = {"\t": "tabs", ";": "semicolons", ",": "commas", " ": "spaces"}
NOT_TEXT = "{} is not text in UTF-8 ({}). Is it compressed, a spreadsheet, or in another encoding such as UTF-16? Save it as text in UTF-8."
NUMBER = re.compile(r"\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\s*", re.ASCII)
# Missing values as other programs write them.
MISSING_VALUES = ("", "na", "n/a", "nan", "none", "null", "-", ".")
# The rows that BD Rhapsody writes before the names, and the first of these names. Its tables have a row for each cell.
COMMENT, MAX_COMMENTS, CELLS_OF_BD = "##", 1000, "Cell_Index"
# Names of columns of numbers that are never a cell or a feature, in lower case.
ANNOTATION = frozenset(["ncount_rna", "nfeature_rna", "percent.mt", "total_counts", "n_genes_by_counts", "pct_counts_mt"])
# Values that are in memory at a time, besides the nonzero values read before.
CHUNK_VALUES = 1 << 24
# Barcodes of cells, with or without the name of a sample before or after.
CELL_NAME = re.compile(r"(?:.*[_\-#:.])?[ACGT]{10,}(?:[_\-.].*)?", re.IGNORECASE)
# Ensembl identifiers, regions of chromosomes, mitochondrial genes.
FEATURE_NAME = re.compile(r"ENS[A-Z]*G\d{11}(?:\.\d+)?|chr\w+[:\-_]\d+[\-_]\d+|MT-.+|mt-.+")
# Genes in almost every data set of mammals.
COMMON_GENES = frozenset(["ACTB", "ACTG1", "B2M", "EEF1A1", "FTL", "GAPDH", "MALAT1", "RPL13", "RPLP0", "RPS18", "TMSB4X", "UBC"])
# Names that are tested, and the share of matches above which all count as such names.
N_TESTED, MIN_SHARE = 1000, 0.5


class _Header(NamedTuple):
    delimiter: str
    names: list[str]
    n_comments: int

    def skip(self, file: TextIO) -> None:
        """Read the rows up to the names."""
        for _ in range(self.n_comments + 1):
            file.readline()


def read_text(path: Path, *, transpose: bool = False) -> ad.AnnData:
    """Read a table of numbers with names in its first row and its first column.

    Parameters
    ----------
    path
        The file.
    transpose
        As in `ReadOptions`.

    Returns
    -------
    AnnData
        Cells x features, float32 CSR. Besides its nonzero values, 16 million values are in memory at a time.

    Raises
    ------
    ValueError
        If the file is not such a table; the message names the row and the column.
    """
    with _explain_errors(path):
        header = _read_header(path, transpose=transpose)
        names, parts = [], []
        for chunk in _read_chunks(path, header):
            names.append(chunk.index)
            parts.append(sparse.csr_matrix(chunk.to_numpy(np.float32)))
    if not any(map(len, names)):
        raise ValueError(f"{path} has names in its first row, but no other row. It may be truncated: copy it again, or write it again.")
    rows, columns = pd.Index(np.concatenate(names)).astype(str), pd.Index(header.names)
    matrix = sparse.vstack(parts, format="csr")
    cells, features = (rows, columns) if transpose else (columns, rows)
    _warn_if_transposed(path, cells, features, transpose)
    return ad.AnnData(matrix if transpose else matrix.T.tocsr(), obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=features))


@contextmanager
def _explain_errors(path: Path) -> Iterator[None]:
    """Turn errors of reading into one that names the file and says what to do."""
    try:
        yield
    except pd.errors.ParserError as error:
        raise ValueError(f"{path}: {_describe_error(error)}. All rows need as many values as there are names in the first row.") from error
    except UnicodeDecodeError as error:
        raise ValueError(NOT_TEXT.format(path, f"{error.reason} at byte {error.start}")) from error
    except (*DAMAGE, csv.Error) as error:
        raise ValueError(f"{path} cannot be read ({error}). It may be truncated or damaged: copy it again.") from error


def _describe_error(error: pd.errors.ParserError) -> str:
    match = re.search(r"in line (\d+), saw (\d+)", str(error))
    # pandas does not see the first line.
    return f"line {int(match[1]) + 1:,} has {match[2]} fields, which is too many" if match else str(error).strip()


def _read_header(path: Path, *, transpose: bool) -> _Header:
    """Read the delimiter and the names of the columns. A field above the names of the rows is optional."""
    with open_text(path) as file:
        comments = list(takewhile(lambda line: line.startswith(COMMENT), islice(file, MAX_COMMENTS)))
    with open_text(path) as file:
        lines = [line.rstrip("\r\n") for line in islice(file, len(comments), len(comments) + 2)]
    lines += [""] * (2 - len(lines))
    if not any(lines):
        raise ValueError(f"{path} is empty. It may not have been copied or written completely: copy it again, or write it again.")
    if not lines[0]:
        raise ValueError(f"{path} begins with an empty row. Remove it: the first row must hold the names of the columns.")
    if "\0" in lines[0]:
        raise ValueError(NOT_TEXT.format(path, "zero bytes"))
    delimiter = _find_delimiter(path, lines)
    fields, values = (_split_fields(line, delimiter) for line in lines)
    if values and len(values) not in (len(fields), len(fields) + 1):
        raise ValueError(
            f"{path}: the first row has {len(fields)} field(s) and the second {len(values)}. The first row needs as many as the second, or "
            "one less if there is no name above the names of the rows. Remove rows above the names, such as a title."
        )
    has_corner = len(values) != len(fields) + 1
    names = fields[has_corner:]
    if has_corner and fields and fields[0] == CELLS_OF_BD and not transpose:
        raise ValueError(f"{path} has a row for each cell, as its first name, {CELLS_OF_BD}, says: set transpose=true.")
    if len(names) > 1 and values and names[-1] == values[-1] == "":
        # Each row ends with a delimiter.
        names.pop()
    annotation = [name for name in names if name.lower() in ANNOTATION]
    if annotation:
        raise ValueError(f"{path}: {', '.join(annotation)} is annotation of cells or features, not expression: remove such columns.")
    return _Header(delimiter, names, len(comments))


def _find_delimiter(path: Path, lines: Sequence[str]) -> str:
    """Return the delimiter of the first two rows, and check that it is that of the extension."""
    extension = (path.with_suffix("") if path.suffix.lower() in PACKED[1:] else path).suffix.lower()
    expected = DELIMITERS.get(extension)

    def fits(delimiter: str) -> tuple[bool, bool, bool, int]:
        names, values = (_split_fields(line, delimiter) for line in lines)
        n, is_table = max(len(names), len(values)), len(values) > 1 and len(values) - len(names) in (0, 1)
        return is_table, is_table and all(map(_is_number, values[1:])), n > 1 and delimiter == expected, n

    # Names may contain other delimiters. Only the right delimiter leaves numbers between.
    best = max(DELIMITER_NAMES, key=fits)
    if fits(best)[-1] < 2:
        raise ValueError(
            f"{path} has one column: its first row has no delimiter ({lines[0][:60]!r}). Separate the values by "
            f"{DELIMITER_NAMES[expected] if expected else ', '.join(DELIMITER_NAMES.values())}."
        )
    if expected not in (None, best):
        correct = {"\t": ".tsv", ",": ".csv"}.get(best, ".txt")
        raise ValueError(
            f"{path}: its values are separated by {DELIMITER_NAMES[best]}, but {extension} means {DELIMITER_NAMES[expected]}. Rename it to "
            f"{correct}."
        )
    return best


def _split_fields(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        # A field is too long, so this is not the delimiter.
        return [line]


def _is_number(text: str) -> bool:
    """Return whether text is meant as a number, also with a decimal comma, which is refused later."""
    try:
        float(re.sub(r",(?=\d)", ".", text))
    except ValueError:
        return False
    return True


def _read_chunks(path: Path, header: _Header) -> Iterator[pd.DataFrame]:
    """Yield tables of rows of numbers."""
    n_columns = len(header.names)
    # One more column than expected: pandas drops additional values in the first row of a chunk.
    extra = n_columns + 1
    types = {0: str, extra: str} | dict.fromkeys(range(1, extra), np.float32)
    with open_text(path) as file:
        # pandas would take a quote in a name for the start of a field that continues in the next row.
        header.skip(file)
        chunks = pd.read_csv(
            file, sep=header.delimiter, header=None, names=range(extra + 1), index_col=0, dtype=types, keep_default_na=False,
            chunksize=max(CHUNK_VALUES // max(n_columns, 1), 1),
        )  # fmt: skip
        n_read = 0
        while True:
            try:
                chunk = next(chunks)
            except StopIteration:
                return
            except pd.errors.ParserError:
                raise
            except ValueError as error:
                _raise_for_text(path, header, n_read)
                raise ValueError(f"{path}: a value is not a number ({error}). Write a number.") from error
            longer = chunk.index[chunk.pop(extra).fillna("") != ""]
            if len(longer):
                raise ValueError(
                    f"{path}: row {longer[0]!r} has more values than there are names in the first row ({n_columns:,}). Make them equal."
                )
            yield chunk
            n_read += len(chunk)


def _raise_for_text(path: Path, header: _Header, n_read: int) -> None:
    """Raise an error that names the first value that is not a number, after `n_read` rows."""
    with open_text(path) as file:
        header.skip(file)
        rows = (row for row in csv.reader(file, delimiter=header.delimiter) if len(row) > 1 or "".join(row).strip())
        for name, *values in islice(rows, n_read, None):
            if len(values) == len(header.names) + 1 and not values[-1]:
                # The delimiter at the end of a row.
                values.pop()
            for i, (column, value) in enumerate(zip_longest(header.names, values, fillvalue="")):
                if NUMBER.fullmatch(value) is None or not np.isfinite(float(value)):
                    text = repr(value) if value else "empty"
                    raise ValueError(
                        f"{path}: the value in row {name!r}, column {column!r} is {text}, which is not a number. "
                        f"{_advise(value, is_last=not any(values[i:]))}"
                    )


def _advise(value: str, *, is_last: bool) -> str:
    """Return what to do about a value that is not a number. `is_last`: no value follows in its row."""
    if re.fullmatch(r"[-+]?\d+,\d+(?:[eE][-+]?\d+)?", value):
        return "Write numbers with a decimal point and without thousands separators."
    if not value and is_last:
        return "The row ends there: it has too few values, or the file is truncated. Copy it again, or write it again."
    if value.strip().lower() in MISSING_VALUES:
        return "Missing values are not allowed: write 0 if nothing was counted, or remove the feature or the cell."
    return "Annotation of cells or features does not belong in the matrix: remove such rows and columns."


def _warn_if_transposed(path: Path, cells: pd.Index, features: pd.Index, transpose: bool) -> None:
    """Warn if the cells have names of features, or the features names of cells."""
    is_transposed = _compute_share(features, CELL_NAME) > MIN_SHARE or _are_features(cells)
    is_correct = _compute_share(cells, CELL_NAME) > MIN_SHARE or _are_features(features)
    orientation = f"a {'row' if transpose else 'column'} for each cell (transpose={str(transpose).lower()})"
    logger.info("%s: read with %s: %s cells x %s features", path, orientation, f"{len(cells):,}", f"{len(features):,}")
    if is_transposed and not is_correct:
        logger.warning(
            "%s looks transposed: its cells are named %s, ... and its features %s, .... It was read with %s. "
            "If that is wrong, use transpose=%s.",
            path, ", ".join(map(str, cells[:3])), ", ".join(map(str, features[:3])), orientation, str(not transpose).lower(),
        )  # fmt: skip


def _are_features(names: pd.Index) -> bool:
    return _compute_share(names, FEATURE_NAME) > MIN_SHARE or len(COMMON_GENES & {name.upper() for name in names}) >= 3


def _compute_share(names: pd.Index, pattern: re.Pattern[str]) -> float:
    """Return the share of the first names that match a pattern."""
    tested: Sequence[str] = names[:N_TESTED].tolist()
    return sum(pattern.fullmatch(name) is not None for name in tested) / max(len(tested), 1)
