"""Cells as Lightning wants them: minibatches to train on, chunks to embed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from lightning import LightningDataModule
from numpy.typing import NDArray
from scipy import sparse
from torch.utils.data import DataLoader, Dataset

from scalex.cells import Cells, chunks
from scalex.data.batch import CellBatch, Chunk
from scalex.data.sampling import MinibatchSampler, Sampling
from scalex.data.stream import PreparedCells
from scalex.preprocess import FittedRecipe

__all__ = ["ScalexDataModule"]


class ScalexDataModule(LightningDataModule):
    """The kept cells, preprocessed, as minibatches for training and as chunks in their own order for embedding.

    Parameters
    ----------
    cells
        Where the values are read.
    fitted
        The frozen preprocessing, and which rows of `cells` to use.
    batch_size
        Most cells in a training minibatch.
    sampling
        Which cells share a minibatch; see `scalex.data.minibatches`.
    chunk_size
        Cells embedded at a time.
    seed
        Seed of the order of training.
    parameters
        What the run was asked for, to be written down beside its results.

    Attributes
    ----------
    embedding : AnnData or None
        Set by the latent export once the cells are embedded; the callbacks after it add to it.
    """

    def __init__(
        self,
        cells: Cells,
        fitted: FittedRecipe,
        *,
        batch_size: int = 64,
        sampling: Sampling = "shuffle",
        chunk_size: int = 20_000,
        seed: int = 124,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if chunk_size < 1:
            raise ValueError(f"chunk_size={chunk_size}: it must be at least 1.")
        self.cells = cells
        self.preprocessor, self.rows = fitted
        self.parameters = parameters or {}
        self.embedding: AnnData | None = None
        self._chunk_size = chunk_size
        codes = pd.Index(self.preprocessor.domains).get_indexer(pd.Index(cells.domain.astype(str)))
        self._domain: NDArray[np.int64] = codes.astype(np.int64)[self.rows]
        self._sampler = MinibatchSampler(self._domain, batch_size, sampling, seed)
        self._prepared: PreparedCells | None = None

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains."""
        return self.preprocessor.domains

    @property
    def domain(self) -> NDArray[np.int64]:
        """(n_kept,) code of each kept cell's domain."""
        return self._domain

    @property
    def label(self) -> pd.Categorical | None:
        """(n_kept,) known type of each kept cell."""
        return None if self.cells.label is None else self.cells.label[self.rows]

    def setup(self, stage: str) -> None:
        """Preprocess the kept cells into memory, once."""
        if self._prepared is None:
            transform = self.preprocessor.rows_with(self.cells.var.index)
            parts = [transform(self.cells.read(self.rows[part]), self._domain[part]) for part in self._parts()]
            matrix = sparse.vstack(parts, format="csr")
            self._prepared = PreparedCells(matrix, self._domain)

    def train_dataloader(self) -> DataLoader[CellBatch]:
        """One minibatch per item."""
        return DataLoader(self._ready(), batch_size=None, sampler=self._sampler)

    def predict_dataloader(self) -> DataLoader[Chunk]:
        """Each kept cell once, in order, in chunks."""
        return DataLoader(_Chunks(self._ready()), batch_size=None, sampler=list(self._parts()))

    def transfer_batch_to_device(self, batch: CellBatch | Chunk, device: torch.device, dataloader_idx: int) -> CellBatch | Chunk:
        """Move a minibatch; Lightning's own search through nested collections takes longer than a short step allows.

        A chunk stays where it is: the model moves it piece by piece.
        """
        if isinstance(batch, Chunk):
            return batch
        return CellBatch(*(values.to(device, non_blocking=True) for values in batch))

    def inputs(self) -> sparse.csr_matrix:
        """The model's inputs of all kept cells, (n_kept, n_features) float32 CSR in [0, 1]."""
        return self._ready().matrix

    def normalized(self) -> sparse.csr_matrix:
        """Normalized expression of all kept cells, (n_kept, len(preprocessor.expressed)) float32 CSR."""
        transform = self.preprocessor.rows_with(self.cells.var.index)
        return sparse.vstack([transform.normalized(self.cells.read(self.rows[p])) for p in self._parts()], format="csr")

    def _parts(self) -> Iterator[slice]:
        return chunks(len(self.rows), self._chunk_size)

    def _ready(self) -> PreparedCells:
        assert self._prepared is not None, "setup comes first"
        return self._prepared


class _Chunks(Dataset[Chunk]):
    def __init__(self, prepared: PreparedCells) -> None:
        self._prepared = prepared

    def __getitem__(self, rows: slice) -> Chunk:
        domain = torch.from_numpy(self._prepared.domain[rows])
        return Chunk(self._prepared.matrix[rows], domain, torch.arange(rows.start, rows.stop))
