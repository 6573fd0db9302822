"""The folder of the real cells, and the real cells from which others are drawn."""

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
    """Return the folder of the data sets; exit with a message if there is none."""
    data = Path(os.environ.get("SCALEX_DATA", SHARED / "data"))
    if not data.is_dir():
        sys.exit(f"No such folder: {data}. Set SCALEX_DATA to the folder that holds the data sets.")
    return data


def cells_to_draw(*, tiny: bool) -> ad.AnnData:
    """Return cells to draw from, with counts in X and with obs["batch"].

    Parameters
    ----------
    tiny
        Return a few demo cells instead of the real ones of ``hemato_tusi.h5ad``.
    """
    return demo_cells(300, 500, 2) if tiny else ad.read_h5ad(data_folder() / "hemato_tusi.h5ad")
