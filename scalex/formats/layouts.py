"""Layouts of folders that hold a matrix in a .mtx file with tables of its cells and features, and the files of a layout in a folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from scalex.formats.folders import list_entries

__all__ = ["LAYOUTS", "Layout", "Parts", "describe_layouts", "find_parts", "has_matrix"]

Part = Literal["matrix", "cells", "features"]
PARTS: tuple[Part, ...] = ("matrix", "cells", "features")


class Layout(NamedTuple):
    """Names of the files of a program, and what is in them.

    Attributes
    ----------
    program
        Name of the program.
    matrix, cells, features
        Pattern of the name of each file, without what stands before it and without .gz.
    names
        The names of the three files, for messages.
    cells_in_rows
        Whether the matrix has a row for each cell, or a column.
    has_header
        Whether the tables are .csv with names of columns, or separated by tabs without these.
    """

    program: str
    matrix: str
    cells: str
    features: str
    names: tuple[str, str, str]
    cells_in_rows: bool
    has_header: bool


# A program is added by its row. The first counts for names that fit several.
LAYOUTS = (
    # Cell Ranger 2 (genes.tsv), later versions (features.tsv.gz), its ATAC (peaks.bed), STARsolo, and the MEX folders of BD Rhapsody.
    Layout(
        "10x", r"matrix\.mtx", r"barcodes\.tsv", r"(?:(?:genes|features)\.tsv|peaks\.bed)",
        ("matrix.mtx", "barcodes.tsv", "features.tsv, genes.tsv or peaks.bed"), cells_in_rows=False, has_header=False,
    ),
    # One matrix for each kind of transcripts is beside the tables in the output for single nuclei: cells_x_genes.mature.mtx.
    Layout(
        "kallisto bustools", r"(?:cells_x_genes|genes?|output)(?:\.\w+)?\.mtx", r"(?:cells_x_genes|genes?|output)\.barcodes\.txt",
        r"(?:cells_x_genes|genes?|output)\.genes\.txt", ("cells_x_genes.mtx", "cells_x_genes.barcodes.txt", "cells_x_genes.genes.txt"),
        cells_in_rows=True, has_header=False,
    ),
    Layout(
        "alevin", r"quants_mat\.mtx", r"quants_mat_rows\.txt", r"quants_mat_cols\.txt",
        ("quants_mat.mtx", "quants_mat_rows.txt", "quants_mat_cols.txt"), cells_in_rows=True, has_header=False,
    ),
    Layout(
        "Parse", r"(?:DGE|count_matrix)\.mtx", r"cell_metadata\.csv", r"(?:all_)?genes\.csv",
        ("count_matrix.mtx or DGE.mtx", "cell_metadata.csv", "all_genes.csv or genes.csv"), cells_in_rows=True, has_header=True,
    ),
)  # fmt: skip


class Parts(NamedTuple):
    """The files of one matrix."""

    layout: Layout
    matrix: Path
    cells: Path
    features: Path


def describe_layouts() -> str:
    """Return text that lists the names of the files, for messages."""
    return "; ".join(f"{layout.program}: {', '.join(layout.names)}" for layout in LAYOUTS)


def has_matrix(folder: Path) -> bool:
    """Return whether a folder holds a matrix in one of the layouts."""
    return any(_is_part(layout.matrix, file) for file in list_entries(folder) for layout in LAYOUTS)


def find_parts(path: Path) -> Parts:
    """Find the files of a matrix.

    Parameters
    ----------
    path
        A folder, or a matrix in a folder that holds several.

    Raises
    ------
    ValueError
        If a file is absent or repeated.
    """
    return _find_in_folder(path) if path.is_dir() else _find_beside(path)


def _is_part(pattern: str, path: Path) -> bool:
    return re.fullmatch(rf"(?:.*[._-])?{pattern}(?:\.gz)?", path.name, re.IGNORECASE) is not None


def _list_candidates(layout: Layout, files: Sequence[Path]) -> dict[Part, list[Path]]:
    return {part: [file for file in files if _is_part(getattr(layout, part), file)] for part in PARTS}


def _choose_layout(files: Sequence[Path], matrix: Path | None = None) -> Layout:
    """Return the layout of which most parts are there. Names of matrices may fit several: count_matrix.mtx."""
    layouts = [layout for layout in LAYOUTS if any(_is_part(layout.matrix, file) for file in ([matrix] if matrix else files))]
    return max(layouts or LAYOUTS[:1], key=lambda layout: sum(map(bool, _list_candidates(layout, files).values())))


def _find_in_folder(folder: Path) -> Parts:
    layout = _choose_layout(list_entries(folder))
    candidates = _list_candidates(layout, list_entries(folder))
    for part, files in candidates.items():
        if len(files) > 1:
            matrices = candidates["matrix"]
            raise ValueError(
                f"{folder} holds several {_name_part(part)} files, of several samples or of one: {', '.join(file.name for file in files)}. "
                + (f"Name the matrix to read, as in {matrices[0]}, or a list of them." if len(matrices) > 1 else "Keep one of them.")
            )
    return Parts(layout, *(_get_single(candidates[part], layout, part, folder) for part in PARTS))


def _find_beside(matrix: Path) -> Parts:
    """Return the matrix with the tables of the same prefix, or with the only tables in the folder."""
    files = list_entries(matrix.parent)
    layout = _choose_layout(files, matrix)
    prefix = re.sub(rf"(?:{layout.matrix}|\.mtx)(?:\.gz)?$", "", matrix.name, flags=re.IGNORECASE)
    tables = []
    for part in PARTS[1:]:
        candidates = [file for file in files if _is_part(getattr(layout, part), file)]
        pattern = rf"{re.escape(prefix)}[._-]?{getattr(layout, part)}(?:\.gz)?"
        own = [file for file in candidates if re.fullmatch(pattern, file.name, re.IGNORECASE)]
        tables.append(_get_single(own or candidates[:1] * (len(candidates) == 1), layout, part, matrix.parent))
    return Parts(layout, matrix, *tables)


def _get_single(files: Sequence[Path], layout: Layout, part: Part, folder: Path) -> Path:
    if not files:
        names = ", ".join(file.name for file in list_entries(folder)[:8])
        raise ValueError(
            f"{folder} has no {layout.names[PARTS.index(part)]} (or .gz of it) for its matrix. It holds: {names}. Add the file of the "
            "matrix."
        )
    if len(files) > 1:
        raise ValueError(f"{folder} holds the {_name_part(part)} twice: {', '.join(file.name for file in files)}. Keep one of them.")
    return files[0]


def _name_part(part: Part) -> str:
    return "barcodes" if part == "cells" else part
