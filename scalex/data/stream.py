"""Minibatches of cells in memory, or of cells that are read buffer by buffer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch.utils.data import DataLoader, Dataset

from scalex.data.buffers import Buffer, plan_buffers
from scalex.data.sampling import EpochSampler
from scalex.nn.batch import CellBatch, Sampling
from scalex.nn.sparse_rows import SparseRows
from scalex.nn.transfer import copy_aside, send, wait_for
from scalex.system.read_ahead import read_ahead

__all__ = ["PassThrough", "ChunkLoader", "MinibatchLoader", "InputDataset", "StreamSampler", "return_unchanged"]


class InputDataset(Dataset[CellBatch]):
    """Inputs of cells in memory. Indexing with an array of rows gives one minibatch.

    Parameters
    ----------
    matrix
        (n_cells, n_features) CSR float32 in [0, 1].
    domain
        (n_cells,) domain codes.

    Attributes
    ----------
    copy : SparseRows or None
        The matrix in the memory of a GPU. Minibatches are then gathered there.
    """

    def __init__(self, matrix: sparse.csr_matrix, domain: NDArray[np.int64]) -> None:
        self.matrix = matrix
        self.domain = domain
        self.copy: SparseRows | None = None

    def __len__(self) -> int:
        return len(self.domain)

    def __getitem__(self, rows: NDArray[np.int64]) -> CellBatch:
        domain_C, row_C = torch.from_numpy(self.domain[rows]), torch.from_numpy(rows)
        if self.copy is None:
            return CellBatch(SparseRows.of(self.matrix[rows]), domain_C, row_C)
        row_C = send(row_C, self.copy.value_N.device)
        n_values = int((self.matrix.indptr[rows + 1] - self.matrix.indptr[rows]).sum())
        return CellBatch(self.copy.take(row_C, n_values), domain_C, row_C)

    @property
    def n_bytes(self) -> int:
        """Size of the matrix in memory."""
        return sum(part.nbytes for part in SparseRows.of(self.matrix).parts)


class StreamSampler(EpochSampler[CellBatch]):
    """Sampler that draws minibatches with their inputs, buffer by buffer. A thread reads the next buffer while one is in use.

    Parameters
    ----------
    domain, batch_size, sampling, seed
        As in `EpochSampler`.
    read
        Function that returns the inputs, (len(rows), n_features) CSR float32, of ascending rows.
    run_rows, buffer_minibatches
        As in `scalex.data.plan_buffers`.

    Attributes
    ----------
    device : torch.device
        Where buffers are gathered into minibatches.
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
        self.device = torch.device("cpu")

    def _draw(self, rng: np.random.Generator, n_skipped: int) -> Iterator[CellBatch]:
        plan = plan_buffers(
            self._domain,
            self._batch_size,
            self._sampling,
            rng,
            run_rows=self._run_rows,
            buffer_minibatches=self._buffer_minibatches,
            process=self._process,
            n_processes=self._n_processes,
        )
        for buffer, (cells, copied) in read_ahead(_skip_first(plan, n_skipped), self._load):
            if cells.copy is not None and copied is not None:
                wait_for(copied, cells.copy.parts)
            for position in buffer.minibatches:
                yield cells[position]._replace(row_C=torch.from_numpy(buffer.rows[position]))

    def _load(self, buffer: Buffer) -> tuple[InputDataset, torch.cuda.Event | None]:
        """Read a buffer, and begin to copy it to a GPU if there is one."""
        cells, copied = InputDataset(self._read(buffer.rows), self._domain[buffer.rows]), None
        if self.device.type == "cuda":
            cells.copy, copied = copy_aside(lambda: SparseRows.of(cells.matrix).to(self.device), self.device)
        return cells, copied


def _skip_first(plan: Iterable[Buffer], n_minibatches: int) -> Iterator[Buffer]:
    """Yield the buffers without the first minibatches. Buffers left empty are dropped and not read."""
    for buffer in plan:
        left = buffer.minibatches[n_minibatches:]
        n_minibatches = max(n_minibatches - len(buffer.minibatches), 0)
        if left:
            yield Buffer(buffer.rows, left)


class ChunkLoader(Iterable[CellBatch]):
    """Loader of cells chunk by chunk, in order. A thread reads the next chunk while one is in use.

    Parameters
    ----------
    chunks
        Rows of each chunk.
    read
        Function that reads one chunk.
    """

    def __init__(self, chunks: Sequence[slice], read: Callable[[slice], CellBatch]) -> None:
        self._chunks = chunks
        self._read = read

    def __len__(self) -> int:
        return len(self._chunks)

    def __iter__(self) -> Iterator[CellBatch]:
        for _, batch in read_ahead(self._chunks, self._read):
            yield batch


class PassThrough(Dataset[Any]):
    """Dataset that returns what the sampler draws."""

    def __getitem__(self, drawn: Any) -> Any:
        return drawn


class MinibatchLoader(DataLoader[CellBatch]):
    """Loader of the minibatches of an epoch. A checkpoint stores how many are done, so that training resumes within an epoch.

    Parameters
    ----------
    dataset, sampler
        The cells, and the sampler of their order.
    n_done
        Function that returns the number of minibatches of the epoch that training has used.
    """

    def __init__(self, dataset: Dataset[Any], sampler: EpochSampler[Any], n_done: Callable[[], int]) -> None:
        super().__init__(dataset, batch_size=None, sampler=sampler, collate_fn=return_unchanged)
        self._order = sampler
        self._n_done = n_done

    def state_dict(self) -> dict[str, int]:
        """Return the state for a checkpoint."""
        return {"n_done": self._n_done()}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Start the next epoch after the minibatches that are done."""
        self._order.skip(state_dict["n_done"])


def return_unchanged(item: Any) -> Any:
    """Return the item. As `collate_fn` this stops the loader from searching each item for arrays to convert."""
    return item
