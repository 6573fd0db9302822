"""Values of many cells that wait in a file until they are written with the results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scalex.system.atomic_files import explain_full_disk

__all__ = ["KeptRows"]


class KeptRows:
    """A table of float32 in a file; of it nothing stays in memory, and several processes may write their own rows at once.

    Parameters
    ----------
    path
        The file.
    n_columns
        Of the table.
    """

    def __init__(self, path: Path, n_columns: int) -> None:
        self._path = path
        self._n_columns = n_columns

    def write(self, first: int, values: NDArray[np.float32]) -> None:
        """Keep (n_rows, n_columns) values, those of the rows from `first` on.

        Raises
        ------
        OSError
            If there is no room for them.
        """
        with explain_full_disk(self._path):
            self._path.touch()
            with self._path.open("r+b") as file:
                file.seek(first * self._row_bytes)
                file.write(np.ascontiguousarray(values, np.float32).tobytes())

    def read(self, rows: slice) -> NDArray[np.float32]:
        """The values of a run of rows, (n_rows, n_columns)."""
        n_values = (rows.stop - rows.start) * self._n_columns
        found = np.fromfile(self._path, np.float32, n_values, offset=rows.start * self._row_bytes)
        return found.reshape(-1, self._n_columns)

    def remove(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)

    @property
    def _row_bytes(self) -> int:
        return 4 * self._n_columns
