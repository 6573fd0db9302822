"""Cells, and the sources from which they are opened."""

from scalex.cells.backed import BackedCells
from scalex.cells.in_memory import InMemoryCells
from scalex.cells.merged_features import MergedFeatures
from scalex.cells.protocol import Cells, CellSource
from scalex.cells.source import AnnDataSource
from scalex.features.peaks import MatchPeaks
from scalex.h5ad.matrix import StoredMatrix

__all__ = ["AnnDataSource", "BackedCells", "CellSource", "Cells", "InMemoryCells", "MatchPeaks", "StoredMatrix", "MergedFeatures"]
