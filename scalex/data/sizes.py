"""How much of cells that stay in their files is in memory at a time."""

from __future__ import annotations

from typing import NamedTuple

import psutil

__all__ = ["StreamSizes", "free_share", "stream_sizes"]

# A buffer has at least so many minibatches, and if there is memory for them, rows.
BUFFER_MINIBATCHES = 64
BUFFER_ROWS = 32_768
# Rows that are in memory as they come from the source, with all their features.
PIECE_ROWS = 4096
LEAST_PIECE_ROWS = 64
# Bytes of a stored value with its column, and how often a piece is there while it is read and preprocessed.
VALUE_BYTES = 8
COPIES = 4
# A buffer is in use while the next is read, and a buffer is there twice while it is put together.
BUFFERS = 3
# Of the memory that is free.
SHARE = 4


class StreamSizes(NamedTuple):
    """Sizes of what is read.

    Attributes
    ----------
    buffer_minibatches
        Minibatches of a buffer.
    piece_rows
        Rows read at a time.
    megabytes
        Memory that this takes, about.
    """

    buffer_minibatches: int
    piece_rows: int
    megabytes: float


def free_share() -> float:
    """The memory that reading may take if nothing else is said, in GB: a quarter of what is free."""
    return float(psutil.virtual_memory().available) / SHARE / 1e9


def stream_sizes(values: float, used: float, batch_size: int, memory_gb: float) -> StreamSizes:
    """Sizes for which the memory is enough.

    Parameters
    ----------
    values, used
        Stored values of a cell: all, and those that the model gets.
    batch_size
        Cells of a minibatch.
    memory_gb
        Memory, in GB.

    Raises
    ------
    ValueError
        If it is too little for the smallest buffer.
    """
    piece_row, buffer_row = COPIES * VALUE_BYTES * max(values, 1), BUFFERS * VALUE_BYTES * max(used, 1)
    least = (LEAST_PIECE_ROWS * piece_row + BUFFER_MINIBATCHES * batch_size * buffer_row) / 1e9
    if memory_gb < least:
        raise ValueError(
            f"memory_gb={memory_gb:g} is too little to read minibatches of {batch_size} cells with {values:,.0f} values each: at least "
            f"{least:.3g} GB are needed. Raise dataset.memory_gb, or lower model.batch_size."
        )
    rows = max(BUFFER_ROWS, BUFFER_MINIBATCHES * batch_size)
    piece_rows = int(min(max(memory_gb * 1e9 / 2 // piece_row, LEAST_PIECE_ROWS), PIECE_ROWS))
    rows = min(rows, int((memory_gb * 1e9 - piece_rows * piece_row) // buffer_row))
    minibatches = max(rows // batch_size, BUFFER_MINIBATCHES)
    return StreamSizes(minibatches, piece_rows, (piece_rows * piece_row + minibatches * batch_size * buffer_row) / 1e6)
