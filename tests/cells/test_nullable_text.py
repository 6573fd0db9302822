"""Files of pandas 3, whose text may be missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, settings
from formats.written import write_h5ad, write_zarr

from scalex.cells import AnnDataSource


def to_nullable(values: Any) -> Any:
    return pd.array(list(values), dtype="string")


@pytest.fixture
def cells(demo: AnnData) -> AnnData:
    n = demo.n_obs
    demo.obs["text"] = to_nullable(f"note {i}" for i in range(n))
    # The first chunks have no missing value.
    demo.obs["partly"] = to_nullable(None if i > 200 else f"kind {i % 3}" for i in range(n))
    demo.obs["category"] = pd.Categorical(to_nullable(f"kind {i % 3}" for i in range(n)))
    demo.obs.index = pd.Index(to_nullable(demo.obs_names))
    demo.var.index = pd.Index(to_nullable(demo.var_names))
    return demo


@pytest.mark.parametrize("write", [write_h5ad, write_zarr])
def test_nullable_text_is_read_in_pieces(
    cells: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[AnnData, Path], Path]
) -> None:
    monkeypatch.setattr("scalex.cells.file_obs.CHUNK_ROWS", 70)
    path = tmp_path / f"cells.{write.__name__.removeprefix('write_')}"
    with settings.override(allow_write_nullable_strings=True):
        write(cells, path)
    backed = AnnDataSource(path=path, backed=True, batch_key="batch").open()
    assert not backed.in_memory
    in_memory = AnnDataSource(path=path, batch_key="batch").open()
    assert backed.obs.index.dtype == object
    assert list(backed.obs.index) == list(in_memory.obs.index)
    assert list(backed.var.index) == list(in_memory.var.index)
    assert list(backed.domain) == list(in_memory.domain)
    np.testing.assert_array_equal(backed.read(slice(None)).toarray(), in_memory.read(slice(None)).toarray())
    for rows in (slice(None), slice(0, 50), slice(250, 300)):
        found = backed.read_obs(rows)
        assert found["text"].dtype == object
        assert list(found["text"]) == list(cells.obs["text"].iloc[rows])
        for name in ("partly", "category"):
            assert list(found[name].cat.categories) == ["kind 0", "kind 1", "kind 2"]
            assert found[name].cat.categories.dtype == object
        assert list(found["partly"].isna()) == list(cells.obs["partly"].iloc[rows].isna())
        assert list(found["partly"].dropna()) == list(cells.obs["partly"].iloc[rows].dropna())
