"""Division of rows into chunks."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["chunks"]


def chunks(n_cells: int, chunk_size: int) -> Iterator[slice]:
    """Yield consecutive slices of at most `chunk_size` rows that cover each cell once."""
    for start in range(0, n_cells, chunk_size):
        yield slice(start, min(start + chunk_size, n_cells))
