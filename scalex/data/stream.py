"""Minibatches: of cells that are in memory, or of cells that are read buffer by buffer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch.utils.data import Dataset, Sampler

from scalex.data.buffers import Buffer, buffers
from scalex.data.sampling import EpochSampler
from scalex.nn.batch import CellBatch, Chunk, Sampling
from scalex.system.read_ahead import read_ahead

__all__ = ["AsDrawn", "ChunksInOrder", "PreparedCells", "StreamedMinibatches", "as_it_is", "dense_rows"]


def dense_rows(matrix: sparse.csr_matrix, rows: NDArray[np.int64]) -> torch.Tensor:
    """The `rows` of a sparse matrix as a dense tensor, (len(rows), n_features) float32, in one gather."""
    return torch.from_numpy(matrix[rows].toarray())


class PreparedCells(Dataset[CellBatch]):
    """Preprocessed cells in memory; indexing with an array of rows gives one minibatch.

    Parameters
    ----------
    matrix
        (n_cells, n_features) CSR float32 in [0, 1].
    domain
        (n_cells,) domain codes.
    """

    def __init__(self, matrix: sparse.csr_matrix, domain: NDArray[np.int64]) -> None:
        self.matrix = matrix
        self.domain = domain

    def __len__(self) -> int:
        return len(self.domain)

    def __getitem__(self, rows: NDArray[np.int64]) -> CellBatch:
        return CellBatch(dense_rows(self.matrix, rows), torch.from_numpy(self.domain[rows]), torch.from_numpy(rows))


class StreamedMinibatches(EpochSampler[CellBatch]):
    """The minibatches themselves, read buffer by buffer; the next buffer is read while one is in use.

    Parameters
    ----------
    domain, batch_size, sampling, seed
        As in `EpochSampler`.
    read
        Gives the model's inputs, (len(rows), n_features) CSR float32, of ascending rows.
    run_rows, buffer_minibatches
        As in `scalex.data.buffers`.
    """

    def __init__(
        self,
        domain: NDArray[np.int64],
        batch_size: int,
        sampling: Sampling,
        seed: int,
        *,
        read: Callable[[NDArray[np.int64]], sparse.csr_matrix],
        run_rows: int,
        buffer_minibatches: int,
    ) -> None:
        super().__init__(domain, batch_size, sampling, seed)
        self._read = read
        self._run_rows = run_rows
        self._buffer_minibatches = buffer_minibatches

    def _drawn(self, rng: np.random.Generator) -> Iterator[CellBatch]:
        plan = buffers(
            self._domain,
            self._batch_size,
            self._sampling,
            rng,
            run_rows=self._run_rows,
            buffer_minibatches=self._buffer_minibatches,
            process=self._process,
            n_processes=self._n_processes,
        )
        for buffer, cells in read_ahead(plan, self._load):
            for position in buffer.minibatches:
                yield cells[position]._replace(row_C=torch.from_numpy(buffer.rows[position]))

    def _load(self, buffer: Buffer) -> PreparedCells:
        return PreparedCells(self._read(buffer.rows), self._domain[buffer.rows])


class ChunksInOrder(Sampler[Chunk]):
    """Chunks of cells, one after the other; the next is read while one is in use.

    Parameters
    ----------
    parts
        Rows of each chunk.
    read
        Gives the chunk.
    """

    def __init__(self, parts: Sequence[slice], read: Callable[[slice], Chunk]) -> None:
        self._parts = parts
        self._read = read

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[Chunk]:
        for _, chunk in read_ahead(self._parts, self._read):
            yield chunk


class AsDrawn(Dataset[Any]):
    """What the sampler draws is what the loader gives."""

    def __getitem__(self, drawn: Any) -> Any:
        return drawn


def as_it_is(item: Any) -> Any:
    """For a loader, which else would make tensors of all arrays."""
    return item
