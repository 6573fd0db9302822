"""The terms of the training loss. Dimension letters: C cells of a minibatch, G features, Z latent dimensions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from scalex.nn.vae import Posterior

__all__ = ["kl_divergence", "reconstruction_loss"]


class _SummedBinaryCrossEntropy(Function):
    """Summed binary cross-entropy with logits. Value and gradient share the sigmoid.

    The value is max(a, 0) - x a + log(1 + exp(-|a|)) for a logit a, whose last term is -log(max(s, 1 - s)) for the sigmoid s. The
    gradient is s - x. torch's function takes twice as long.
    """

    @staticmethod
    def forward(ctx: Any, logits_CG: Tensor, x_CG: Tensor) -> Tensor:
        sigmoid_CG = torch.sigmoid(logits_CG)
        ctx.save_for_backward(sigmoid_CG, x_CG)
        buffer_CG = torch.sub(sigmoid_CG, 0.5).abs_().add_(0.5).log_()
        total = -buffer_CG.sum()
        total += torch.clamp(logits_CG, min=0, out=buffer_CG).sum()
        return total - torch.mul(logits_CG, x_CG, out=buffer_CG).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        sigmoid_CG, x_CG = ctx.saved_tensors
        return (sigmoid_CG - x_CG).mul_(grad), None


def reconstruction_loss(logits_CG: Tensor, x_CG: Tensor) -> Tensor:
    """Return the binary cross-entropy of inputs and reconstruction, summed over features and cells.

    Parameters
    ----------
    logits_CG
        (n_cells, n_features), the decoder's output before its sigmoid.
    x_CG
        (n_cells, n_features) in [0, 1].
    """
    total: Tensor = _SummedBinaryCrossEntropy.apply(logits_CG.float(), x_CG)  # type: ignore[no-untyped-call]
    return total


def kl_divergence(posterior: Posterior) -> Tensor:
    """Return KL(q(z | x) || N(0, I)), summed over latent dimensions and cells (Kingma & Welling 2014, appendix B)."""
    mean_CZ, logvar_CZ = posterior
    return 0.5 * torch.sum(mean_CZ.square() + logvar_CZ.exp() - logvar_CZ - 1)
