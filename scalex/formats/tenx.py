"""The folders of .mtx files that Cell Ranger writes, and those that follow it."""

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

from scalex.formats.types import of_one_type

__all__ = ["is_tenx_folder", "read_tenx_folder"]

Part = Literal["matrix", "barcodes", "features"]

# Of Cell Ranger 2 (genes.tsv) and later (features.tsv.gz), of its ATAC (peaks.bed), and the same after a sample's name.
NAMES: dict[Part, str] = {
    "matrix": r"(?:.*[._-])?matrix\.mtx(?:\.gz)?",
    "barcodes": r"(?:.*[._-])?barcodes\.tsv(?:\.gz)?",
    "features": r"(?:.*[._-])?(?:(?:genes|features)\.tsv|peaks\.bed)(?:\.gz)?",
}
WHAT = {"matrix": "matrix.mtx", "barcodes": "barcodes.tsv", "features": "features.tsv, genes.tsv or peaks.bed"}


class _Parts(NamedTuple):
    matrix: Path
    barcodes: Path
    features: Path


def is_tenx_folder(folder: Path) -> bool:
    """Whether a .mtx matrix is in a folder."""
    return any(_is("matrix", one) for one in folder.iterdir())


def _is(part: Part, path: Path) -> bool:
    return re.fullmatch(NAMES[part], path.name, re.IGNORECASE) is not None


def read_tenx_folder(path: Path, feature_type: str | None = None) -> ad.AnnData:
    """Read a matrix with its barcodes and features.

    Parameters
    ----------
    path
        A folder, or the matrix in it where it holds several.
    feature_type
        As in `ReadOptions`.

    Returns
    -------
    AnnData
        Counts, float32 CSR. Features are called by their symbol where there is one; var["gene_ids"] and var["feature_types"] are those of
        the file.

    Raises
    ------
    ValueError
        If a part is not there, is there twice or damaged, or the parts do not fit together.
    """
    parts = _in_folder(path) if path.is_dir() else _beside(path)
    barcodes, features = _table(parts.barcodes), _table(parts.features, 3 if _is_bed(parts.features) else 1)
    matrix = _matrix(parts.matrix)
    if matrix.shape != (len(features), len(barcodes)):
        swapped = matrix.shape == (len(barcodes), len(features))
        raise ValueError(
            f"{parts.matrix} has {matrix.shape[0]:,} rows and {matrix.shape[1]:,} columns, but there are {len(features):,} features in "
            f"{parts.features.name} and {len(barcodes):,} barcodes in {parts.barcodes.name}; rows are features and columns are barcodes. "
            + ("Features and barcodes are swapped: transpose the matrix, or exchange the two files." if swapped else
               "The files do not belong together, one of them is cut off, or a table has a row above its names: take that out.")
        )  # fmt: skip
    adata = ad.AnnData(matrix.T.tocsr().astype(np.float32), obs=pd.DataFrame(index=pd.Index(barcodes[0])), var=_features(features, parts))
    return of_one_type(adata, feature_type, path)


def _in_folder(folder: Path) -> _Parts:
    found: dict[Part, Path] = {}
    for part in NAMES:
        there = sorted(one for one in folder.iterdir() if _is(part, one))
        if len(there) > 1:
            matrices = [one.name for one in folder.iterdir() if _is("matrix", one)]
            raise ValueError(
                f"{folder} holds {part} files of more than one sample or twice the same: {', '.join(one.name for one in there)}. "
                + (f"Name the matrix that you want, as in {folder / min(matrices)}, or a list of them." if len(matrices) > 1
                   else "Leave one of them there.")
            )  # fmt: skip
        found[part] = _the_one(there, part, folder)
    return _Parts(**found)


def _beside(matrix: Path) -> _Parts:
    """The parts with the beginning of the matrix's name."""
    named = re.fullmatch(r"(.*?)(?:matrix)?\.mtx(?:\.gz)?", matrix.name, re.IGNORECASE)
    assert named is not None
    start = named[1]
    found: dict[Part, Path] = {"matrix": matrix}
    for part in ("barcodes", "features"):
        candidates = [one for one in sorted(matrix.parent.iterdir()) if _is(part, one)]
        beginning = rf"{re.escape(start)}[._-]?(?:barcodes|genes|features|peaks)\..*"
        own = [one for one in candidates if re.fullmatch(beginning, one.name, re.IGNORECASE)]
        found[part] = _the_one(own or candidates[:1] * (len(candidates) == 1), part, matrix.parent)
    return _Parts(**found)


def _the_one(there: Sequence[Path], part: Part, folder: Path) -> Path:
    if not there:
        names = ", ".join(sorted(one.name for one in folder.iterdir())[:8])
        raise ValueError(
            f"{folder} has no {WHAT[part]} (or .gz of it) for its matrix. It holds: {names}. Put there what came with the matrix."
        )
    if len(there) > 1:
        raise ValueError(f"{folder} holds the {part} twice: {', '.join(one.name for one in there)}. Leave one of them there.")
    return there[0]


def _table(path: Path, n_columns: int = 1) -> pd.DataFrame:
    """A table without header, all text, whose first columns are there in all rows."""
    # Only .bed files have comments: names of cells may hold what begins them, as in sample#ACGT.
    comment = "#" if _is_bed(path) else None
    try:
        table = pd.read_csv(path, sep="\t", header=None, dtype=str, comment=comment, keep_default_na=False)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}). Save it as text in UTF-8.") from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(f"{path} is not a readable table ({error}). It may be cut off or damaged: copy it again.") from error
    if table.shape[1] < n_columns:
        raise ValueError(
            f"{path} has {table.shape[1]} column(s): a .bed file has chromosome, start and end, separated by tabs. Write it with them."
        )
    lacking = (table.iloc[:, :n_columns].fillna("") == "").any(axis=1)
    if lacking.any():
        raise ValueError(f"{path} lacks a value in row {int(np.argmax(lacking)) + 1:,}. It may be cut off: copy it again.")
    return table


def _is_bed(path: Path) -> bool:
    return path.name.lower().endswith((".bed", ".bed.gz"))


def _matrix(path: Path) -> sparse.coo_matrix:
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            found = mmread(file)
    except (OSError, EOFError, ValueError, TypeError, OverflowError, zlib.error) as error:
        raise ValueError(f"{path} is not a readable Matrix Market file ({error}). It may be cut off or damaged: copy it again.") from error
    return sparse.coo_matrix(found)


def _features(table: pd.DataFrame, parts: _Parts) -> pd.DataFrame:
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
