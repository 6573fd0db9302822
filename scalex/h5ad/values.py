"""Values of an .h5ad file that stand one after the other, read from where they lie in it.

HDF5 reads for one thread at a time, and copies each chunk twice. Where the values lie as they are, or deflated, they are read past it:
two to three times as fast, by as many threads as there are.
"""

from __future__ import annotations

import os
import zlib
from typing import Any, NamedTuple, Protocol, Self

import h5py
import numpy as np
from h5py import h5d, h5t, h5z
from numpy.typing import NDArray

__all__ = ["GAP", "StoredValues"]

# Values that are read although nobody asked for them, where that spares a read: so many are copied as fast as a read begins.
GAP = 4096

# What was done to the bytes of a chunk, one after the other, where it can be undone here.
READABLE: tuple[list[int], ...] = ([], [h5z.FILTER_DEFLATE], [h5z.FILTER_SHUFFLE, h5z.FILTER_DEFLATE])


class _File(Protocol):
    def open(self) -> h5py.File: ...

    def descriptor(self) -> int: ...


class _Layout(NamedTuple):
    """Where the chunks of a dataset lie in its file.

    Attributes
    ----------
    chunk
        Values of a chunk; of the last one some may be past the end.
    at
        (n_chunks,) int64, byte of the file at which each chunk begins.
    size
        (n_chunks,) int64, bytes of each.
    deflated, shuffled
        What was done to a chunk's bytes: they are grouped by their place in a value, then compressed.
    """

    chunk: int
    at: NDArray[np.int64]
    size: NDArray[np.int64]
    deflated: bool
    shuffled: bool

    @classmethod
    def of(cls, dataset: h5py.Dataset) -> Self | None:
        """That of a dataset; None where HDF5 has to read it."""
        file, plan = dataset.file, dataset.id.get_create_plist()
        readable = hasattr(os, "preadv") and file.driver == "sec2" and file.userblock_size == 0
        plain = dataset.dtype.kind in "biuf" and dataset.id.get_type() == h5t.py_create(dataset.dtype, logical=True)
        if not (readable and plain and dataset.ndim == 1 and dataset.size):
            return None
        if plan.get_layout() == h5d.CONTIGUOUS and plan.get_external_count() == 0:
            at = dataset.id.get_offset()
            return None if at is None else cls(dataset.size, np.array([at]), np.array([dataset.nbytes]), False, False)
        filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
        if plan.get_layout() != h5d.CHUNKED or filters not in READABLE:
            return None
        found: list[tuple[int, int, int, int]] = []
        dataset.id.chunk_iter(lambda chunk: found.append((chunk.chunk_offset[0], chunk.byte_offset, chunk.size, chunk.filter_mask)))
        first, at, size, skipped = np.array(sorted(found), np.int64).reshape(-1, 4).T
        (chunk,) = dataset.chunks
        # Chunks that were never written are not there.
        if skipped.any() or not np.array_equal(first, np.arange(0, dataset.size, chunk)):
            return None
        return cls(chunk, at, size, h5z.FILTER_DEFLATE in filters, h5z.FILTER_SHUFFLE in filters)


class StoredValues:
    """A dataset of numbers, read in runs of its first axis. Several threads may read at once.

    Parameters
    ----------
    file
        The file.
    name
        Where in it the dataset is.

    Attributes
    ----------
    dtype : dtype
        Type of the values.
    shape : tuple of int
        Of the dataset.
    gap : int
        Values that are rather read in vain than left out between two reads.
    """

    gap = GAP

    def __init__(self, file: _File, name: str) -> None:
        self._file, self._name = file, name
        dataset = file.open()[name]
        self.dtype: np.dtype[Any] = dataset.dtype
        self.shape: tuple[int, ...] = dataset.shape
        self._layout = _Layout.of(dataset)

    def read_direct(self, values: NDArray[Any], part: slice) -> None:
        """Put a run of the values into an array of their type and shape.

        Raises
        ------
        OSError
            The file is damaged.
        """
        if self._layout is None:
            self._file.open()[self._name].read_direct(values, part)
        elif self._layout.deflated:
            self._inflate(values, part, self._layout)
        else:
            self._copy(values, part, self._layout)

    def _copy(self, values: NDArray[Any], part: slice, layout: _Layout) -> None:
        first, last = part.start // layout.chunk, (part.stop - 1) // layout.chunk
        at, bytes_of_chunk = layout.at[first : last + 1], layout.chunk * self.dtype.itemsize
        # Chunks that lie one after the other in the file are read at once.
        for together in np.split(np.arange(first, last + 1), np.flatnonzero(np.diff(at) != bytes_of_chunk) + 1):
            start = int(together[0]) * layout.chunk
            own = slice(max(start, part.start), min((int(together[-1]) + 1) * layout.chunk, part.stop))
            skipped = (own.start - start) * self.dtype.itemsize
            self._bytes_into(values[own.start - part.start : own.stop - part.start], int(layout.at[together[0]]) + skipped)

    def _inflate(self, values: NDArray[Any], part: slice, layout: _Layout) -> None:
        itemsize = self.dtype.itemsize
        for i in range(part.start // layout.chunk, (part.stop - 1) // layout.chunk + 1):
            stored = np.empty(layout.size[i], np.uint8)
            self._bytes_into(stored, int(layout.at[i]))
            try:
                inflated = np.frombuffer(zlib.decompress(stored.data, bufsize=layout.chunk * itemsize), np.uint8)
            except zlib.error as error:
                raise OSError(str(error)) from error
            if len(inflated) != layout.chunk * itemsize:
                raise OSError(f"chunk {i} of {self._name} has {len(inflated)} bytes instead of {layout.chunk * itemsize}")
            if layout.shuffled:
                inflated = inflated.reshape(itemsize, -1).T.reshape(-1)
            start = i * layout.chunk
            own = slice(max(start, part.start), min(start + layout.chunk, part.stop))
            values[own.start - part.start : own.stop - part.start] = inflated.view(self.dtype)[own.start - start : own.stop - start]

    def _bytes_into(self, values: NDArray[Any], at: int) -> None:
        """Fill an array with what stands in the file from a byte on."""
        left, descriptor = values.view(np.uint8).data, self._file.descriptor()
        while len(left):
            n_read = os.preadv(descriptor, [left], at)
            if n_read == 0:
                raise OSError(f"the file ends at byte {at}")
            left, at = left[n_read:], at + n_read
