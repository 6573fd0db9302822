"""Compute latents of reference and query cells with `scvi.model.SCVI.load_query_data`.

`benchmarks/label_transfer.py` and `benchmarks/quality/peers.py` run this with the interpreter that has scvi-tools (1.4).

usage: python -I scvi_query.py REFERENCE.h5ad QUERY.h5ad LATENTS.npz SEED

Both files hold counts of the same features, and obs["batch"]. LATENTS.npz gets the arrays "reference" and "query", (n_cells, 30).
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

import anndata as ad
import numpy as np
import scvi  # type: ignore
import torch


def main(reference: str, query: str, latents: str, seed: int) -> None:
    """Train with the settings of integration benchmarks, and those for queries and the adaptation of its tutorials (scArches)."""
    torch.set_num_threads(1)
    scvi.settings.seed = seed
    known, new = ad.read_h5ad(reference), ad.read_h5ad(query)
    scvi.model.SCVI.setup_anndata(known, batch_key="batch")
    for_queries = {"use_layer_norm": "both", "use_batch_norm": "none", "encode_covariates": True, "dropout_rate": 0.2}
    model = scvi.model.SCVI(known, n_layers=2, n_latent=30, gene_likelihood="nb", **for_queries)
    model.train(accelerator="cpu", enable_progress_bar=False)
    scvi.model.SCVI.prepare_query_anndata(new, model)
    adapted = scvi.model.SCVI.load_query_data(new, model)
    adapted.train(max_epochs=200, plan_kwargs={"weight_decay": 0.0}, accelerator="cpu", enable_progress_bar=False)
    np.savez(latents, reference=model.get_latent_representation(known), query=adapted.get_latent_representation(new))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
