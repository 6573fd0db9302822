"""Cells as Lightning wants them: minibatches to train on, chunks to embed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from scipy import sparse
from torch.utils.data import DataLoader

from scalex.cells import Cells, StoredMatrix
from scalex.data.sampling import MinibatchSampler, check_sampling
from scalex.data.sizes import PIECE_ROWS, StreamSizes, free_share, stream_sizes
from scalex.data.stream import AsDrawn, BatchesInOrder, MinibatchLoader, PreparedCells, StreamedMinibatches
from scalex.nn.batch import CellBatch, Sampling
from scalex.nn.sparse_rows import SparseRows
from scalex.preprocess import FittedRecipe
from scalex.system.chunks import chunks

__all__ = ["ScalexDataModule"]

# Rows that are read in one piece: long enough that reading them is as fast as reading on, short enough that a buffer holds many.
RUN_ROWS = 128
# Cells that tell how many values a cell has.
LOOKED_AT = 1000


class ScalexDataModule(LightningDataModule):
    """The kept cells, preprocessed, as minibatches for training and as chunks in their own order for embedding.

    Cells in memory are preprocessed once. Of others nothing but two buffers, or two chunks, is in memory at a time, and their order of
    training is shuffled as files allow (`scalex.data.buffers`).

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
    in_memory : bool
        Whether the cells are in memory, else they stay in their files.
    sizes : StreamSizes or None
        How much of cells in files is read at a time.
    values_per_cell : float
        Stored values of a cell in a file, from a look at some.
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
        self._chunk_size = chunk_size
        # By categories: of millions of cells there is no text each.
        codes = pd.Index(self.preprocessor.domains).get_indexer(cells.domain.categories.astype(str))
        self._domain: NDArray[np.int64] = codes.astype(np.int64)[cells.domain.codes[self.rows]]
        self.in_memory = cells.in_memory
        self._transform = self.preprocessor.for_features(cells.var.index)
        self._piece_rows = PIECE_ROWS
        self._sampler: MinibatchSampler | StreamedMinibatches
        self.sizes: StreamSizes | None = None
        self.values_per_cell = 0.0
        if self.in_memory:
            self._sampler = MinibatchSampler(self._domain, batch_size, sampling, seed)
        else:
            check_sampling(sampling, batch_size)
            self.sizes = self._sizes(batch_size, cells.memory_gb)
            self._piece_rows = self.sizes.piece_rows
            self._sampler = StreamedMinibatches(
                self._domain,
                batch_size,
                sampling,
                seed,
                read=self._read,
                run_rows=RUN_ROWS,
                buffer_minibatches=self.sizes.buffer_minibatches,
            )
        self._prepared: PreparedCells | None = None
        self._kept_inputs: StoredMatrix | None = None

    def read_inputs_from(self, stored: StoredMatrix) -> None:
        """Take the inputs of the kept cells from a file that has them, (n_kept, n_features), instead of making them."""
        assert stored.shape == (len(self.rows), len(self.preprocessor.features))
        self._kept_inputs = stored
        some = self._some()
        self.values_per_cell = self._read(some).nnz / len(some)

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
        """Preprocess the kept cells into memory, once, if they are there anyway."""
        if self._prepared is None and self.in_memory:
            self._prepared = PreparedCells(self._read(np.arange(len(self.rows))), self._domain)

    def train_dataloader(self) -> DataLoader[CellBatch]:
        """One minibatch per item; of several processes that train together, this one's share of it."""
        self._sampler.share(*self._this_of_processes())
        if self.in_memory:
            assert self._prepared is not None, "setup comes first"
            return MinibatchLoader(self._prepared, self._sampler, self._n_done)
        return MinibatchLoader(AsDrawn(), self._sampler, self._n_done)

    def state_dict(self) -> dict[str, int]:
        """How many minibatches of the epoch are done: part of a checkpoint.

        The loader says so, too, but Lightning 2.6 does not give it back to a loader that it has asked for its length before.
        """
        return {"n_done": self._n_done()}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Begin the next epoch after the minibatches that are done."""
        self._sampler.skip(state_dict["n_done"])

    def batches(self) -> BatchesInOrder:
        """Each kept cell once, in order, in chunks; of several processes, this one's share of them."""
        process, n_processes = self._this_of_processes()
        n_cells = len(self.rows)
        parts = list(chunks(n_cells, min(self._chunk_size, -(-n_cells // n_processes))))[process::n_processes]
        return BatchesInOrder(parts, lambda part: self._batch(np.arange(part.start, part.stop), self.inputs(part)))

    def batches_of(self, rows: NDArray[np.int64]) -> Iterator[CellBatch]:
        """Some of the kept cells, ascending, in chunks."""
        for part in chunks(len(rows), self._chunk_size):
            yield self._batch(rows[part], self.inputs(rows[part]))

    def transfer_batch_to_device(self, batch: CellBatch, device: torch.device, dataloader_idx: int) -> CellBatch:
        """Move a minibatch; Lightning's own search through nested collections takes longer than a short step allows."""
        domain_C, row_C = (codes.to(device, non_blocking=True) for codes in (batch.domain_C, batch.row_C))
        return CellBatch(batch.rows.to(device), domain_C, row_C)

    def parts(self) -> Iterator[slice]:
        """Runs of kept cells, of `chunk_size` at most, that cover each once."""
        return chunks(len(self.rows), self._chunk_size)

    def inputs(self, part: slice | NDArray[np.int64] = slice(None)) -> sparse.csr_matrix:
        """The model's inputs of some kept cells, ascending, (n_cells, n_features) float32 CSR in [0, 1]."""
        if self._prepared is None:
            return self._read(np.arange(len(self.rows))[part])
        return self._prepared.matrix if isinstance(part, slice) and part == slice(None) else self._prepared.matrix[part]

    def normalized(self, part: slice = slice(None)) -> sparse.csr_matrix:
        """Normalized expression of a run of kept cells, (n_cells, len(preprocessor.expressed)) float32 CSR."""
        rows = self.rows[part]
        pieces = [self._transform.normalized(self.cells.read(rows[piece])) for piece in chunks(len(rows), self._piece_rows)]
        return sparse.vstack(pieces, format="csr")

    def _sizes(self, batch_size: int, memory_gb: float | None) -> StreamSizes:
        """How much to read at a time, by a look at some cells."""
        some = self._some()
        values = self.cells.read(self.rows[some])
        used = self._transform(values, self._domain[some])
        self.values_per_cell = values.nnz / len(some)
        return stream_sizes(self.values_per_cell, used.nnz / len(some), batch_size, free_share() if memory_gb is None else memory_gb)

    def _some(self) -> NDArray[np.int64]:
        """Rows of kept cells that tell of all."""
        return np.arange(len(self.rows))[:: max(len(self.rows) // LOOKED_AT, 1)][:LOOKED_AT]

    def _this_of_processes(self) -> tuple[int, int]:
        """Which process this is, of how many that train together."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _n_done(self) -> int:
        """Minibatches of the epoch that training has had."""
        n_ready = 0 if self.trainer is None else self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return n_ready % len(self._sampler)

    def _batch(self, rows: NDArray[np.int64], inputs: sparse.csr_matrix) -> CellBatch:
        return CellBatch(SparseRows.of(inputs), torch.from_numpy(self._domain[rows]), torch.from_numpy(rows))

    def _read(self, kept: NDArray[np.int64]) -> sparse.csr_matrix:
        """Inputs of some kept cells, ascending, as they come from the source, or from a file of inputs."""
        if self._kept_inputs is not None:
            return self._kept_inputs.read(kept)
        rows, domain = self.rows[kept], self._domain[kept]
        pieces = [self._transform(self.cells.read(rows[piece]), domain[piece]) for piece in chunks(len(rows), self._piece_rows)]
        return sparse.vstack(pieces, format="csr")
