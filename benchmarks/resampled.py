"""Many cells drawn from a few real ones, and the memory that a command needs."""

from __future__ import annotations

import resource
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import anndata as ad
import h5py
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scalex.h5ad.block_writer import BlockWriter

__all__ = ["draw_cells", "peak_memory", "peak_memory_here", "write_resampled"]

BLOCK = 10_000
# The unit, in bytes, of the memory that the system reports.
UNIT = 1 if sys.platform == "darwin" else 1024


def draw_cells(real: ad.AnnData, matrix: sparse.csr_matrix, rows: NDArray[np.int64], first: int = 0) -> ad.AnnData:
    """Return cells drawn from real ones, perhaps several times, under new names.

    Parameters
    ----------
    real
        The real cells, with obs["batch"].
    matrix
        Counts of the real cells.
    rows
        Rows of the drawn cells.
    first
        Number in the name of the first cell.
    """
    obs = real.obs[["batch"]].iloc[rows].set_axis([f"cell-{first + i}" for i in range(len(rows))])
    return ad.AnnData(matrix[rows], obs=obs, var=real.var[[]])


def write_resampled(
    real: ad.AnnData, n_cells: int, path: Path, *, seed: int = 124, first: int = 0, compression: Literal["gzip"] | None = None
) -> None:
    """Write `n_cells` cells drawn from real ones to an .h5ad file, block by block.

    Parameters
    ----------
    real
        The real cells, with counts in X and with obs["batch"].
    n_cells
        Number of cells to draw.
    path
        The file.
    seed
        Seed of the draw.
    first
        Number in the name of the first cell.
    compression
        Compression of all datasets.
    """
    rng = np.random.default_rng(seed)
    matrix = sparse.csr_matrix(real.X, dtype=np.float32)
    with h5py.File(path, "w") as file:
        writer = BlockWriter(file, compression=compression)
        for start in range(0, n_cells, BLOCK):
            rows = rng.integers(real.n_obs, size=min(BLOCK, n_cells - start))
            writer.append(draw_cells(real, matrix, rows, first + start))


def peak_memory(command: Sequence[str]) -> float:
    """Return the peak resident memory, in MB, of a command that runs in its own process.

    Parameters
    ----------
    command
        The program and its arguments.

    Raises
    ------
    subprocess.CalledProcessError
        If the command fails; `stderr` holds its output.
    """
    program = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], stderr=subprocess.PIPE, text=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(done.stderr[-3000:] if done.returncode else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1]) * UNIT / 1e6


def peak_memory_here(script: Path, arguments: Sequence[str]) -> float:
    """Run a script in this process and return the peak resident memory, in MB, of the process so far.

    Parameters
    ----------
    script
        A Python script.
    arguments
        Its arguments.
    """
    with patch.object(sys, "argv", [str(script), *arguments]):
        runpy.run_path(str(script), run_name="__main__")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT / 1e6
