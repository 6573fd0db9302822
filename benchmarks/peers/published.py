"""Compute latents of cells with the published package.

`benchmarks/quality/peers.py` runs this with the interpreter that has the package (``scalex==1.0.4``, NumPy 1).

usage: python -I published.py CELLS.h5ad LATENTS.npz SEED MIN_FEATURES [processed] [short]

CELLS.h5ad holds counts, or with "processed" preprocessed values, and obs["batch"]. LATENTS.npz gets "names" (n_cells,), "latent"
(n_cells, 10) and "seconds", the processor time of the whole run. "short" trains 300 steps, for measurements of memory.
"""

from __future__ import annotations

import os

# These are set before the imports, since libraries read them when they are loaded.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"
os.environ["TQDM_DISABLE"] = "1"

import logging
import sys
import warnings
from tempfile import TemporaryDirectory
from time import process_time

import numpy as np
import torch

from scalex import SCALEX


def main(cells: str, latents: str, seed: int, min_features: int, *, processed: bool, max_iteration: int) -> None:
    """Train with the paper's settings, which are the package's defaults, and without UMAP."""
    torch.set_num_threads(1)
    start = process_time()
    with TemporaryDirectory() as folder:
        # Early stopping needs a folder. There are no worker processes, since their time would not be counted.
        adata = SCALEX(
            [cells],
            batch_name="batch",
            min_features=min_features,
            n_top_features=2000,
            processed=processed,
            seed=seed,
            max_iteration=max_iteration,
            outdir=folder,
            ignore_umap=True,
            show=False,
            eval=False,
            num_workers=0,
        )
    seconds = process_time() - start
    np.savez(latents, names=adata.obs_names.to_numpy(str), latent=adata.obsm["latent"], seconds=seconds)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    options = sys.argv[5:]
    main(
        *sys.argv[1:3],
        int(sys.argv[3]),
        int(sys.argv[4]),
        processed="processed" in options,
        max_iteration=300 if "short" in options else 30_000,
    )
