from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scalex.nn import VAE, HiddenStatistics, MinibatchCounts, Posterior, draw_noise, kl_divergence, reconstruction_loss


@pytest.fixture
def vae() -> VAE:
    torch.manual_seed(0)
    vae = VAE(6, 3, n_latent=2, n_hidden=8)
    for norm in (vae.hidden_norm, vae.output_norm):
        for values in (norm.weight.data, norm.bias.data, norm.running_mean):
            values.normal_()
        norm.running_var.uniform_(0.5, 2)
    return vae


@pytest.fixture
def x() -> Tensor:
    return torch.rand(5, 6, generator=torch.Generator().manual_seed(1))


DOMAIN = torch.tensor([0, 2, 1, 2, 0])


def to_array(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().numpy().astype(np.float64)


def encode_by_hand(vae: VAE, x: Tensor, mean: NDArray[np.float64], var: NDArray[np.float64]) -> NDArray[np.float64]:
    hidden = to_array(x) @ to_array(vae.hidden.weight).T
    norm = vae.hidden_norm
    hidden = (hidden - mean) / np.sqrt(var + norm.eps) * to_array(norm.weight)[0] + to_array(norm.bias)[0]
    return (np.maximum(hidden, 0) @ to_array(vae.heads.weight).T + to_array(vae.heads.bias))[:, : vae.heads.out_features // 2]


def test_the_latent_is_the_posterior_mean_by_the_running_statistics(vae: VAE, x: Tensor) -> None:
    expected = encode_by_hand(vae, x, to_array(vae.hidden_norm.running_mean), to_array(vae.hidden_norm.running_var))
    np.testing.assert_allclose(to_array(vae.encode(vae.hidden(x), DOMAIN)), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(vae.encode(vae.hidden(x), DOMAIN), vae.eval().posterior(x).mean_CZ)


def test_given_statistics_are_used_by_domain(vae: VAE, x: Tensor) -> None:
    statistics = HiddenStatistics(torch.randn(3, 8), torch.rand(3, 8) + 0.5)
    expected = encode_by_hand(vae, x, to_array(statistics.mean_DH)[DOMAIN], to_array(statistics.var_DH)[DOMAIN])
    np.testing.assert_allclose(to_array(vae.encode(vae.hidden(x), DOMAIN, statistics)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("given", [False, True], ids=["running", "given"])
def test_encoding_ignores_the_mode_and_keeps_the_model(vae: VAE, x: Tensor, given: bool) -> None:
    statistics = HiddenStatistics(torch.randn(3, 8), torch.rand(3, 8) + 0.5) if given else None
    before = copy.deepcopy(vae.state_dict())
    in_train, in_eval = vae.train().encode(vae.hidden(x), DOMAIN, statistics), vae.eval().encode(vae.hidden(x), DOMAIN, statistics)
    assert torch.equal(in_train, in_eval)
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


def test_the_latent_of_a_cell_depends_on_that_cell_alone(vae: VAE, x: Tensor) -> None:
    together = vae.encode(vae.hidden(x), DOMAIN)
    alone = torch.cat([vae.encode(vae.hidden(x[i : i + 1]), DOMAIN[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_running_statistics_need_no_known_domain(vae: VAE, x: Tensor) -> None:
    assert torch.equal(vae.encode(vae.hidden(x), torch.full_like(DOMAIN, -1)), vae.encode(vae.hidden(x), DOMAIN))


def test_decoding_uses_the_norm_of_the_domain(vae: VAE) -> None:
    z = torch.randn(5, 2)
    norm = vae.eval().output_norm
    linear = z @ vae.output_weight
    logits = vae.decode(z, DOMAIN)
    for i, d in enumerate(DOMAIN.tolist()):
        expected = (linear[i] - norm.running_mean[d]) / (norm.running_var[d] + norm.eps).sqrt() * norm.weight[d] + norm.bias[d]
        torch.testing.assert_close(logits[i], expected)


def test_training_uses_the_statistics_of_the_minibatch(vae: VAE, x: Tensor) -> None:
    norm = nn.BatchNorm1d(8)
    norm.weight.data.copy_(vae.hidden_norm.weight[0])
    norm.bias.data.copy_(vae.hidden_norm.bias[0])
    active = torch.relu(norm(vae.hidden(x)))
    posterior = vae.train().posterior(x)
    torch.testing.assert_close(torch.cat(posterior, dim=1), vae.heads(active))


def test_the_forward_pass_decodes_a_sample_of_the_posterior(vae: VAE, x: Tensor) -> None:
    vae.eval()
    noise = torch.randn(5, 2, generator=torch.Generator().manual_seed(7))
    logits, posterior = vae(x, DOMAIN, noise, MinibatchCounts.of(DOMAIN, 3))
    z = posterior.mean_CZ + noise * torch.exp(posterior.logvar_CZ) ** 0.5
    torch.testing.assert_close(logits, vae.decode(z, DOMAIN))


def test_samples_have_the_mean_and_variance_of_the_posterior() -> None:
    mean, logvar = torch.tensor([1.0, -2.0]), torch.tensor([0.0, -1.5])
    counts, generator = MinibatchCounts.of(torch.zeros(20_000, dtype=torch.int64), 1), torch.Generator().manual_seed(0)
    z = Posterior(mean.expand(20_000, 2), logvar.expand(20_000, 2)).sample(draw_noise(20_000, 2, counts, generator))
    torch.testing.assert_close(z.mean(0), mean, rtol=0, atol=0.03)
    torch.testing.assert_close(z.var(0), logvar.exp(), rtol=0.05, atol=0)


@pytest.mark.parametrize("rows", [slice(None), slice(1)], ids=["minibatch", "one cell"])
def test_every_parameter_gets_a_finite_gradient(vae: VAE, x: Tensor, rows: slice) -> None:
    noise = torch.randn(len(x[rows]), 2, generator=torch.Generator().manual_seed(0))
    logits, posterior = vae(x[rows], DOMAIN[rows], noise, MinibatchCounts.of(DOMAIN[rows], 3))
    (reconstruction_loss(logits, x[rows]) + kl_divergence(posterior)).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in vae.parameters())


@pytest.mark.parametrize("share", [0, 0.005, 0.019])
def test_nearly_empty_inputs_give_the_dense_result_and_gradient(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(40, 3000, generator=generator) * (torch.rand(40, 3000, generator=generator) < share)
    x[3] = 0
    vae = VAE(3000, 1, n_latent=3, n_hidden=8)
    found = vae._hidden(x)
    # The sparse product is added up in another order, so that the last bits differ.
    assert share == 0 or not torch.equal(found, vae.hidden(x))
    torch.testing.assert_close(found, vae.hidden(x))
    target = torch.rand(40, 8, generator=generator)
    gradient, expected = (torch.autograd.grad((hidden * target).sum(), vae.hidden.weight)[0] for hidden in (found, vae.hidden(x)))
    torch.testing.assert_close(gradient, expected)


def test_dense_inputs_use_the_dense_product() -> None:
    x = torch.rand(40, 300)
    vae = VAE(300, 1, n_latent=3, n_hidden=8)
    assert torch.equal(vae._hidden(x), vae.hidden(x))
