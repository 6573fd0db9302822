"""New cells for a trained model, in chunks as they are read."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from scalex.cells import Cells
from scalex.data.stream import AsDrawn, ChunksInOrder, as_it_is
from scalex.nn.batch import Chunk
from scalex.preprocess import RowTransform
from scalex.preprocess.checks import check_values
from scalex.system.chunks import chunks

__all__ = ["QueryDataModule"]


class QueryDataModule(LightningDataModule):
    """All of the given cells, in their order, preprocessed as the training cells were; two chunks are in memory at a time.

    Parameters
    ----------
    cells
        Where the values are read.
    transform
        The frozen preprocessing, for the features of `cells`.
    chunk_size
        Cells embedded at a time.

    Attributes
    ----------
    domains
        Names of the domains of these cells.
    known_domain
        (n_domains,) code of each among the domains of the model, -1 where it does not know it.
    """

    def __init__(self, cells: Cells, transform: RowTransform, *, chunk_size: int = 20_000) -> None:
        super().__init__()
        if chunk_size < 1:
            raise ValueError(f"chunk_size={chunk_size}: it must be at least 1.")
        self.cells = cells
        self.transform = transform
        self.domains = tuple(cells.domain.categories.astype(str))
        self.known_domain = pd.Index(transform.preprocessor.domains).get_indexer(pd.Index(self.domains)).astype(np.int64)
        self._chunk_size = chunk_size

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.cells.domain)

    def domain(self, rows: slice) -> NDArray[np.int64]:
        """(len(rows),) code among `domains`."""
        return np.asarray(self.cells.domain.codes[rows], np.int64)

    def read(self, rows: slice) -> Chunk:
        """Read and preprocess a run of cells.

        Raises
        ------
        ValueError
            If a value is negative or not finite.
        """
        values = self.cells.read(rows)
        check_values(values, self.cells, rows.start)
        domain = self.domain(rows)
        inputs = self.transform(values, self.known_domain[domain])
        return Chunk(inputs, torch.from_numpy(domain), torch.arange(rows.start, rows.stop), values, self.transform.lacking)

    def predict_dataloader(self) -> DataLoader[Chunk]:
        """Each cell once, in order, in chunks."""
        parts = list(chunks(self.n_cells, self._chunk_size))
        return DataLoader(AsDrawn(), batch_size=None, sampler=ChunksInOrder(parts, self.read), collate_fn=as_it_is)

    def transfer_batch_to_device(self, batch: Chunk, device: torch.device, dataloader_idx: int) -> Chunk:
        """Leave a chunk where it is: the model moves it piece by piece."""
        return batch
