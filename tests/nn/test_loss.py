from __future__ import annotations

import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as kl_of_distributions
from torch.nn import functional as F

from scalex.nn import Posterior, kl_divergence, reconstruction_loss


def test_reconstruction_loss_is_the_cross_entropy_of_the_sigmoid_of_the_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, x = torch.randn(7, 11, generator=generator), torch.rand(7, 11, generator=generator)
    expected = F.binary_cross_entropy(torch.sigmoid(logits), x, reduction="sum")
    torch.testing.assert_close(reconstruction_loss(logits, x), expected)


def test_reconstruction_loss_is_finite_for_extreme_logits() -> None:
    logits = torch.tensor([[500.0, -500.0]])
    torch.testing.assert_close(reconstruction_loss(logits, torch.tensor([[1.0, 0.0]])), torch.tensor(0.0))
    torch.testing.assert_close(reconstruction_loss(logits, torch.tensor([[0.0, 1.0]])), torch.tensor(1000.0))


def test_reconstruction_loss_is_computed_in_float32() -> None:
    assert reconstruction_loss(torch.zeros(2, 3, dtype=torch.bfloat16), torch.zeros(2, 3)).dtype == torch.float32


def test_kl_divergence_is_that_of_the_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, logvar = torch.randn(7, 3, generator=generator), torch.randn(7, 3, generator=generator)
    expected = kl_of_distributions(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(kl_divergence(Posterior(mean, logvar)), expected)


def test_kl_divergence_of_the_prior_is_zero() -> None:
    assert kl_divergence(Posterior(torch.zeros(4, 2), torch.zeros(4, 2))) == 0
