"""Domain-specific batch normalization.

Dimension letters: C cells of a minibatch, F features, D known domains, P domains present in the minibatch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

__all__ = ["DomainBatchNorm"]


class _NormalizePerDomain(Function):
    """Normalize each row with its domain's mean and variance, then apply that domain's scale and shift.

    Written as one function because autograd's own graph of gathers and scatters keeps five copies of the minibatch and
    builds a dense (D, F) gradient for every gather. Gradient of batch normalization: Ioffe & Szegedy 2015, section 3.
    """

    @staticmethod
    def forward(
        ctx: Any, x_CF: Tensor, weight_DF: Tensor, bias_DF: Tensor, centred_CF: Tensor, invstd_PF: Tensor, *index: Tensor
    ) -> Tensor:
        present_P, position_C, _ = index
        scale_PF = invstd_PF * weight_DF[present_P]
        ctx.save_for_backward(centred_CF, scale_PF, invstd_PF, *index)
        ctx.n_domains = len(weight_DF)
        out_CF = _spread(bias_DF[present_P], position_C, torch.empty_like(x_CF))
        return out_CF.addcmul_(centred_CF, _spread(scale_PF, position_C, torch.empty_like(x_CF)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_CF: Tensor) -> tuple[Tensor | None, ...]:
        centred_CF, scale_PF, invstd_PF, present_P, position_C, count_P1 = ctx.saved_tensors
        # One buffer for all products: new memory for each costs more than the arithmetic.
        buffer_CF = grad_CF * centred_CF
        product_PF = _sum_per_domain(buffer_CF, position_C, len(present_P))
        bias_grad_PF = _sum_per_domain(grad_CF, position_C, len(present_P))
        # A domain of one cell took its statistics from the buffers: they are constants, nothing flows through them.
        share_P1 = torch.where(count_P1 > 1, 1 / count_P1, 0.0)
        slope_PF = scale_PF * invstd_PF.square() * product_PF * share_P1
        x_grad_CF = _spread(scale_PF, position_C, torch.empty_like(grad_CF)).mul_(grad_CF)
        x_grad_CF -= _spread(scale_PF * bias_grad_PF * share_P1, position_C, buffer_CF)
        x_grad_CF.addcmul_(centred_CF, _spread(slope_PF, position_C, buffer_CF), value=-1)
        weight_grad_DF = grad_CF.new_zeros(ctx.n_domains, grad_CF.shape[1])
        bias_grad_DF = torch.zeros_like(weight_grad_DF)
        weight_grad_DF[present_P] = product_PF * invstd_PF
        bias_grad_DF[present_P] = bias_grad_PF
        return x_grad_CF, weight_grad_DF, bias_grad_DF, None, None, None, None, None


def _sum_per_domain(x_CF: Tensor, position_C: Tensor, n_present: int) -> Tensor:
    return x_CF.new_zeros(n_present, x_CF.shape[1]).index_add_(0, position_C, x_CF)


def _spread(value_PF: Tensor, position_C: Tensor, out_CF: Tensor) -> Tensor:
    """Each cell's domain's row of `value_PF`, written to `out_CF`."""
    return torch.index_select(value_PF, 0, position_C, out=out_CF)


class DomainBatchNorm(nn.Module):
    """Batch normalization with one set of statistics and affine parameters per domain.

    Equal to one ``torch.nn.BatchNorm1d`` per domain, each applied to its domain's rows (tested), but all domains at once:
    parameters and statistics are stacked, so that every parameter takes part in every step, and the cost depends on the
    minibatch and not on the number of known domains.

    A domain with one cell in the minibatch has no variance: that cell is normalized with the domain's running
    statistics, which stay as they are.

    Parameters
    ----------
    n_features
        Number of features F.
    n_domains
        Number of known domains D.
    eps
        Added to the variance.
    momentum
        Weight of the minibatch in the running statistics.

    References
    ----------
    Chang et al., Domain-Specific Batch Normalization for Unsupervised Domain Adaptation, CVPR 2019.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, n_features: int, n_domains: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(n_domains, n_features))
        self.bias = nn.Parameter(torch.zeros(n_domains, n_features))
        self.register_buffer("running_mean", torch.zeros(n_domains, n_features))
        self.register_buffer("running_var", torch.ones(n_domains, n_features))

    def forward(self, x_CF: Tensor, domain_C: Tensor) -> Tensor:
        """Normalize each row by its domain.

        Parameters
        ----------
        x_CF
            (n_cells, n_features) float.
        domain_C
            (n_cells,) int64 in [0, n_domains).

        Returns
        -------
        (n_cells, n_features) float32.
        """
        x_CF = x_CF.float()
        if not self.training:
            return self.normalize(x_CF, domain_C, self.running_mean, self.running_var)
        present_P, position_C = torch.unique(domain_C, return_inverse=True)
        count_P1 = torch.bincount(position_C, minlength=len(present_P)).to(x_CF.dtype)[:, None]
        centred_CF, var_PF = self._update(x_CF.detach(), present_P, position_C, count_P1)
        invstd_PF = torch.rsqrt(var_PF + self.eps)
        out: Tensor = _NormalizePerDomain.apply(  # type: ignore[no-untyped-call]
            x_CF, self.weight, self.bias, centred_CF, invstd_PF, present_P, position_C, count_P1
        )
        return out

    def normalize(self, x_CF: Tensor, domain_C: Tensor, mean_DF: Tensor, var_DF: Tensor) -> Tensor:
        """Normalize with given per-domain statistics, (n_domains, n_features) each, instead of the minibatch's.

        The affine parameters are those of `domain_C`, or the only ones there are.
        """
        own_C = domain_C if len(self.weight) > 1 else torch.zeros_like(domain_C)
        given_C = domain_C if len(mean_DF) > 1 else torch.zeros_like(domain_C)
        scale_CF = torch.rsqrt(var_DF + self.eps)[given_C] * self.weight[own_C]
        return torch.addcmul(self.bias[own_C], x_CF.float() - mean_DF[given_C], scale_CF)

    @torch.no_grad()
    def _update(self, x_CF: Tensor, present_P: Tensor, position_C: Tensor, count_P1: Tensor) -> tuple[Tensor, Tensor]:
        """Rows less their domain's mean (C, F), and its variance (P, F); the running statistics move towards them."""
        running_mean_PF, running_var_PF = self.running_mean[present_P], self.running_var[present_P]
        single_P1 = count_P1 < 2
        mean_PF = _sum_per_domain(x_CF, position_C, len(present_P)) / count_P1
        mean_PF = torch.where(single_P1, running_mean_PF, mean_PF)
        buffer_CF = _spread(mean_PF, position_C, torch.empty_like(x_CF))
        centred_CF = x_CF - buffer_CF
        torch.mul(centred_CF, centred_CF, out=buffer_CF)
        var_PF = _sum_per_domain(buffer_CF, position_C, len(present_P)) / count_P1
        var_PF = torch.where(single_P1, running_var_PF, var_PF)
        unbiased_P1 = torch.where(single_P1, 1.0, count_P1 / (count_P1 - 1))
        self.running_mean[present_P] = torch.lerp(running_mean_PF, mean_PF, self.momentum)
        self.running_var[present_P] = torch.lerp(running_var_PF, var_PF * unbiased_P1, self.momentum)
        return centred_CF, var_PF
