"""Compute latents of reference and query cells with `scvi.model.SCVI.load_query_data`.

`benchmarks/label_transfer.py` runs this with the interpreter that has scvi-tools (1.4).

usage: python -I scvi_query.py REFERENCE.h5ad QUERY.h5ad LATENTS.npz SEED

Both files hold counts of the same features, and obs["batch"]. LATENTS.npz gets the arrays "reference" and "query", (n_cells, 10).
"""

from __future__ import annotations

import sys
import warnings

import anndata as ad
import numpy as np
import scvi  # type: ignore
import torch


def main(reference: str, query: str, latents: str, seed: int) -> None:
    """Train on the reference with the defaults of scvi-tools, and adapt to the query as in its tutorials (200 epochs, no weight decay)."""
    torch.set_num_threads(1)
    scvi.settings.seed = seed
    known, new = ad.read_h5ad(reference), ad.read_h5ad(query)
    scvi.model.SCVI.setup_anndata(known, batch_key="batch")
    model = scvi.model.SCVI(known)
    model.train(accelerator="cpu", enable_progress_bar=False)
    scvi.model.SCVI.prepare_query_anndata(new, model)
    adapted = scvi.model.SCVI.load_query_data(new, model)
    adapted.train(max_epochs=200, plan_kwargs={"weight_decay": 0.0}, accelerator="cpu", enable_progress_bar=False)
    np.savez(latents, reference=model.get_latent_representation(known), query=adapted.get_latent_representation(new))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
