"""Measure the cells per second of the published package's embedding.

`benchmarks/projection.py` runs this with the interpreter that has the published package (``scalex==1.0.4``).

usage: python -I published_embed.py CELLS.h5ad

CELLS.h5ad holds the inputs of the model, X scaled to [0, 1], and obs["batch"]. The output is one line of JSON.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from time import perf_counter

import anndata as ad
import torch
from scalex.net.vae import VAE  # type: ignore
from torch.utils.data import DataLoader

from scalex.data import SingleCellDataset  # type: ignore

BATCH_SIZE = 64


def main(path: str) -> None:
    """Embed preprocessed cells as `scalex.function.SCALEX` of the published package does."""
    torch.set_num_threads(1)
    adata = ad.read_h5ad(path)
    adata.obs["batch"] = adata.obs["batch"].astype("category")
    n_domains = len(adata.obs["batch"].cat.categories)
    encoder = [["fc", 1024, 1, "relu"], ["fc", 10, "", ""]]
    decoder = [["fc", adata.shape[1], n_domains, "sigmoid"]]
    model = VAE(encoder, decoder, n_domain=n_domains)
    model.encodeBatch(DataLoader(SingleCellDataset(adata[:BATCH_SIZE].copy()), batch_size=BATCH_SIZE), device="cpu", eval=True)
    loader = DataLoader(SingleCellDataset(adata), batch_size=BATCH_SIZE, shuffle=False, num_workers=0)
    start = perf_counter()
    model.encodeBatch(loader, device="cpu", eval=True)
    cells_per_second = adata.n_obs / (perf_counter() - start)
    print(json.dumps({"cells_per_second": cells_per_second, "scalex": version("scalex"), "torch": torch.__version__}))


if __name__ == "__main__":
    main(sys.argv[1])
