"""Likelihoods of a cell's inputs given what the decoder returns. A new one is a class here and a line in `LIKELIHOODS`.

Dimension letters: C cells of a minibatch, G features, N values above 0, D domains.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from scalex.nn.batch import CellBatch
from scalex.nn.sparse_rows import SparseRows

__all__ = ["LIKELIHOODS", "Bernoulli", "Likelihood", "NegativeBinomial", "check_likelihood", "reconstruction_loss"]

# Largest number of counts of a cell. The smallest value of estimated counts can be next to nothing, and then is not one count.
MAX_TOTAL = 1e6
# Counts of a feature that no cell has, so that the logarithm of their mean is finite.
LEAST_COUNT = 0.5
# Count per e of a cell without any count, of which nothing is known.
EMPTY = 1e-8


class Likelihood(nn.Module, ABC):
    """Likelihood of a cell's inputs given what the decoder returns.

    Parameters
    ----------
    unit_DG
        (n_domains, n_features) or (1, n_features): the normalized expression, log(1 + e), that an input of 1 stands for.
    """

    unit_DG: Tensor
    # Whether it is one of counts: the inputs must then be logarithms of 1 + multiples of a cell's counts.
    of_counts = False

    def __init__(self, unit_DG: Tensor) -> None:
        super().__init__()
        # The preprocessing is in the checkpoint already.
        self.register_buffer("unit_DG", unit_DG, persistent=False)

    @abstractmethod
    def forward(self, decoded_CG: Tensor, x_CG: Tensor, batch: CellBatch) -> Tensor:
        """Return the negative log-likelihood, summed over features and cells, perhaps without terms that no weight changes.

        Parameters
        ----------
        decoded_CG
            (n_cells, n_features), what the decoder returns.
        x_CG
            (n_cells, n_features) float32 inputs in [0, 1].
        batch
            The same inputs as sparse rows, and the domains.
        """

    @abstractmethod
    def expression(self, decoded_CG: Tensor, domain_C: Tensor) -> Tensor:
        """Return the mean normalized expression, (n_cells, n_features) float32, of what the decoder returns."""

    @abstractmethod
    def shift(self, rows: SparseRows, domain_C: Tensor) -> Tensor:
        """Return what the decoder is to return, (n_features,), where all that is known of cells is their mean.

        Parameters
        ----------
        rows
            Inputs of the cells.
        domain_C
            (n_cells,) codes of their domains.
        """

    def units_of(self, domain_C: Tensor) -> Tensor:
        """Return the units of each cell's domain, (n_cells, n_features), or the single ones, (1, n_features)."""
        return self.unit_DG if len(self.unit_DG) == 1 else self.unit_DG[domain_C]


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


class Bernoulli(Likelihood):
    """Inputs as probabilities: the cross-entropy with the sigmoid of what the decoder returns (Xiong et al. 2022)."""

    def forward(self, decoded_CG: Tensor, x_CG: Tensor, batch: CellBatch) -> Tensor:
        """See `Likelihood`."""
        return reconstruction_loss(decoded_CG, x_CG)

    def expression(self, decoded_CG: Tensor, domain_C: Tensor) -> Tensor:
        """See `Likelihood`."""
        return torch.sigmoid(decoded_CG.float()) * self.units_of(domain_C)

    def shift(self, rows: SparseRows, domain_C: Tensor) -> Tensor:
        """See `Likelihood`."""
        mean_G = rows.value_N.new_zeros(rows.n_features).index_add_(0, rows.feature_N.long(), rows.value_N) / rows.n_rows
        return torch.logit(mean_G.clamp(1e-4, 1 - 1e-4))


class _SummedNegativeBinomial(Function):
    """Summed negative logarithm of the probability of counts.

    For a count k of mean m and dispersion t, and a = log(m / t), it is t softplus(a) for every feature, and k softplus(-a) + lgamma(t)
    + lgamma(k + 1) - lgamma(k + t) in addition for the counts above 0. Its derivative by a is t s, less k (1 - s) for the counts above 0,
    with the sigmoid s of a. Few features of a cell have counts above 0, so that this takes hardly longer than the cross-entropy.
    """

    @staticmethod
    def forward(ctx: Any, a_CG: Tensor, log_t_G: Tensor, count_N: Tensor, feature_N: Tensor, place_N: Tensor) -> Tensor:
        t_G = log_t_G.exp()
        sigmoid_CG = torch.sigmoid(a_CG)
        softplus_CG = torch.sub(sigmoid_CG, 0.5).abs_().add_(0.5).log_().neg_().add_(torch.clamp(a_CG, min=0))
        softplus_G = softplus_CG.sum(0)
        a_N, softplus_N, t_N = a_CG.view(-1)[place_N], softplus_CG.view(-1)[place_N], t_G[feature_N]
        both_N = count_N + t_N
        # Mixed precision would round this product.
        total = torch.dot(softplus_G, t_G) + (count_N * (softplus_N - a_N)).sum()
        total += (torch.lgamma(t_G)[feature_N] + torch.lgamma(count_N + 1) - torch.lgamma(both_N)).sum()
        grad_CG = torch.mul(sigmoid_CG, t_G, out=softplus_CG)
        grad_CG.view(-1).index_add_(0, place_N, count_N * (sigmoid_CG.view(-1)[place_N] - 1))
        by_dispersion_N = t_N * (torch.digamma(t_G)[feature_N] - torch.digamma(both_N))
        ctx.save_for_backward(grad_CG, (softplus_G * t_G).index_add_(0, feature_N, by_dispersion_N))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_CG, grad_G = ctx.saved_tensors
        return grad_CG * grad, grad_G * grad, None, None, None


class NegativeBinomial(Likelihood):
    """Counts: negative binomial, with the exponential of what the decoder returns as the mean of e and one dispersion per feature.

    An input times its unit is log(1 + e), where e is the count times a factor of the cell. The smallest e of a cell is taken for one count,
    so that the mean of a count is the mean of e divided by the smallest e. A cell therefore says as much as was counted in it: the few
    counts of a shallow cell do not determine where it lies. Estimated counts with fractions are taken for counts, and a cell of more than
    a million for one of a million.

    References
    ----------
    Lopez et al., Deep generative modeling for single-cell transcriptomics, Nature Methods 15:1053 (2018).
    """

    of_counts = True

    def __init__(self, unit_DG: Tensor) -> None:
        super().__init__(unit_DG)
        self.log_dispersion_G = nn.Parameter(torch.zeros(unit_DG.shape[1]))

    def forward(self, decoded_CG: Tensor, x_CG: Tensor, batch: CellBatch) -> Tensor:
        """See `Likelihood`."""
        count_N, size_C = self._count(batch.rows, batch.domain_C)
        a_CG = decoded_CG.float() + size_C.log()[:, None] - self.log_dispersion_G
        feature_N = batch.rows.feature_N.long()
        place_N = batch.rows.rows() * batch.rows.n_features + feature_N
        total: Tensor = _SummedNegativeBinomial.apply(a_CG, self.log_dispersion_G, count_N, feature_N, place_N)  # type: ignore[no-untyped-call]
        return total

    def expression(self, decoded_CG: Tensor, domain_C: Tensor) -> Tensor:
        """See `Likelihood`."""
        return F.softplus(decoded_CG.float())

    def shift(self, rows: SparseRows, domain_C: Tensor) -> Tensor:
        """See `Likelihood`."""
        count_N, size_C = self._count(rows, domain_C)
        count_G = count_N.new_zeros(rows.n_features).index_add_(0, rows.feature_N.long(), count_N)
        return torch.log((count_G + LEAST_COUNT) / size_C.sum())

    def _count(self, rows: SparseRows, domain_C: Tensor) -> tuple[Tensor, Tensor]:
        """Return the counts above 0, and each cell's factor of them, count / e."""
        row_N, feature_N = rows.rows(), rows.feature_N.long()
        unit_N = self.unit_DG[0, feature_N] if len(self.unit_DG) == 1 else self.unit_DG[domain_C[row_N], feature_N]
        e_N = torch.expm1(rows.value_N * unit_N)
        total_C = e_N.new_zeros(rows.n_rows).index_add_(0, row_N, e_N)
        above_N = torch.where(e_N > 0, e_N, torch.inf)
        least_C = e_N.new_full((rows.n_rows,), torch.inf).scatter_reduce_(0, row_N, above_N, "amin")
        one_C = torch.where(total_C > 0, torch.maximum(least_C, total_C / MAX_TOTAL), 1 / EMPTY)
        return e_N / one_C[row_N], 1 / one_C


LIKELIHOODS: dict[str, type[Likelihood]] = {"bernoulli": Bernoulli, "negative_binomial": NegativeBinomial}


def check_likelihood(name: str, known: Iterable[str] = LIKELIHOODS) -> None:
    """Check that there is a likelihood of that name.

    Raises
    ------
    ValueError
        If there is none.
    """
    if name not in known:
        raise ValueError(f"likelihood={name!r}: allowed are {', '.join(known)}.")
