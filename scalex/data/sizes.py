"""The amount of data that is in memory at a time, or in that of a GPU."""

from __future__ import annotations

from typing import NamedTuple

import psutil

__all__ = ["StreamSizes", "choose_sizes", "default_memory_gb", "fits"]

# A buffer has at least this many minibatches and, if memory allows, this many rows.
BUFFER_MINIBATCHES = 64
BUFFER_ROWS = 32_768
# Rows that are read at a time, with all their features.
ROWS_PER_READ = 4096
MIN_ROWS_PER_READ = 64
# Bytes of a stored value with its column, and the number of copies while rows are read and preprocessed.
VALUE_BYTES = 8
COPIES = 4
# One buffer in use, and two copies of the next while it is assembled.
BUFFERS = 3
# Reading may take one part in four of the free memory.
FREE_MEMORY_DIVISOR = 4
# The inputs may take half of the free memory of a GPU; network, minibatches and corrections need the rest.
FREE_GPU_MEMORY_DIVISOR = 2


class StreamSizes(NamedTuple):
    """Sizes of buffers and reads.

    Attributes
    ----------
    buffer_minibatches
        Number of minibatches in a buffer.
    rows_per_read
        Number of rows read at a time.
    megabytes
        Approximate memory that they need.
    """

    buffer_minibatches: int
    rows_per_read: int
    megabytes: float


def default_memory_gb() -> float:
    """Return the default memory for reading, in GB: a quarter of the free memory."""
    return float(psutil.virtual_memory().available) / FREE_MEMORY_DIVISOR / 1e9


def fits(n_bytes: int, free: int) -> bool:
    """Return whether inputs of so many bytes may be copied into the free memory of a GPU, in bytes."""
    return n_bytes <= free // FREE_GPU_MEMORY_DIVISOR


def choose_sizes(values: float, used: float, batch_size: int, memory_gb: float) -> StreamSizes:
    """Return the largest sizes that fit into the memory, up to the defaults.

    Parameters
    ----------
    values, used
        Stored values per cell: all, and those of the input features.
    batch_size
        Number of cells in a minibatch.
    memory_gb
        Memory in GB.

    Raises
    ------
    ValueError
        If the memory is too small for the smallest buffer.
    """
    read_row, buffer_row = COPIES * VALUE_BYTES * max(values, 1), BUFFERS * VALUE_BYTES * max(used, 1)
    least = (MIN_ROWS_PER_READ * read_row + BUFFER_MINIBATCHES * batch_size * buffer_row) / 1e9
    if memory_gb < least:
        raise ValueError(
            f"memory_gb={memory_gb:g} is too small to read minibatches of {batch_size} cells with {values:,.0f} values each: this needs at "
            f"least {least:.3g} GB. Raise dataset.memory_gb, or lower model.batch_size."
        )
    rows = max(BUFFER_ROWS, BUFFER_MINIBATCHES * batch_size)
    rows_per_read = int(min(max(memory_gb * 1e9 / 2 // read_row, MIN_ROWS_PER_READ), ROWS_PER_READ))
    rows = min(rows, int((memory_gb * 1e9 - rows_per_read * read_row) // buffer_row))
    minibatches = max(rows // batch_size, BUFFER_MINIBATCHES)
    return StreamSizes(minibatches, rows_per_read, (rows_per_read * read_row + minibatches * batch_size * buffer_row) / 1e6)
