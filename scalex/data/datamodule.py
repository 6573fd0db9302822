"""The data module of Lightning: minibatches for training, chunks for embedding."""

from __future__ import annotations

import logging
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
from scalex.data.sizes import ROWS_PER_READ, StreamSizes, choose_sizes, default_memory_gb, fits
from scalex.data.stream import ChunkLoader, InputDataset, MinibatchLoader, PassThrough, StreamSampler
from scalex.nn.batch import CellBatch, Sampling
from scalex.nn.collectives import MinibatchCounts, n_processes
from scalex.nn.sparse_rows import SparseRows
from scalex.nn.transfer import free_memory, send
from scalex.preprocess import FittedRecipe
from scalex.system.chunks import chunks

__all__ = ["ScalexDataModule"]

logger = logging.getLogger(__name__)

# Rows in a run: enough that reading a run is nearly as fast as sequential reading, and few enough that a buffer holds many runs.
RUN_ROWS = 128
# Cells from which the number of values per cell is estimated.
N_SAMPLED = 1000


class ScalexDataModule(LightningDataModule):
    """The inputs of the kept cells, as minibatches for training and as chunks in order for embedding.

    Cells in memory are preprocessed once. Of cells in files, at most two buffers or two chunks are in memory at a time, and runs of rows
    are shuffled instead of single rows (`scalex.data.plan_buffers`). A GPU gets a copy of the inputs, or of a buffer, and gathers
    minibatches from it.

    Parameters
    ----------
    cells
        The cells.
    fitted
        The preprocessor, and the rows of `cells` to use.
    batch_size
        Largest number of cells in a training minibatch.
    sampling
        The choice of cells that share a minibatch; see `scalex.data.draw_minibatches`.
    chunk_size
        Number of cells embedded at a time.
    seed
        Seed of the order of training.
    parameters
        Settings of the run, to be stored with its results.

    Attributes
    ----------
    batch_size : int
        As given.
    in_memory : bool
        Whether the cells are in memory. Otherwise they stay in their files.
    sizes : StreamSizes or None
        Sizes of buffers and reads, for cells in files.
    values_per_cell : float
        Stored values per cell in a file, estimated from a sample.
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
        self.cells = cells
        self.preprocessor, self.rows = fitted
        self.batch_size = batch_size
        self.parameters = parameters or {}
        self._chunk_size = chunk_size
        # By category: converting each of millions of cells to text would take too long.
        codes = pd.Index(self.preprocessor.domains).get_indexer(cells.domain.categories.astype(str))
        self._domain: NDArray[np.int64] = codes.astype(np.int64)[cells.domain.codes[self.rows]]
        self.in_memory = cells.in_memory
        self._transform = self.preprocessor.for_features(cells.var.index)
        self._rows_per_read = ROWS_PER_READ
        self._sampler: MinibatchSampler | StreamSampler
        self.sizes: StreamSizes | None = None
        self.values_per_cell = 0.0
        if self.in_memory:
            self._sampler = MinibatchSampler(self._domain, batch_size, sampling, seed)
        else:
            check_sampling(sampling, batch_size)
            self.sizes = self._sizes(batch_size, cells.memory_gb)
            self._rows_per_read = self.sizes.rows_per_read
            self._sampler = StreamSampler(
                self._domain,
                batch_size,
                sampling,
                seed,
                read=self._read,
                run_rows=RUN_ROWS,
                buffer_minibatches=self.sizes.buffer_minibatches,
            )
        self._inputs: InputDataset | None = None
        self._cached_inputs: StoredMatrix | None = None

    def read_inputs_from(self, stored: StoredMatrix) -> None:
        """Read the inputs of the kept cells from a file, (n_kept, n_features), instead of computing them."""
        assert stored.shape == (len(self.rows), len(self.preprocessor.features))
        self._cached_inputs = stored
        sample = self._sample_rows()
        self.values_per_cell = self._read(sample).nnz / len(sample)

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
        """(n_kept,) label of each kept cell."""
        return None if self.cells.label is None else self.cells.label[self.rows]

    def setup(self, stage: str) -> None:
        """Preprocess the kept cells once, if the cells are in memory."""
        if self._inputs is None and self.in_memory:
            self._inputs = InputDataset(self._read(np.arange(len(self.rows))), self._domain)

    def train_dataloader(self) -> DataLoader[CellBatch]:
        """Return a loader of minibatches, or of this process's share of each minibatch."""
        self._sampler.share(*self._get_rank())
        self.keep_inputs_on(torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device)
        if self.in_memory:
            assert self._inputs is not None, "call setup first"
            return MinibatchLoader(self._inputs, self._sampler, self._count_done)
        return MinibatchLoader(PassThrough(), self._sampler, self._count_done)

    def keep_inputs_on(self, device: torch.device) -> None:
        """Copy the inputs to a GPU: all, if the cells are in memory and the copy fits, or buffer by buffer, if they are in files."""
        if isinstance(self._sampler, StreamSampler):
            self._sampler.device = device
        elif device.type == "cuda" and self._inputs is not None and self._inputs.copy is None:
            needs, free = self._inputs.n_bytes, free_memory(device)
            if fits(needs, free):
                self._inputs.copy = SparseRows.of(self._inputs.matrix).to(device)
                logger.info("The inputs are in the memory of the GPU (%s MB)", f"{needs / 1e6:,.0f}")
            else:
                logger.info(
                    "The inputs (%s MB) are too large for the free memory of the GPU (%s MB): minibatches are copied to it one by one",
                    f"{needs / 1e6:,.0f}", f"{free / 1e6:,.0f}",
                )  # fmt: skip

    def teardown(self, stage: str) -> None:
        """Free the memory of the GPU."""
        if self._inputs is not None:
            self._inputs.copy = None

    def state_dict(self) -> dict[str, int]:
        """Return the number of minibatches of the epoch that are done, for a checkpoint.

        The loader stores it as well, but Lightning 2.6 does not restore a loader whose length it has already requested.
        """
        return {"n_done": self._count_done()}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Start the next epoch after the minibatches that are done."""
        self._sampler.skip(state_dict["n_done"])

    def batches(self) -> ChunkLoader:
        """Return a loader of the kept cells in chunks, each cell once and in order, or of this process's share of the chunks."""
        process, n_processes = self._get_rank()
        n_cells = len(self.rows)
        own = list(chunks(n_cells, min(self._chunk_size, -(-n_cells // n_processes))))[process::n_processes]
        return ChunkLoader(own, lambda chunk: self._batch(np.arange(chunk.start, chunk.stop), self.inputs(chunk)))

    def batches_of(self, rows: NDArray[np.int64]) -> Iterator[CellBatch]:
        """Yield the given kept cells, ascending, in chunks."""
        for chunk in chunks(len(rows), self._chunk_size):
            yield self._batch(rows[chunk], self.inputs(rows[chunk]))

    def transfer_batch_to_device(self, batch: CellBatch, device: torch.device, dataloader_idx: int) -> CellBatch:
        """Move a minibatch. Lightning's own search through nested collections is slow compared with a short step."""
        # Processes that share a minibatch count its cells together, in the step.
        counts = MinibatchCounts.of(batch.domain_C, len(self.domains)).to(device) if n_processes() == 1 else None
        return CellBatch(batch.rows.to(device), send(batch.domain_C, device), send(batch.row_C, device), counts=counts)

    def row_chunks(self) -> Iterator[slice]:
        """Yield slices of at most `chunk_size` kept cells that cover each cell once."""
        return chunks(len(self.rows), self._chunk_size)

    def inputs(self, rows: slice | NDArray[np.int64] = slice(None)) -> sparse.csr_matrix:
        """Return the inputs of the given kept cells, ascending, (n_cells, n_features) float32 CSR in [0, 1]."""
        if self._inputs is None:
            return self._read(np.arange(len(self.rows))[rows])
        return self._inputs.matrix if isinstance(rows, slice) and rows == slice(None) else self._inputs.matrix[rows]

    def normalized(self, chunk: slice | NDArray[np.int64] = slice(None)) -> sparse.csr_matrix:
        """Return the normalized expression of a chunk of kept cells, ascending, (n_cells, n_kept_features) float32 CSR."""
        rows = self.rows[chunk]
        blocks = [self._transform.normalized(self.cells.read(rows[some])) for some in chunks(len(rows), self._rows_per_read)]
        return sparse.vstack(blocks, format="csr")

    def _sizes(self, batch_size: int, memory_gb: float | None) -> StreamSizes:
        """Choose the sizes of buffers and reads from a sample of the cells."""
        sample = self._sample_rows()
        values = self.cells.read(self.rows[sample])
        used = self._transform(values, self._domain[sample])
        self.values_per_cell = values.nnz / len(sample)
        return choose_sizes(
            self.values_per_cell, used.nnz / len(sample), batch_size, default_memory_gb() if memory_gb is None else memory_gb
        )

    def _sample_rows(self) -> NDArray[np.int64]:
        """Return positions of kept cells at regular distances."""
        return np.arange(len(self.rows))[:: max(len(self.rows) // N_SAMPLED, 1)][:N_SAMPLED]

    def _get_rank(self) -> tuple[int, int]:
        """Return the rank of this process and the number of processes."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _count_done(self) -> int:
        """Return the number of minibatches of the epoch that training has used."""
        n_ready = 0 if self.trainer is None else self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return n_ready % len(self._sampler)

    def _batch(self, rows: NDArray[np.int64], inputs: sparse.csr_matrix) -> CellBatch:
        return CellBatch(SparseRows.of(inputs), torch.from_numpy(self._domain[rows]), torch.from_numpy(rows))

    def _read(self, kept: NDArray[np.int64]) -> sparse.csr_matrix:
        """Return the inputs of the given kept cells, ascending, from a file of inputs or computed from the cells."""
        if self._cached_inputs is not None:
            return self._cached_inputs.read(kept)
        rows, domain = self.rows[kept], self._domain[kept]
        blocks = [self._transform(self.cells.read(rows[some]), domain[some]) for some in chunks(len(rows), self._rows_per_read)]
        return sparse.vstack(blocks, format="csr")
