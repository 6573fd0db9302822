"""A compiled step must give the losses, gradients and statistics of the step itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor

from scalex.model.compiled import compile_terms
from scalex.nn import VAE, MinibatchCounts, SparseRows, bound_terms, draw_noise
from scalex.nn.batch import CellBatch
from scalex.nn.likelihood import LIKELIHOODS

N_FEATURES, N_DOMAINS, N_LATENT = 40, 6, 3
MINIBATCHES = {
    "all domains": [0, 1, 2, 3, 4, 5] * 4,
    "other size": [0, 1, 2, 3, 4, 5] * 3 + [2, 2],
    "absent domains": [4, 1, 4, 4, 1, 1],
    "one domain": [2] * 8,
    "domains with one cell": [0, 0, 1, 2, 2, 5],
    "only domains with one cell": [3, 1, 0, 5],
}


class CountingBackend:
    """A backend that runs what torch has traced, and counts the versions."""

    def __init__(self) -> None:
        self.n_versions = 0

    def __call__(self, traced: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        self.n_versions += 1
        return traced.forward


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> CountingBackend:
    """Trace the step as in any compilation, without making machine code of it."""
    made = CountingBackend()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=made))
    return made


def make_batch(domains: list[int], seed: int = 0) -> CellBatch:
    rng = np.random.default_rng(seed)
    dense = rng.random((len(domains), N_FEATURES)).astype(np.float32) * (rng.random((len(domains), N_FEATURES)) < 0.4)
    codes = torch.tensor(domains)
    counts = MinibatchCounts.of(codes, N_DOMAINS)
    return CellBatch(SparseRows.of(sparse.csr_matrix(dense)), codes, torch.arange(len(domains)), counts=counts)


def make_vae(likelihood: str) -> VAE:
    torch.manual_seed(0)
    return VAE(N_FEATURES, N_DOMAINS, n_latent=N_LATENT, n_hidden=8, likelihood=LIKELIHOODS[likelihood](torch.ones(1, N_FEATURES)))


def take_step(compute: Callable[..., Any], vae: VAE, batch: CellBatch) -> dict[str, Tensor]:
    """Return the terms, the gradients and, after the step, the running statistics."""
    assert batch.counts is not None
    noise_CZ = draw_noise(len(batch.domain_C), N_LATENT, batch.counts, torch.Generator().manual_seed(1))
    vae.zero_grad()
    terms = compute(vae, batch, noise_CZ, batch.counts)
    (terms.reconstruction + 0.5 * terms.kl + terms.mean_CZ.square().sum()).backward()
    gradients = {name: weight.grad.clone() for name, weight in vae.named_parameters() if weight.grad is not None}
    statistics = {name: value.clone() for name, value in vae.named_buffers()}
    return gradients | statistics | {name: value.detach() for name, value in terms._asdict().items()}


def assert_same(likelihood: str, minibatches: list[list[int]], tolerance: float) -> None:
    """Compare steps; `tolerance` is in units of the largest value of a tensor."""
    plain, compiled = make_vae(likelihood), make_vae(likelihood)
    compute = compile_terms()
    for i, domains in enumerate(minibatches):
        batch = make_batch(domains, i)
        expected, found = take_step(bound_terms, plain, batch), take_step(compute, compiled, batch)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            atol = tolerance * float(value.abs().max())
            torch.testing.assert_close(
                found[name], value, rtol=0, atol=atol, msg=lambda text, name=name, i=i: f"minibatch {i}, {name}: {text}"
            )


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_minibatch_has_the_values_of_the_plain_step(backend: CountingBackend, likelihood: str) -> None:
    assert_same(likelihood, list(MINIBATCHES.values()), 1e-6)
    assert backend.n_versions >= 1


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_shuffled_minibatches_share_one_version(backend: CountingBackend, likelihood: str) -> None:
    rng = np.random.default_rng(0)
    vae, compute = make_vae(likelihood), compile_terms()
    for i in range(8):
        domains = np.concatenate([np.repeat(np.arange(N_DOMAINS), 2), rng.integers(N_DOMAINS, size=20 + i % 2)])
        take_step(compute, vae, make_batch(domains.tolist(), i))
    assert backend.n_versions == 1


def test_another_network_gets_a_version_of_its_own(backend: CountingBackend) -> None:
    # torch gives up after eight versions of the same code, as in a long search in one process.
    for n in range(1, 10):
        take_step(compile_terms(), make_vae("bernoulli"), make_batch(MINIBATCHES["all domains"]))
        assert backend.n_versions == n


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_machine_code_has_the_values_of_the_plain_step() -> None:
    assert_same("negative_binomial", [MINIBATCHES["all domains"], MINIBATCHES["other size"]], 2e-5)
