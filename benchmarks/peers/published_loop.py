"""Measure the cells per second of the published package's training loop.

`benchmarks/speed.py` and `benchmarks/gpu.py` run this with the interpreter that has the published package (``scalex==1.0.4``).

usage: python -I published_loop.py CELLS.h5ad STEPS WARM_UP BATCH_SIZE DEVICE

CELLS.h5ad holds the inputs of the model, X scaled to [0, 1], and obs["batch"]; DEVICE is "cpu" or "cuda". The output is one line of JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.metadata import version
from time import perf_counter
from typing import Any

import anndata as ad
import torch
from scalex.net.utils import EarlyStopping  # type: ignore
from scalex.net.vae import VAE  # type: ignore
from torch.utils.data import DataLoader

from scalex.data import SingleCellDataset  # type: ignore


class TimedLoader:
    """A loader that records the time of each request for a minibatch; one step of the loop lies between two requests."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader
        self.times: list[float] = []

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        minibatches = iter(self._loader)
        for _ in range(len(self._loader)):
            self.times.append(perf_counter())
            yield next(minibatches)


def main(path: str, steps: int, warm_up: int, batch_size: int, device: str) -> None:
    """Train as `scalex.function.SCALEX` of the published package does, for `steps` rounded up to whole epochs."""
    if device == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(124)
    adata = ad.read_h5ad(path)
    adata.obs["batch"] = adata.obs["batch"].astype("category")
    n_domains = len(adata.obs["batch"].cat.categories)
    # The package has 4 worker processes by default, but one thread is measured.
    loader = DataLoader(SingleCellDataset(adata), batch_size=batch_size, drop_last=True, shuffle=True, num_workers=0)
    timed = TimedLoader(loader)
    encoder = [["fc", 1024, 1, "relu"], ["fc", 10, "", ""]]
    decoder = [["fc", adata.shape[1], n_domains, "sigmoid"]]
    model = VAE(encoder, decoder, n_domain=n_domains)
    model.fit(timed, max_iteration=steps, device=device, early_stopping=EarlyStopping(patience=10, checkpoint_file=None))
    n_steps = len(timed.times) - 1 - warm_up
    cells_per_second = n_steps * batch_size / (timed.times[-1] - timed.times[warm_up])
    print(json.dumps({"cells_per_second": cells_per_second, "scalex": version("scalex"), "torch": torch.__version__}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
