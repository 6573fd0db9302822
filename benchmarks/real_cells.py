"""Where the real cells are, and those of which many are drawn."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anndata as ad

from benchmarks.provenance import ROOT
from scalex.demo import demo_cells

__all__ = ["SHARED", "cells_to_draw", "data_folder"]

SHARED = ROOT.parent / "shared"


def data_folder() -> Path:
    """The folder that holds the data sets; where there is none, the command stops and says so."""
    data = Path(os.environ.get("SCALEX_DATA", SHARED / "data"))
    if not data.is_dir():
        sys.exit(f"No such folder: {data}. Set SCALEX_DATA to the folder that holds the data sets.")
    return data


def cells_to_draw(*, tiny: bool) -> ad.AnnData:
    """Cells to draw from: counts in X, obs["batch"].

    Parameters
    ----------
    tiny
        A few made ones, and not the real ones of ``hemato_tusi.h5ad``.
    """
    return demo_cells(300, 500, 2) if tiny else ad.read_h5ad(data_folder() / "hemato_tusi.h5ad")
