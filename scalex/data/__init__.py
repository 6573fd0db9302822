"""Sampling and reading of rows, and the data module."""

from scalex.data.buffers import Buffer, plan_buffers
from scalex.data.datamodule import ScalexDataModule
from scalex.data.sampling import MinibatchSampler, draw_minibatches
from scalex.data.stream import InputDataset
from scalex.nn.batch import CellBatch, Sampling

__all__ = [
    "Buffer",
    "CellBatch",
    "MinibatchSampler",
    "InputDataset",
    "Sampling",
    "ScalexDataModule",
    "plan_buffers",
    "draw_minibatches",
]
