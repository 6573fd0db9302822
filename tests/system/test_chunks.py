from __future__ import annotations

import pytest

from scalex.system.chunks import chunks


@pytest.mark.parametrize(("n_cells", "chunk_size"), [(10, 3), (9, 3), (2, 5), (1, 1), (0, 4)])
def test_chunks_cover_each_cell_once_in_order(n_cells: int, chunk_size: int) -> None:
    parts = list(chunks(n_cells, chunk_size))
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(n_cells))
    assert all(0 < part.stop - part.start <= chunk_size for part in parts)
