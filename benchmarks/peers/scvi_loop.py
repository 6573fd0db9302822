"""Measure the cells per second of scVI's training.

`benchmarks/gpu.py` runs this with the interpreter that has scvi-tools (1.4).

usage: python -I scvi_loop.py CELLS.h5ad EPOCHS BATCH_SIZE DEVICE

CELLS.h5ad holds layers["counts"] and obs["batch"]; DEVICE is "cpu" or "cuda". The output is one line of JSON.
"""

from __future__ import annotations

import json
import sys
import warnings
from importlib.metadata import version
from time import perf_counter
from typing import Any

import anndata as ad
import scvi  # type: ignore
import torch
from lightning.pytorch import Callback


class EpochClock(Callback):
    """Record the time at which each epoch ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Record the time."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(perf_counter())


def main(path: str, epochs: int, batch_size: int, device: str) -> None:
    """Train with the settings of integration benchmarks (2 layers, 30 latent dimensions), one epoch and then `epochs` that count."""
    if device == "cpu":
        torch.set_num_threads(1)
    scvi.settings.seed = 124
    adata = ad.read_h5ad(path)
    scvi.model.SCVI.setup_anndata(adata, layer="counts", batch_key="batch")
    model = scvi.model.SCVI(adata, n_layers=2, n_latent=30, gene_likelihood="nb")
    clock, accelerator = EpochClock(), "gpu" if device == "cuda" else "cpu"
    model.train(
        max_epochs=epochs + 1, batch_size=batch_size, train_size=1.0, accelerator=accelerator, enable_progress_bar=False, callbacks=[clock]
    )
    cells_per_second = epochs * adata.n_obs / (clock.ends[-1] - clock.ends[0])
    print(json.dumps({"cells_per_second": cells_per_second, "scvi-tools": version("scvi-tools"), "torch": torch.__version__}))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
