"""The divergence term of the training loss. Dimension letters: C cells of a minibatch, Z latent dimensions."""

from __future__ import annotations

import torch
from torch import Tensor

from scalex.nn.vae import Posterior

__all__ = ["kl_divergence"]


def kl_divergence(posterior: Posterior) -> Tensor:
    """Return KL(q(z | x) || N(0, I)), summed over latent dimensions and cells (Kingma & Welling 2014, appendix B)."""
    mean_CZ, logvar_CZ = posterior
    return 0.5 * torch.sum(mean_CZ.square() + logvar_CZ.exp() - logvar_CZ - 1)
