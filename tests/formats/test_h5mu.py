from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from formats.damaged import assert_refused, open_cells
from formats.written import make_mudata

from scalex.formats import read_cells


@pytest.fixture
def path(few: AnnData, tmp_path: Path) -> Path:
    """Fewer cells of proteins, in another order."""
    rna = few.copy()
    rna.obs["kind"] = [f"own {i}" for i in range(30)]
    adt = AnnData(few.X[:20][::-1, :5].copy(), obs=few.obs[:20][::-1].copy(), var=few.var.iloc[:5].set_axis([f"p{i}" for i in range(5)]))
    data = make_mudata({"adt": adt, "rna": rna})
    data.obs["sample"] = pd.Categorical([f"s{list(few.obs_names).index(name) % 3}" for name in data.obs_names])
    data.obs["kind"], data.obs["rna:copy"] = "whole", "copy"
    data.write(tmp_path / "cells.h5mu")
    return tmp_path / "cells.h5mu"


@pytest.mark.parametrize(("modality", "rows"), [("rna", slice(None)), ("adt", slice(19, None, -1))])
@pytest.mark.parametrize("has_map", [True, False])
def test_columns_of_all_cells_are_added_to_those_of_a_modality(few: AnnData, path: Path, modality: str, rows: slice, has_map: bool) -> None:
    if not has_map:
        with h5py.File(path, "a") as file:
            del file["obsmap"]
    found = read_cells(path / modality)
    assert list(found.obs_names) == list(few.obs_names[rows])
    assert list(found.obs["sample"]) == [f"s{i % 3}" for i in np.arange(30)[rows]]
    assert list(found.obs["kind"]) == ([f"own {i}" for i in range(30)] if modality == "rna" else ["whole"] * 20)
    assert set(found.obs) == {"kind", "sample"}
    assert list(open_cells(path / modality, batch_key="sample").domain.categories) == ["s0", "s1", "s2"]


def test_a_table_of_all_cells_that_lacks_some_is_refused(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["obsmap/rna"][0] = 0
    assert_refused(path / "rna", r"is not a readable \.h5mu file \(ValueError: obs of the MuData has 29 of the 30 cells of rna\)")
