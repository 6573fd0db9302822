"""Minibatches: of cells that are in memory, or of cells that are read buffer by buffer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch.utils.data import DataLoader, Dataset

from scalex.data.buffers import Buffer, buffers
from scalex.data.sampling import EpochSampler
from scalex.nn.batch import CellBatch, Sampling
from scalex.nn.sparse_rows import SparseRows
from scalex.system.read_ahead import read_ahead

__all__ = ["AsDrawn", "BatchesInOrder", "MinibatchLoader", "PreparedCells", "StreamedMinibatches", "as_it_is"]


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
        return CellBatch(SparseRows.of(self.matrix[rows]), torch.from_numpy(self.domain[rows]), torch.from_numpy(rows))


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

    def _drawn(self, rng: np.random.Generator, n_skipped: int) -> Iterator[CellBatch]:
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
        for buffer, cells in read_ahead(_without_first(plan, n_skipped), self._load):
            for position in buffer.minibatches:
                yield cells[position]._replace(row_C=torch.from_numpy(buffer.rows[position]))

    def _load(self, buffer: Buffer) -> PreparedCells:
        return PreparedCells(self._read(buffer.rows), self._domain[buffer.rows])


def _without_first(plan: Iterable[Buffer], n_minibatches: int) -> Iterator[Buffer]:
    """The buffers without the first minibatches; one that has no other is not read."""
    for buffer in plan:
        left = buffer.minibatches[n_minibatches:]
        n_minibatches = max(n_minibatches - len(buffer.minibatches), 0)
        if left:
            yield Buffer(buffer.rows, left)


class BatchesInOrder(Iterable[CellBatch]):
    """Cells chunk by chunk, as often as they are gone through; the next chunk is read while one is in use.

    Parameters
    ----------
    parts
        Rows of each chunk.
    read
        Gives the chunk.
    """

    def __init__(self, parts: Sequence[slice], read: Callable[[slice], CellBatch]) -> None:
        self._parts = parts
        self._read = read

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[CellBatch]:
        for _, batch in read_ahead(self._parts, self._read):
            yield batch


class AsDrawn(Dataset[Any]):
    """What the sampler draws is what the loader gives."""

    def __getitem__(self, drawn: Any) -> Any:
        return drawn


class MinibatchLoader(DataLoader[CellBatch]):
    """The minibatches of an epoch; a checkpoint holds how many of them are done, so that training goes on within an epoch.

    Parameters
    ----------
    dataset, sampler
        What is drawn, and the order.
    n_done
        Says how many minibatches of the epoch training has had.
    """

    def __init__(self, dataset: Dataset[Any], sampler: EpochSampler[Any], n_done: Callable[[], int]) -> None:
        super().__init__(dataset, batch_size=None, sampler=sampler, collate_fn=as_it_is)
        self._order = sampler
        self._n_done = n_done

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint holds."""
        return {"n_done": self._n_done()}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Begin the next epoch after the minibatches that are done."""
        self._order.skip(state_dict["n_done"])


def as_it_is(item: Any) -> Any:
    """For a loader, which else would look into each item for arrays to make tensors of."""
    return item
