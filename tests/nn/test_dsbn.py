from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scalex.nn import DomainBatchNorm
from scalex.nn.domain_groups import DomainGroups


class LoopOfBatchNorms(nn.Module):
    """A BatchNorm1d per domain, each applied to the rows of its domain."""

    def __init__(self, norms: DomainBatchNorm) -> None:
        super().__init__()
        n_domains, n_features = norms.weight.shape
        self.norms = nn.ModuleList(nn.BatchNorm1d(n_features, eps=norms.eps, momentum=norms.momentum) for _ in range(n_domains))
        for d, norm in enumerate(self.norms):
            norm.weight.data.copy_(norms.weight[d])
            norm.bias.data.copy_(norms.bias[d])
            norm.running_mean.copy_(norms.running_mean[d])
            norm.running_var.copy_(norms.running_var[d])

    def forward(self, x: Tensor, domain: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for d in domain.unique().tolist():
            norm = copy.copy(self.norms[d])
            norm.train(self.training and int((domain == d).sum()) > 1)
            out[domain == d] = norm(x[domain == d])
        return out

    def stack(self, name: str) -> Tensor:
        return torch.stack([getattr(norm, name) for norm in self.norms])

    def stack_gradients(self, name: str) -> Tensor:
        return torch.stack([p.grad if (p := getattr(norm, name)).grad is not None else torch.zeros_like(p) for norm in self.norms])


def make_norm(n_features: int, n_domains: int, **options: float) -> DomainBatchNorm:
    norm = DomainBatchNorm(n_features, n_domains, **options)
    generator = torch.Generator().manual_seed(n_domains)
    for values in (norm.weight, norm.bias, norm.running_mean):
        values.data.normal_(generator=generator)
    norm.running_var.uniform_(0.5, 2, generator=generator)
    return norm


MINIBATCHES = {
    "two domains": (2, [0, 1, 1, 0, 1, 0, 0]),
    "one domain": (1, [0] * 6),
    "two cells": (1, [0, 0]),
    "a domain with one cell": (3, [0, 1, 0, 2, 0, 2]),
    "only domains with one cell": (3, [2, 0, 1]),
    "a minibatch of one cell": (2, [1]),
    "absent domains": (6, [4, 1, 4, 4, 1]),
    "200 domains": (200, np.random.default_rng(0).integers(200, size=256).tolist()),
}


@pytest.mark.parametrize("options", [{}, {"eps": 1e-3, "momentum": 0.3}], ids=["defaults", "other options"])
@pytest.mark.parametrize(("n_domains", "domains"), MINIBATCHES.values(), ids=MINIBATCHES)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_equals_a_loop_of_batch_norms(n_domains: int, domains: list[int], training: bool, options: dict[str, float]) -> None:
    torch.manual_seed(0)
    norm = make_norm(5, n_domains, **options).train(training)
    loop = LoopOfBatchNorms(norm).train(training)
    domain = torch.tensor(domains)
    for _ in range(3):
        norm.zero_grad()
        loop.zero_grad()
        x = (3 * torch.randn(len(domain), 5) + 1).requires_grad_()
        x_loop = x.detach().clone().requires_grad_()
        weight = torch.randn(len(domain), 5)
        out, out_loop = norm(x, domain), loop(x_loop, domain)
        torch.testing.assert_close(out, out_loop, rtol=1e-4, atol=1e-5)
        (out * weight).sum().backward()
        (out_loop * weight).sum().backward()
        torch.testing.assert_close(x.grad, x_loop.grad, rtol=1e-4, atol=1e-4)
        for name in ("weight", "bias"):
            torch.testing.assert_close(getattr(norm, name).grad, loop.stack_gradients(name), rtol=1e-4, atol=1e-4)
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(getattr(norm, name), loop.stack(name), rtol=1e-5, atol=1e-6)


def test_training_is_that_of_a_loop_of_batch_norms() -> None:
    generator = torch.Generator().manual_seed(1)
    norm = make_norm(4, 3)
    loop = LoopOfBatchNorms(norm)
    sgd, sgd_loop = torch.optim.SGD(norm.parameters(), lr=0.1), torch.optim.SGD(loop.parameters(), lr=0.1)
    for _ in range(10):
        domain = torch.randint(3, (12,), generator=generator)
        x = torch.randn(12, 4, generator=generator)
        for module, optimizer in ((norm, sgd), (loop, sgd_loop)):
            optimizer.zero_grad()
            module(x, domain).square().mean().backward()
            optimizer.step()
    for name in ("weight", "bias", "running_mean", "running_var"):
        torch.testing.assert_close(getattr(norm, name).data, loop.stack(name).data, rtol=1e-4, atol=1e-5)
    x, domain = torch.randn(9, 4, generator=generator), torch.arange(9) % 3
    torch.testing.assert_close(norm.eval()(x, domain), loop.eval()(x, domain), rtol=1e-4, atol=1e-5)


def test_the_gradient_of_the_input_agrees_with_finite_differences() -> None:
    # The norm computes in float32, so that the steps are large and the tolerance is wide.
    norm = make_norm(3, 3)
    domain = torch.tensor([0, 0, 1, 1, 1, 2])
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: norm(x, domain).tanh(), (x,), eps=1e-2, atol=2e-2, rtol=2e-2)


def test_a_domain_with_one_cell_uses_and_keeps_its_running_statistics() -> None:
    norm = make_norm(4, 2)
    before = norm.running_mean.clone(), norm.running_var.clone()
    x = torch.randn(4, 4)
    out = norm(x, torch.tensor([0, 1, 0, 0]))
    expected = (x[1] - before[0][1]) / torch.sqrt(before[1][1] + 1e-5) * norm.weight[1] + norm.bias[1]
    torch.testing.assert_close(out[1], expected)
    torch.testing.assert_close(norm.running_mean[1], before[0][1], rtol=0, atol=0)
    torch.testing.assert_close(norm.running_var[1], before[1][1], rtol=0, atol=0)
    assert (norm.running_mean[0] != before[0][0]).all()


def test_an_absent_domain_keeps_its_statistics_and_has_a_gradient_of_zero() -> None:
    norm = make_norm(4, 3)
    before = norm.running_mean.clone(), norm.running_var.clone()
    norm(torch.randn(6, 4), torch.tensor([0, 0, 0, 2, 2, 2])).sum().backward()
    assert torch.equal(norm.running_mean[1], before[0][1])
    assert torch.equal(norm.running_var[1], before[1][1])
    for parameter in norm.parameters():
        assert parameter.grad is not None
        assert (parameter.grad[1] == 0).all()
    assert (norm.bias.grad[[0, 2]] == 3).all()


def test_domains_do_not_affect_each_other() -> None:
    x, domain = torch.randn(8, 4), torch.tensor([0, 1] * 4)
    other = x + 100 * domain[:, None]
    own = domain == 0
    assert torch.equal(make_norm(4, 2)(x, domain)[own], make_norm(4, 2)(other, domain)[own])


def test_eval_mode_keeps_the_statistics() -> None:
    norm = make_norm(4, 2).eval()
    before = copy.deepcopy(norm.state_dict())
    norm(torch.randn(6, 4), torch.tensor([0, 0, 0, 1, 1, 1]))
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_half_precision_is_normalized_in_float32(training: bool) -> None:
    norm = make_norm(4, 2).train(training)
    x = torch.randn(6, 4).bfloat16().requires_grad_()
    out = norm(x, torch.tensor([0, 0, 0, 1, 1, 1]))
    out.sum().backward()
    assert out.dtype == norm.running_mean.dtype == torch.float32
    assert x.grad.dtype == torch.bfloat16


def test_given_statistics_replace_the_running_ones() -> None:
    norm = make_norm(3, 2)
    x, domain = torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])
    mean, var = torch.randn(2, 3), torch.rand(2, 3) + 0.5
    out = norm.normalize(x, domain, mean, var)
    for i, d in enumerate(domain.tolist()):
        expected = (x[i] - mean[d]) / (var[d] + norm.eps).sqrt() * norm.weight[d] + norm.bias[d]
        torch.testing.assert_close(out[i], expected)


@pytest.mark.parametrize(("counts", "all_are_shared"), [([[2, 3], [0, 0]], True), ([[2, 0], [0, 1]], False), ([[1, 0], [1, 0]], True)])
def test_processes_agree_on_whether_all_cells_share_their_domain(counts: list[list[int]], *, all_are_shared: bool) -> None:
    count_RD = torch.tensor(counts)
    for count_D in count_RD:
        groups = DomainGroups.of(torch.repeat_interleave(count_D), count_RD)
        assert (groups.shared_S is None) == all_are_shared
        assert groups.present_P.tolist() == torch.nonzero(count_RD.sum(0) > 1)[:, 0].tolist()
