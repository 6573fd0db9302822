"""Speed of other packages, each measured by a script of `benchmarks/peers` with an interpreter that has the package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import anndata as ad
import pandas as pd

from benchmarks.timing import Figure
from scalex import ScalexDataModule

__all__ = ["measure_loop", "write_cells"]


def write_cells(data: ScalexDataModule, path: Path) -> None:
    """Write an .h5ad file for the scripts: X, the model's inputs; layers["counts"], those of the same features; obs["batch"]."""
    domain = pd.Categorical.from_codes(data.domain, list(data.preprocessor.domains))
    obs = pd.DataFrame({"batch": domain}, index=[f"cell-{i}" for i in range(len(domain))])
    counts = data.cells.read(data.rows)[:, data.cells.var.index.get_indexer(data.preprocessor.features)]
    ad.AnnData(data.inputs(), obs=obs, layers={"counts": counts}).write_h5ad(path)


def measure_loop(option: str, interpreter: str, script: str, *arguments: object) -> Figure:
    """Return a figure: the cells per second that a script prints.

    Parameters
    ----------
    option
        The option of the command that names the interpreter.
    interpreter
        The interpreter.
    script
        File in `benchmarks/peers`, whose last line of output is JSON with "cells_per_second".
    *arguments
        Arguments of the script.
    """
    # With -I, the interpreter finds its own scalex instead of this one in PYTHONPATH or the folder.
    command = [interpreter, "-I", str(Path(__file__).parent / "peers" / script), *map(str, arguments)]

    def measure() -> float:
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.returncode != 0:
            sys.exit(f"{option} {interpreter}: {script} stopped with exit code {process.returncode}:\n{process.stderr}")
        return float(json.loads(process.stdout.splitlines()[-1])["cells_per_second"])

    return measure
