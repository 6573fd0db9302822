"""Compute latents of cells with scVI or scANVI.

`benchmarks/quality/peers.py` runs this with the interpreter that has scvi-tools (1.4).

usage: python -I scvi.py CELLS.h5ad LATENTS.npz SEED [labels]

CELLS.h5ad holds counts of the input features, and obs["batch"]. With "labels", scANVI then learns from obs["label"], where "unknown"
means no label. LATENTS.npz gets "names" (n_cells,), "latent" (n_cells, 30) and "seconds", the processor time of the training.
"""

from __future__ import annotations

import os

# These are set before the imports, since libraries read them when they are loaded.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"

import sys
import warnings
from time import process_time

import anndata as ad
import numpy as np
import scvi  # type: ignore
import torch


def main(cells: str, latents: str, seed: int, *, labels: bool) -> None:
    """Train with the settings of integration benchmarks (2 layers, 30 latent dimensions, negative binomial) and defaults otherwise."""
    torch.set_num_threads(1)
    scvi.settings.seed = seed
    adata = ad.read_h5ad(cells)
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.model.SCVI(adata, n_layers=2, n_latent=30, gene_likelihood="nb")
    start = process_time()
    model.train(accelerator="cpu", enable_progress_bar=False)
    if labels:
        model = scvi.model.SCANVI.from_scvi_model(model, unlabeled_category="unknown", labels_key="label")
        # These are the settings of its tutorials and benchmarks.
        model.train(max_epochs=20, n_samples_per_label=100, accelerator="cpu", enable_progress_bar=False)
    seconds = process_time() - start
    np.savez(latents, names=adata.obs_names.to_numpy(str), latent=model.get_latent_representation(), seconds=seconds)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), labels="labels" in sys.argv[4:])
