"""Domain-specific batch normalization.

Dimension letters: C cells of a minibatch, F features, D known domains, P domains with two cells or more in the minibatch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from scalex.nn.collectives import MinibatchCounts, all_gather, all_sum, n_processes, rank
from scalex.nn.domain_groups import DomainGroups

__all__ = ["DomainBatchNorm"]


class _Normalized(NamedTuple):
    """A normalized minibatch, before scale and shift.

    Attributes
    ----------
    x_CF
        Rows less the mean of their domain, divided by its standard deviation.
    invstd_RF, row_C
        1 / standard deviation, and each cell's row of it. None: row i is cell i's, or there is one row for all.
    shared_S
        Cells that share their domain with others of the minibatch; None: all do. Only their statistics come from the minibatch, and have
        a gradient.
    share_S1
        1 / number of cells of the domain, for each of `shared_S`.
    """

    x_CF: Tensor
    invstd_RF: Tensor
    row_C: Tensor | None
    shared_S: Tensor | None
    share_S1: Tensor


class _ScalePerDomain(Function):
    """Scale and shift normalized rows by domain. The gradient is that of the whole normalization.

    This is one function because autograd's graph of gathers and scatters would keep five copies of the minibatch and build a dense
    (D, F) gradient for every gather. Gradient of batch normalization: Ioffe & Szegedy 2015, section 3.
    """

    @staticmethod
    def forward(ctx: Any, x_CF: Tensor, weight_DF: Tensor, bias_DF: Tensor, domain_C: Tensor, normalized: _Normalized) -> Tensor:
        # All gathers share one buffer: allocating memory takes longer than the arithmetic.
        buffer_CF = torch.empty_like(x_CF)
        row_C = domain_C if len(weight_DF) > 1 else None
        ctx.save_for_backward(weight_DF, domain_C)
        ctx.normalized = normalized
        scaled_CF = normalized.x_CF * _gather(weight_DF, row_C, buffer_CF)
        return scaled_CF.add_(_gather(bias_DF, row_C, buffer_CF))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_CF: Tensor) -> tuple[Tensor | None, ...]:
        weight_DF, domain_C = ctx.saved_tensors
        normal_CF, invstd_RF, row_C, shared_S, share_S1 = ctx.normalized
        domain_row_C = domain_C if len(weight_DF) > 1 else None
        buffer_CF = grad_CF * normal_CF
        weight_grad_DF = torch.zeros_like(weight_DF).index_add_(0, domain_C, buffer_CF)
        bias_grad_DF = torch.zeros_like(weight_DF).index_add_(0, domain_C, grad_CF)
        # Cells of other processes act on these through the statistics. Lightning sums the gradients of the parameters later.
        weight_sum_DF, bias_sum_DF = weight_grad_DF, bias_grad_DF
        if n_processes() > 1:
            weight_sum_DF, bias_sum_DF = all_sum(torch.stack([weight_grad_DF, bias_grad_DF]))
        if shared_S is None:
            x_grad_CF = normal_CF * _gather(weight_sum_DF, domain_row_C, buffer_CF)
            x_grad_CF += _gather(bias_sum_DF, domain_row_C, buffer_CF)
            torch.addcmul(grad_CF, x_grad_CF, share_S1, value=-1, out=x_grad_CF)
        else:
            domain_S = domain_C.index_select(0, shared_S)
            through_SF = weight_sum_DF.index_select(0, domain_S).mul_(normal_CF.index_select(0, shared_S))
            through_SF += bias_sum_DF.index_select(0, domain_S)
            x_grad_CF = grad_CF.index_add(0, shared_S, through_SF.mul_(share_S1), alpha=-1)
        x_grad_CF *= _gather(invstd_RF, row_C, buffer_CF)
        x_grad_CF *= _gather(weight_DF, domain_row_C, buffer_CF)
        return x_grad_CF, weight_grad_DF, bias_grad_DF, None, None


def _gather(value_RF: Tensor, row_C: Tensor | None, buffer_CF: Tensor) -> Tensor:
    """Write each cell's row of `value_RF` to `buffer_CF`."""
    return value_RF if row_C is None else torch.index_select(value_RF, 0, row_C, out=buffer_CF)


class DomainBatchNorm(nn.Module):
    """Batch normalization with one set of statistics and affine parameters per domain.

    The result equals that of one ``torch.nn.BatchNorm1d`` per domain, applied to the domain's rows. Parameters and statistics of all
    domains are stacked, so that every parameter takes part in every step. Time depends on the minibatch alone; memory for dense gradients
    grows with the number of domains.

    Where several processes share a minibatch, the statistics are those of all its cells.

    A single cell of a domain in the minibatch has no variance. It is normalized with the domain's running statistics, which do not change.

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

    def forward(self, x_CF: Tensor, domain_C: Tensor, counts: MinibatchCounts | None = None) -> Tensor:
        """Normalize each row by its domain.

        Parameters
        ----------
        x_CF
            (n_cells, n_features) float.
        domain_C
            (n_cells,) int64 in [0, n_domains).
        counts
            Those of the minibatch, if they are known.

        Returns
        -------
        (n_cells, n_features) float32.
        """
        x_CF = x_CF.float()
        if not self.training:
            return self.normalize(x_CF, domain_C, self.running_mean, self.running_var)
        if len(self.weight) == 1 and len(x_CF) > 1 and n_processes() == 1:
            statistics = self.running_mean[0], self.running_var[0]
            return F.batch_norm(x_CF, *statistics, self.weight[0], self.bias[0], training=True, momentum=self.momentum, eps=self.eps)
        normalized = self._normalize_minibatch(x_CF.detach(), domain_C, counts or MinibatchCounts.of(domain_C, len(self.weight)))
        out: Tensor = _ScalePerDomain.apply(x_CF, self.weight, self.bias, domain_C, normalized)  # type: ignore[no-untyped-call]
        return out

    def normalize(self, x_CF: Tensor, domain_C: Tensor, mean_DF: Tensor, var_DF: Tensor) -> Tensor:
        """Normalize with the given statistics, (n_domains, n_features) each, or (1, n_features) for all domains.

        Scale and shift are those of `domain_C`, or the single ones.
        """
        if len(self.weight) == 1 and len(mean_DF) == 1:
            # The same arithmetic as below without a copy of the row for each cell.
            scale_F = torch.rsqrt(var_DF[0] + self.eps) * self.weight[0]
            return torch.addcmul(self.bias[0], x_CF.float() - mean_DF[0], scale_F)
        own_C = domain_C if len(self.weight) > 1 else torch.zeros_like(domain_C)
        given_C = domain_C if len(mean_DF) > 1 else torch.zeros_like(domain_C)
        scale_CF = torch.rsqrt(var_DF + self.eps)[given_C] * self.weight[own_C]
        return torch.addcmul(self.bias[own_C], x_CF.float() - mean_DF[given_C], scale_CF)

    @torch.no_grad()
    def _normalize_minibatch(self, x_CF: Tensor, domain_C: Tensor, counts: MinibatchCounts) -> _Normalized:
        """Normalize a minibatch by its statistics, and update the running ones."""
        groups = counts.groups or DomainGroups.of(domain_C, counts.count_RD)
        if groups.shared_S is None:
            row_C = groups.position_S if len(groups.present_P) > 1 else None
            normal_CF, invstd_PF = self._normalize_shared(x_CF, groups)
            return _Normalized(normal_CF, invstd_PF, row_C, None, groups.share_S1)
        # With many domains, most have one cell in the minibatch and need no sums.
        buffer_CF = torch.empty_like(x_CF)
        normal_CF = x_CF - _gather(self.running_mean, domain_C, buffer_CF)
        invstd_CF = _gather(self.running_var, domain_C, buffer_CF).add_(self.eps).rsqrt_()
        normal_CF *= invstd_CF
        if len(groups.present_P):
            normal_SF, invstd_PF = self._normalize_shared(x_CF.index_select(0, groups.shared_S), groups)
            normal_CF.index_copy_(0, groups.shared_S, normal_SF)
            invstd_CF.index_copy_(0, groups.shared_S, invstd_PF.index_select(0, groups.position_S))
        return _Normalized(normal_CF, invstd_CF, None, groups.shared_S, groups.share_S1)

    def _normalize_shared(self, x_CF: Tensor, groups: DomainGroups) -> tuple[Tensor, Tensor]:
        """Return normalized rows (C, F) and 1 / standard deviation (P, F) of the cells that share their domain with others."""
        present_P, count_RP1, position_C = groups.present_P, groups.count_RP1, groups.position_S
        row_C = position_C if len(present_P) > 1 else None
        count_P1 = count_RP1.sum(0)
        own_P1 = count_RP1[rank()].clamp(min=1)
        mean_PF = x_CF.new_zeros(len(present_P), x_CF.shape[1]).index_add_(0, position_C, x_CF).div_(own_P1)
        buffer_CF = torch.empty_like(x_CF)
        normal_CF = x_CF - _gather(mean_PF, row_C, buffer_CF)
        torch.mul(normal_CF, normal_CF, out=buffer_CF)
        squares_PF = torch.zeros_like(mean_PF).index_add_(0, position_C, buffer_CF)
        if n_processes() > 1:
            own_mean_PF = mean_PF
            mean_PF, squares_PF = _combine(all_gather(torch.stack([mean_PF, squares_PF])), count_RP1)
            normal_CF += _gather(own_mean_PF - mean_PF, row_C, buffer_CF)
        var_PF = squares_PF.div_(count_P1)
        unbiased_PF = var_PF * (count_P1 / (count_P1 - 1))
        for running_DF, now_PF in ((self.running_mean, mean_PF), (self.running_var, unbiased_PF)):
            running_DF.index_copy_(0, present_P, torch.lerp(running_DF.index_select(0, present_P), now_PF, self.momentum))
        invstd_PF = var_PF.add_(self.eps).rsqrt_()
        normal_CF *= _gather(invstd_PF, row_C, buffer_CF)
        return normal_CF, invstd_PF


def _combine(statistics_R2PF: Tensor, count_RP1: Tensor) -> tuple[Tensor, Tensor]:
    """Combine means and sums of squared deviations of the processes, (P, F) each (Chan et al. 1979)."""
    mean_RPF, squares_RPF = statistics_R2PF.unbind(1)
    mean_PF = (mean_RPF * count_RP1).sum(0) / count_RP1.sum(0)
    return mean_PF, (squares_RPF + count_RP1 * (mean_RPF - mean_PF).square()).sum(0)
