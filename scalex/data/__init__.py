"""Which rows, read how: sampling, stream and the data module."""

from scalex.data.batch import CellBatch
from scalex.data.datamodule import ScalexDataModule
from scalex.data.query import QueryBatch, QueryDataModule
from scalex.data.sampling import MinibatchSampler, Sampling, minibatches
from scalex.data.stream import PreparedCells, dense_rows

__all__ = [
    "CellBatch",
    "MinibatchSampler",
    "PreparedCells",
    "QueryBatch",
    "QueryDataModule",
    "Sampling",
    "ScalexDataModule",
    "dense_rows",
    "minibatches",
]
