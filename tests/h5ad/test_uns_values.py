from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np

from scalex.h5ad.uns_values import convert_to_uns


def test_values_of_any_name_can_be_written(tmp_path: Path) -> None:
    names = ["", ".", "..", "../a", "a/b", "a|b", " ", "nan", "\n", "a\0b", "bad \udcff"]
    values = {name: {"n": i, "list": ["\udcff", 1], "path": Path("x"), "nothing": None} for i, name in enumerate(names)}
    ad.AnnData(np.ones((1, 1)), uns={"own": convert_to_uns(values)}).write_h5ad(tmp_path / "cells.h5ad")
    written = ad.read_h5ad(tmp_path / "cells.h5ad").uns["own"]
    expected = ['""', '"."', '".."', "..|a", "a|b", "a|b-1", " ", "nan", "\n", "ab", "bad ?"]
    assert {name: value["n"] for name, value in written.items()} == {name: i for i, name in enumerate(expected)}
    assert all(list(value["list"]) == ["?", "1"] and value["path"] == "x" and "nothing" not in value for value in written.values())
