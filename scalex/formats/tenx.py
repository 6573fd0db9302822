"""Folders of .mtx files, as Cell Ranger writes them."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse
from scipy.io import mmread

from scalex.formats.types import select_feature_type

__all__ = ["is_tenx_folder", "read_tenx_folder"]

Part = Literal["matrix", "barcodes", "features"]

# Names of files of Cell Ranger 2 (genes.tsv), of later versions (features.tsv.gz) and of its ATAC (peaks.bed), also with a prefix.
PATTERNS: dict[Part, str] = {
    "matrix": r"(?:.*[._-])?matrix\.mtx(?:\.gz)?",
    "barcodes": r"(?:.*[._-])?barcodes\.tsv(?:\.gz)?",
    "features": r"(?:.*[._-])?(?:(?:genes|features)\.tsv|peaks\.bed)(?:\.gz)?",
}
FILE_NAMES = {"matrix": "matrix.mtx", "barcodes": "barcodes.tsv", "features": "features.tsv, genes.tsv or peaks.bed"}


class _Parts(NamedTuple):
    matrix: Path
    barcodes: Path
    features: Path


def is_tenx_folder(folder: Path) -> bool:
    """Return whether a folder holds a .mtx matrix."""
    return any(_is_part("matrix", file) for file in folder.iterdir())


def _is_part(part: Part, path: Path) -> bool:
    return re.fullmatch(PATTERNS[part], path.name, re.IGNORECASE) is not None


def read_tenx_folder(path: Path, feature_type: str | None = None) -> ad.AnnData:
    """Read a matrix with its barcodes and features.

    Parameters
    ----------
    path
        A folder, or a matrix in a folder that holds several.
    feature_type
        As in `ReadOptions`.

    Returns
    -------
    AnnData
        Counts, float32 CSR. The names of features are their symbols or, without one, their identifiers. var["gene_ids"] and
        var["feature_types"] come from the file.

    Raises
    ------
    ValueError
        If a part is absent, repeated or damaged, or if the parts do not fit together.
    """
    parts = _find_in_folder(path) if path.is_dir() else _find_beside(path)
    barcodes, features = _read_table(parts.barcodes), _read_table(parts.features, 3 if _is_bed(parts.features) else 1)
    matrix = _read_matrix(parts.matrix)
    if matrix.shape != (len(features), len(barcodes)):
        is_swapped = matrix.shape == (len(barcodes), len(features))
        raise ValueError(
            f"{parts.matrix} has {matrix.shape[0]:,} rows and {matrix.shape[1]:,} columns, but there are {len(features):,} features in "
            f"{parts.features.name} and {len(barcodes):,} barcodes in {parts.barcodes.name}; rows are features and columns are barcodes. "
            + ("Features and barcodes are swapped: transpose the matrix, or exchange the two files." if is_swapped else
               "The files do not belong together, one of them is truncated, or a table has a header: use matching files without header.")
        )  # fmt: skip
    adata = ad.AnnData(matrix.T.tocsr().astype(np.float32), obs=pd.DataFrame(index=pd.Index(barcodes[0])), var=_make_var(features, parts))
    return select_feature_type(adata, feature_type, path)


def _find_in_folder(folder: Path) -> _Parts:
    parts: dict[Part, Path] = {}
    for part in PATTERNS:
        files = sorted(file for file in folder.iterdir() if _is_part(part, file))
        if len(files) > 1:
            matrices = [file.name for file in folder.iterdir() if _is_part("matrix", file)]
            raise ValueError(
                f"{folder} holds several {part} files, of several samples or of one: {', '.join(file.name for file in files)}. "
                + (f"Name the matrix to read, as in {folder / min(matrices)}, or a list of them." if len(matrices) > 1
                   else "Keep one of them.")
            )  # fmt: skip
        parts[part] = _get_single(files, part, folder)
    return _Parts(**parts)


def _find_beside(matrix: Path) -> _Parts:
    """Return the matrix with the tables of the same prefix, or with the only tables in the folder."""
    match = re.fullmatch(r"(.*?)(?:matrix)?\.mtx(?:\.gz)?", matrix.name, re.IGNORECASE)
    assert match is not None
    pattern = rf"{re.escape(match[1])}[._-]?(?:barcodes|genes|features|peaks)\..*"
    parts: dict[Part, Path] = {"matrix": matrix}
    for part in ("barcodes", "features"):
        candidates = [file for file in sorted(matrix.parent.iterdir()) if _is_part(part, file)]
        own = [file for file in candidates if re.fullmatch(pattern, file.name, re.IGNORECASE)]
        parts[part] = _get_single(own or candidates[:1] * (len(candidates) == 1), part, matrix.parent)
    return _Parts(**parts)


def _get_single(files: Sequence[Path], part: Part, folder: Path) -> Path:
    if not files:
        names = ", ".join(sorted(file.name for file in folder.iterdir())[:8])
        raise ValueError(
            f"{folder} has no {FILE_NAMES[part]} (or .gz of it) for its matrix. It holds: {names}. Add the file of the matrix."
        )
    if len(files) > 1:
        raise ValueError(f"{folder} holds the {part} twice: {', '.join(file.name for file in files)}. Keep one of them.")
    return files[0]


def _read_table(path: Path, n_columns: int = 1) -> pd.DataFrame:
    """Read a table of text without header, and check that no value of the first columns is missing."""
    # Only .bed files have comments. Names of cells may contain their sign, as in sample#ACGT.
    comment = "#" if _is_bed(path) else None
    try:
        table = pd.read_csv(path, sep="\t", header=None, dtype=str, comment=comment, keep_default_na=False)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}). Save it as text in UTF-8.") from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(f"{path} is not a readable table ({error}). It may be truncated or damaged: copy it again.") from error
    if table.shape[1] < n_columns:
        raise ValueError(
            f"{path} has {table.shape[1]} column(s): a .bed file needs chromosome, start and end, separated by tabs. Write it again."
        )
    missing = (table.iloc[:, :n_columns].fillna("") == "").any(axis=1)
    if missing.any():
        raise ValueError(f"{path}: a value is missing in row {int(np.argmax(missing)) + 1:,}. The file may be truncated: copy it again.")
    return table


def _is_bed(path: Path) -> bool:
    return path.name.lower().endswith((".bed", ".bed.gz"))


def _read_matrix(path: Path) -> sparse.coo_matrix:
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            matrix = mmread(file)
    except (OSError, EOFError, ValueError, TypeError, OverflowError, zlib.error) as error:
        raise ValueError(
            f"{path} is not a readable Matrix Market file ({error}). It may be truncated or damaged: copy it again."
        ) from error
    return sparse.coo_matrix(matrix)


def _make_var(table: pd.DataFrame, parts: _Parts) -> pd.DataFrame:
    n_columns = table.shape[1]
    if _is_bed(parts.features):
        return pd.DataFrame(index=pd.Index(table[0] + ":" + table[1] + "-" + table[2]))
    symbols = table[min(n_columns - 1, 1)]
    var = pd.DataFrame(index=pd.Index(symbols.where(symbols.fillna("") != "", table[0])))
    if n_columns > 1:
        var["gene_ids"] = table[0].to_numpy()
    if n_columns > 2:
        var["feature_types"] = pd.Categorical(table[2])
    return var
