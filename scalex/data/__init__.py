"""Which rows, read how: sampling, stream and the data module."""

from scalex.data.buffers import Buffer, buffers
from scalex.data.datamodule import ScalexDataModule
from scalex.data.sampling import MinibatchSampler, minibatches
from scalex.data.stream import PreparedCells, dense_rows
from scalex.nn.batch import CellBatch, Chunk, Sampling

__all__ = [
    "Buffer",
    "CellBatch",
    "Chunk",
    "MinibatchSampler",
    "PreparedCells",
    "Sampling",
    "ScalexDataModule",
    "buffers",
    "dense_rows",
    "minibatches",
]
