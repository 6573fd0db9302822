"""Two processes that share a minibatch compute what one process computes with all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Child
from scipy import stats
from torch import distributed

from scalex.nn import VAE, DomainBatchNorm, MinibatchCounts, draw_noise

SPLITS = {"halves": 40, "unequal": 25, "one cell": 1, "none": 0}


def apply_batch_norm(rows: slice, domain: torch.Tensor, x: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return output, gradients and running statistics for some rows."""
    torch.manual_seed(0)
    norm = DomainBatchNorm(5, 4)
    norm.weight.data.normal_()
    own = x[rows].clone().requires_grad_()
    out = norm(own, domain[rows])
    ((out - target[rows]) ** 2).sum().backward()
    assert own.grad is not None
    assert norm.weight.grad is not None
    assert norm.bias.grad is not None
    found = {"out": out.detach(), "x": own.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}
    return found | {"mean": norm.running_mean, "var": norm.running_var}


def apply_single_norm(rows: slice, domain: torch.Tensor, x: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the same for one set of statistics, which the encoder has."""
    torch.manual_seed(0)
    norm = DomainBatchNorm(5, 1)
    own = x[rows].clone().requires_grad_()
    out = norm(own, torch.zeros_like(domain[rows]))
    ((out - target[rows]) ** 2).sum().backward()
    assert own.grad is not None
    assert norm.weight.grad is not None
    return {"out": out.detach(), "x": own.grad, "weight": norm.weight.grad, "mean": norm.running_mean, "var": norm.running_var}


def apply_network(rows: slice, domain: torch.Tensor, x: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the output of a network for some rows, which includes their noise."""
    torch.manual_seed(0)
    net = VAE(5, 4, n_latent=3, n_hidden=8).train()
    counts = MinibatchCounts.of(domain[rows], 4)
    noise = draw_noise(len(x[rows]), 3, counts, torch.Generator().manual_seed(1))
    logits, _ = net(x[rows], domain[rows], noise, counts)
    return {"out": logits.detach()}


CASES: dict[str, Any] = {"batch norm": apply_batch_norm, "one set of statistics": apply_single_norm, "noise": apply_network}


def make_minibatch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return domains, values and targets of 80 cells."""
    generator = torch.Generator().manual_seed(3)
    domain = torch.randint(0, 3, (80,), generator=generator)
    # This is the only cell of its domain.
    domain[70] = 3
    return domain, torch.randn(80, 5, generator=generator) + domain[:, None], torch.randn(80, 5, generator=generator)


def run_process(rank: int, first: int, folder: str) -> None:
    """Compute all cases for the rows of one process and save the results."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    rows = slice(0, first) if rank == 0 else slice(first, 80)
    found = {name: case(rows, *make_minibatch()) for name, case in CASES.items()}
    counts = MinibatchCounts.of(make_minibatch()[0][rows], 4)
    found["counts"] = {"sizes": (counts.n_cells, counts.n_before), "count": counts.by_domain(), "entropy": counts.domain_entropy()}
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.parametrize("first", SPLITS.values(), ids=SPLITS)
def test_two_processes_compute_what_one_does(first: int, tmp_path: Path) -> None:
    call = f"import runpy; runpy.run_path({__file__!r})['run_process']"
    children = [Child(f"{call}({rank}, {first}, {str(tmp_path)!r})", cwd=tmp_path) for rank in (0, 1)]
    for process in children:
        process.end()
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, case in CASES.items():
        for quantity, expected in case(slice(0, 80), *make_minibatch()).items():
            one, other = (part[name][quantity] for part in parts)
            if quantity in ("out", "x"):
                torch.testing.assert_close(torch.cat([one, other]), expected, atol=1e-5, rtol=1e-5)
            elif quantity in ("weight", "bias"):
                torch.testing.assert_close(one + other, expected, atol=1e-4, rtol=1e-5)
            else:
                torch.testing.assert_close(one, expected, atol=1e-5, rtol=1e-5)
                assert torch.equal(one, other)
    assert [part["counts"]["sizes"] for part in parts] == [(80, 0), (80, first)]
    count = np.bincount(make_minibatch()[0], minlength=4)
    for part in parts:
        assert part["counts"]["count"].tolist() == count.tolist()
        assert part["counts"]["entropy"].item() == pytest.approx(stats.entropy(count), abs=1e-6)


@pytest.mark.parametrize("codes", [[0], [2, 2, 2], [0, 1, 1, 3, 3, 3, 3], list(range(4)) * 5])
def test_domain_entropy_is_that_of_scipy(codes: list[int]) -> None:
    expected = stats.entropy(np.bincount(codes, minlength=5))
    assert MinibatchCounts.of(torch.tensor(codes), 5).domain_entropy().item() == pytest.approx(expected, abs=1e-6)
