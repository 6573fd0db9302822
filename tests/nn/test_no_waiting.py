"""A step on a GPU must not wait for it: no operation of a step may depend on values that are in the memory of the GPU.

The operations of a step are the same on a CPU, where they are listed. Those that make a GPU's program wait are named in `WAITING`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from torch.utils._python_dispatch import TorchDispatchMode

from scalex.model.epoch_losses import EpochLosses, Losses
from scalex.nn import VAE, MinibatchCounts, SparseRows, bound_terms, draw_noise
from scalex.nn.batch import CellBatch
from scalex.nn.likelihood import LIKELIHOODS

# What reads a value back, or makes a tensor of a size that values decide.
WAITING = {
    "_local_scalar_dense", "item", "nonzero", "masked_select", "bincount", "unique_dim", "_unique", "_unique2", "unique_consecutive",
    "equal", "is_nonzero", "argwhere", "nonzero_numpy", "masked_scatter",
}  # fmt: skip
N_FEATURES, N_DOMAINS = 40, 6
MINIBATCHES = {
    "all domains": [0, 1, 2, 3, 4, 5] * 4,
    "absent domains": [4, 1, 4, 4, 1, 1],
    "one domain": [2] * 8,
    "domains with one cell": [0, 0, 1, 2, 2, 5],
    "only domains with one cell": [3, 1, 0, 5],
}


class Waits(TorchDispatchMode):
    """A list of the operations for which the program would wait on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket._qualified_op_name.removeprefix("aten::")
        options = kwargs or {}
        by_mask = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        unknown_size = name == "repeat_interleave" and options.get("output_size") is None
        if name in WAITING or by_mask or unknown_size:
            self.found.append(name)
        return function(*args, **options)


def make_batch(domains: list[int]) -> CellBatch:
    rng = np.random.default_rng(0)
    dense = rng.random((len(domains), N_FEATURES)).astype(np.float32) * (rng.random((len(domains), N_FEATURES)) < 0.4)
    codes = torch.tensor(domains)
    counts = MinibatchCounts.of(codes, N_DOMAINS)
    return CellBatch(SparseRows.of(sparse.csr_matrix(dense)), codes, torch.arange(len(domains)), counts=counts)


@pytest.mark.parametrize("domains", MINIBATCHES.values(), ids=MINIBATCHES)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_step_waits_for_nothing(monkeypatch: pytest.MonkeyPatch, likelihood: str, domains: list[int]) -> None:
    # On a CPU alone, the share of inputs above 0 chooses how the hidden layer is computed.
    monkeypatch.setattr(VAE, "_hidden", lambda vae, x_CG: vae.hidden(x_CG))
    vae = VAE(N_FEATURES, N_DOMAINS, n_latent=3, n_hidden=8, likelihood=LIKELIHOODS[likelihood](torch.ones(1, N_FEATURES)))
    optimizer = torch.optim.Adam(vae.parameters(), fused=True)
    batch, generator, sums = make_batch(domains), torch.Generator().manual_seed(0), EpochLosses.zero(torch.device("cpu"))
    assert batch.counts is not None
    for _ in range(2):
        optimizer.zero_grad()
        with Waits() as waits:
            noise_CZ = draw_noise(len(domains), 3, batch.counts, generator)
            terms = bound_terms(vae, batch, noise_CZ, batch.counts)
            total = terms.reconstruction + 0.5 * terms.kl
            total.backward()
            sums = sums.add(Losses(total, terms.reconstruction, terms.kl, terms.kl), batch.counts)
            optimizer.step()
        assert waits.found == []


def test_gathering_a_minibatch_waits_for_nothing() -> None:
    rows = make_batch([0] * 9).rows
    chosen_C = torch.tensor([8, 0, 0, 3])
    n_values = int(torch.diff(rows.pointer_C1)[chosen_C].sum())
    with Waits() as waits:
        taken = rows.take(chosen_C, n_values)
        dense_CG = taken.dense()
    assert waits.found == []
    assert torch.equal(dense_CG, rows.dense()[chosen_C])


def test_what_waits_is_found() -> None:
    codes = torch.tensor([0, 1, 1, 2])
    with Waits() as waits:
        codes[codes.bool()]
        codes.sum().item()
        torch.repeat_interleave(codes)
    assert {"index", "_local_scalar_dense", "repeat_interleave"} <= set(waits.found)
    with Waits() as waits:
        MinibatchCounts.of(codes, 3)
    assert {"bincount", "nonzero"} <= set(waits.found)
    with Waits() as waits:
        codes[codes]
        torch.repeat_interleave(codes, output_size=4)
    assert waits.found == []
