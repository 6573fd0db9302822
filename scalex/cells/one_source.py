"""Cells of one source."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from scalex.cells.protocol import Matrix, Table

__all__ = ["OneSource"]


@dataclass(frozen=True)
class OneSource:
    """Matrix and annotation of the cells of one source. See `Store` for the attributes."""

    matrix: Matrix
    table: Table
    var: pd.DataFrame
    in_memory: bool
