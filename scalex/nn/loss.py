"""Terms of the training loss. Dimension letters: C cells of a minibatch, G features, Z latent dimensions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from scalex.nn.batch import CellBatch
from scalex.nn.collectives import MinibatchCounts
from scalex.nn.vae import VAE, Posterior

__all__ = ["BoundTerms", "bound_terms", "kl_divergence"]


class BoundTerms(NamedTuple):
    """The two terms of the evidence lower bound, summed over the cells of a minibatch, and what they were computed from.

    Attributes
    ----------
    reconstruction, kl
        Scalars: the negative log-likelihood, and the divergence of the posterior from the prior.
    x_CG
        (n_cells, n_features) float32, the inputs.
    mean_CZ
        (n_cells, n_latent) float32, the means of the posterior.
    """

    reconstruction: Tensor
    kl: Tensor
    x_CG: Tensor
    mean_CZ: Tensor


def bound_terms(vae: VAE, batch: CellBatch, noise_CZ: Tensor, counts: MinibatchCounts) -> BoundTerms:
    """Return the terms of the bound for a sample of the posterior, mean + std * noise."""
    x_CG = batch.rows.dense()
    decoded_CG, posterior = vae(x_CG, batch.domain_C, noise_CZ, counts)
    return BoundTerms(vae.likelihood(decoded_CG, x_CG, batch), kl_divergence(posterior), x_CG, posterior.mean_CZ)


def kl_divergence(posterior: Posterior) -> Tensor:
    """Return KL(q(z | x) || N(0, I)), summed over latent dimensions and cells (Kingma & Welling 2014, appendix B)."""
    mean_CZ, logvar_CZ = posterior
    return 0.5 * torch.sum(mean_CZ.square() + logvar_CZ.exp() - logvar_CZ - 1)
