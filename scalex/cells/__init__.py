"""Where cells come from."""

from scalex.cells.anndata_source import AnnDataSource
from scalex.cells.backed import BackedCells
from scalex.cells.in_memory import InMemoryCells
from scalex.cells.peaks import MatchPeaks
from scalex.cells.protocol import Cells, CellSource, chunks
from scalex.cells.stored_matrix import StoredMatrix
from scalex.cells.united import UnitedCells

__all__ = ["AnnDataSource", "BackedCells", "CellSource", "Cells", "InMemoryCells", "MatchPeaks", "StoredMatrix", "UnitedCells", "chunks"]
