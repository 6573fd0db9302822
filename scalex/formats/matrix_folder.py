"""Matrices in .mtx files with tables of their cells and features, as Cell Ranger and other programs write them."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from scalex.formats.advice import AdvisedError
from scalex.formats.folders import find_below, list_entries, prefer_filtered
from scalex.formats.layouts import Parts, describe_layouts, find_parts, has_matrix
from scalex.formats.matrix_market import read_matrix_market, read_shape
from scalex.formats.packed import DAMAGE, open_text
from scalex.formats.types import select_feature_type

__all__ = ["find_matrix_folder", "read_matrix_folder"]

logger = logging.getLogger(__name__)

# Names of columns of features in tables with a header, and those that they get.
GENE_NAME, GENE_ID = "gene_name", "gene_id"


def find_matrix_folder(folder: Path) -> Path:
    """Return the folder with the only matrix in or below a folder. Of the droplets of a sample, those that hold cells are preferred.

    Raises
    ------
    ValueError
        If there is no matrix, or several; the message lists them.
    """
    if has_matrix(folder):
        return folder
    found = find_below(folder, has_matrix)
    preferred = prefer_filtered(found, folder)
    names = [str(own.relative_to(folder)) for own in preferred]
    if not preferred:
        entries = [entry.name for entry in list_entries(folder)]
        raise ValueError(
            f"{folder} is a folder that holds neither a zarr store nor a matrix in a known layout, but "
            f"{', '.join(entries[:5]) or 'nothing'}. Name a file in it, or several as a list or a glob such as {folder}/*.h5ad. Layouts of "
            f"folders are: {describe_layouts()}."
        )
    if len(preferred) > 1:
        raise ValueError(
            f"{folder} holds several matrices: {', '.join(names[:20])}{', ...' * (len(names) > 20)}. Name one of them, as in "
            f"{preferred[0]}, or a list of them."
        )
    others = [str(own.relative_to(folder)) for own in found if own not in preferred]
    logger.info("%s: reads %s%s", folder, names[0], f", not {', '.join(others)}" if others else "")
    return preferred[0]


def read_matrix_folder(path: Path, feature_type: str | None = None) -> ad.AnnData:
    """Read a matrix with its cells and features.

    Parameters
    ----------
    path
        A folder, also one above that of the matrix, or a matrix in a folder that holds several.
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
    parts = find_parts(find_matrix_folder(path) if path.is_dir() else path)
    has_header = parts.layout.has_header
    cells, features = (_read_table(table, has_header) for table in (parts.cells, parts.features))
    _check_shape(parts, len(cells), len(features))
    matrix = read_matrix_market(parts.matrix)
    obs = _make_obs(cells) if has_header else pd.DataFrame(index=pd.Index(cells[0].to_numpy()))
    var = _make_var_of_header(features) if has_header else _make_var(features, parts.features)
    counts = matrix if parts.layout.cells_in_rows else matrix.T
    return select_feature_type(ad.AnnData(counts.tocsr(), obs=obs, var=var), feature_type, path)


def _check_shape(parts: Parts, n_cells: int, n_features: int) -> None:
    """Check the sizes in the header of the matrix against the tables, before its values are read."""
    in_rows = parts.layout.cells_in_rows
    n_rows, n_columns = read_shape(parts.matrix)
    expected = (n_cells, n_features) if in_rows else (n_features, n_cells)
    if (n_rows, n_columns) == expected:
        return
    orientation = "rows are barcodes and columns are features" if in_rows else "rows are features and columns are barcodes"
    raise ValueError(
        f"{parts.matrix} has {n_rows:,} rows and {n_columns:,} columns, but there are {n_features:,} features in {parts.features.name} and "
        f"{n_cells:,} barcodes in {parts.cells.name}; {orientation}. "
        + ("Features and barcodes are swapped: transpose the matrix, or exchange the two files." if (n_columns, n_rows) == expected else
           "The files do not belong together, one of them is truncated, or a table has a header: use matching files without header.")
    )  # fmt: skip


def _read_table(path: Path, has_header: bool) -> pd.DataFrame:
    """Read a table of text, and check that no value of the columns of names is missing."""
    is_bed = _is_bed(path)
    # Names contain quotes, as of genes of the fly. Only .bed files have comments: names of cells may contain their sign, as in sample#ACGT.
    options: dict[str, Any] = {"sep": ","} if has_header else {"sep": "\t", "header": None, "quoting": csv.QUOTE_NONE}
    try:
        with open_text(path) as file:
            table = pd.read_csv(file, dtype=str, comment="#" if is_bed else None, keep_default_na=False, index_col=False, **options)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}). Save it as text in UTF-8.") from error
    except AdvisedError:
        raise
    except (*DAMAGE, ValueError) as error:
        raise ValueError(f"{path} is not a readable table ({error}). It may be truncated or damaged: copy it again.") from error
    n_columns = 3 if is_bed else 1
    if table.shape[1] < n_columns:
        raise ValueError(
            f"{path} has {table.shape[1]} column(s): a .bed file needs chromosome, start and end, separated by tabs. Write it again."
        )
    missing = (table.iloc[:, :n_columns].fillna("") == "").any(axis=1)
    if missing.any():
        raise ValueError(f"{path}: a value is missing in row {int(np.argmax(missing)) + 1:,}. The file may be truncated: copy it again.")
    return table if has_header else table.apply(_remove_quotes)


def _remove_quotes(values: pd.Series) -> pd.Series:
    """Return a column as R means it, which puts all its values in quotes. A single name with quotes contains them."""
    quoted = values.str.len().gt(2) & values.str.startswith('"') & values.str.endswith('"')
    return values.str[1:-1] if quoted.all() else values


def _is_bed(path: Path) -> bool:
    return path.name.lower().endswith((".bed", ".bed.gz"))


def _make_obs(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with its first column as names, and its numbers as numbers."""
    obs = table.iloc[:, 1:].set_axis(table.iloc[:, 0].to_numpy(), axis=0)
    for column in obs:
        number = pd.to_numeric(obs[column], errors="coerce")
        if number.notna().all():
            obs[column] = number
    return obs


def _make_var_of_header(table: pd.DataFrame) -> pd.DataFrame:
    identifiers = table[GENE_ID] if GENE_ID in table else table.iloc[:, 0]
    names = _fill(table[GENE_NAME], identifiers) if GENE_NAME in table else identifiers
    var = table.drop(columns=[column for column in (GENE_ID, GENE_NAME) if column in table]).set_axis(names.to_numpy(), axis=0)
    var.insert(0, "gene_ids", identifiers.to_numpy())
    return var


def _make_var(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    n_columns = table.shape[1]
    if _is_bed(path):
        return pd.DataFrame(index=pd.Index((table[0] + ":" + table[1] + "-" + table[2]).to_numpy()))
    var = pd.DataFrame(index=pd.Index(_fill(table[min(n_columns - 1, 1)], table[0]).to_numpy()))
    if n_columns > 1:
        var["gene_ids"] = table[0].to_numpy()
    if n_columns > 2:
        var["feature_types"] = pd.Categorical(table[2])
    return var


def _fill(names: pd.Series, identifiers: pd.Series) -> pd.Series:
    return names.where(names.fillna("") != "", identifiers)
