"""The terms of the training loss. Dimension letters: C cells of a minibatch, G features, Z latent dimensions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from scalex.nn.vae import Posterior

__all__ = ["kl_divergence", "reconstruction_loss"]


def reconstruction_loss(logits_CG: Tensor, x_CG: Tensor) -> Tensor:
    """Binary cross-entropy of the input against the reconstruction, summed over features, averaged over cells.

    Parameters
    ----------
    logits_CG
        (n_cells, n_features), the decoder's output before its sigmoid.
    x_CG
        (n_cells, n_features) in [0, 1].
    """
    return F.binary_cross_entropy_with_logits(logits_CG.float(), x_CG, reduction="sum") / len(x_CG)


def kl_divergence(posterior: Posterior) -> Tensor:
    """KL(q(z | x) || N(0, I)), summed over latent dimensions, averaged over cells (Kingma & Welling 2014, appendix B)."""
    mean_CZ, logvar_CZ = posterior
    return 0.5 * torch.sum(mean_CZ.square() + logvar_CZ.exp() - logvar_CZ - 1) / len(mean_CZ)
