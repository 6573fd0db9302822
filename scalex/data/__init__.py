"""Which rows, read how: sampling, stream and the data module."""

from scalex.data.buffers import Buffer, buffers
from scalex.data.datamodule import ScalexDataModule
from scalex.data.sampling import MinibatchSampler, minibatches
from scalex.data.stream import PreparedCells
from scalex.nn.batch import CellBatch, Sampling

__all__ = [
    "Buffer",
    "CellBatch",
    "MinibatchSampler",
    "PreparedCells",
    "Sampling",
    "ScalexDataModule",
    "buffers",
    "minibatches",
]
