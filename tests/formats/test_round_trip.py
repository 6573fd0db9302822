from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from anndata import AnnData
from formats.written import WRITERS, write_text
from tables import assert_same_table

from scalex.cells import AnnDataSource
from scalex.formats import read_cells


@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_read_can_be_written(few: AnnData, tmp_path: Path, kind: str) -> None:
    cells = read_cells(WRITERS[kind](few.copy(), tmp_path))
    for index in (cells.obs.index, cells.var.index):
        assert index.dtype == object
        assert index.name in (None, "obs_names", "var_names")
    cells.write_h5ad(tmp_path / "written.h5ad")
    written = ad.read_h5ad(tmp_path / "written.h5ad")
    np.testing.assert_array_equal(written.X.toarray(), few.X.toarray())
    for found, expected in ((written.obs, cells.obs), (written.var, cells.var)):
        assert_same_table(found, expected)


def test_transpose_reads_text_with_a_row_for_each_cell(counts: AnnData, tmp_path: Path) -> None:
    path = write_text(counts, tmp_path / "cells.csv", ",", transposed=True)
    cells = AnnDataSource(path=path, transpose=True).open()
    assert list(cells.var.index) == list(counts.var_names)
    np.testing.assert_array_equal(cells.read(slice(None)).toarray(), counts.X.toarray())


def test_a_list_may_mix_formats(counts: AnnData, tmp_path: Path) -> None:
    parts = [counts[start : start + 60] for start in range(0, 300, 60)]
    kinds = ["h5ad", "csv.gz", "10x new", "h5mu"]
    paths: list[Any] = []
    for kind, part in zip(kinds, parts[:4], strict=True):
        folder = tmp_path / kind
        folder.mkdir()
        paths.append(WRITERS[kind](part.copy(), folder))
    cells = AnnDataSource(path=[*paths, parts[-1]]).open()
    assert list(cells.domain.categories) == sorted(["h5ad", "csv.gz", "new", "cells-rna", "4"])
    np.testing.assert_array_equal(cells.read(slice(None)).toarray(), counts.X.toarray())
