"""A temporary table in a file, for values that are written with the results later."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scalex.system.atomic_files import explain_full_disk

__all__ = ["ScratchTable"]


class ScratchTable:
    """Table of float32 in a file. Nothing stays in memory, and several processes may write their own rows at the same time.

    Parameters
    ----------
    path
        The file.
    n_columns
        Number of columns.
    """

    def __init__(self, path: Path, n_columns: int) -> None:
        self._path = path
        self._n_columns = n_columns

    def write(self, first: int, values: NDArray[np.float32]) -> None:
        """Write (n_rows, n_columns) values to the rows from `first` on.

        Raises
        ------
        OSError
            If the disk has no space for them.
        """
        with explain_full_disk(self._path):
            self._path.touch()
            with self._path.open("r+b") as file:
                file.seek(first * self._row_bytes)
                file.write(np.ascontiguousarray(values, np.float32).tobytes())

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        """Read the values of a run of rows or of single rows, (n_rows, n_columns)."""
        return np.array(np.memmap(self._path, np.float32, "r").reshape(-1, self._n_columns)[rows])

    def remove(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)

    @property
    def _row_bytes(self) -> int:
        return 4 * self._n_columns
