"""The variational autoencoder: one encoder for all domains, a decoder normalized per domain.

Dimension letters: C cells of a minibatch, G features, H hidden units, Z latent dimensions, D domains.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from scalex.nn.collectives import MinibatchCounts
from scalex.nn.dsbn import DomainBatchNorm
from scalex.nn.sparse_rows import SparseRows

__all__ = ["VAE", "HiddenStatistics", "Posterior"]


# Share of inputs above 0 below which they are added up one by one.
NEARLY_EMPTY = 1 / 50


class Posterior(NamedTuple):
    """Mean and log-variance of q(z | x), (n_cells, n_latent) float32 each."""

    mean_CZ: Tensor
    logvar_CZ: Tensor

    def sample(self, generator: torch.Generator, counts: MinibatchCounts) -> Tensor:
        """Draw z = mean + std * noise, (n_cells, n_latent).

        Of a minibatch that several processes share, each cell gets the noise that it would get from one process.
        """
        noise_CZ = self.mean_CZ.new_empty(counts.n_cells, self.mean_CZ.shape[1]).normal_(generator=generator)
        noise_CZ = noise_CZ[counts.n_before : counts.n_before + len(self.mean_CZ)]
        return torch.addcmul(self.mean_CZ, noise_CZ, torch.exp(0.5 * self.logvar_CZ))


class HiddenStatistics(NamedTuple):
    """Mean and variance of the encoder's hidden layer before normalization, (n_domains, n_hidden) float32 each."""

    mean_DH: Tensor
    var_DH: Tensor


class VAE(nn.Module):
    """Encoder Linear - batch norm - ReLU - two heads; decoder Linear - domain-specific batch norm - sigmoid.

    Parameters
    ----------
    n_features
        Number of input features G.
    n_domains
        Number of domains D the decoder knows.
    n_latent
        Latent dimensions Z.
    n_hidden
        Hidden units H of the encoder.

    References
    ----------
    Xiong et al., Online single-cell data integration through projecting heterogeneous datasets into a common
    cell-embedding space, Nature Communications 13:6118 (2022).
    """

    def __init__(self, n_features: int, n_domains: int, *, n_latent: int = 10, n_hidden: int = 1024) -> None:
        super().__init__()
        # The layers before a batch norm have no bias: it would be subtracted with the mean.
        self.hidden = nn.Linear(n_features, n_hidden, bias=False)
        # (H, G), but in memory feature by feature: see `_hidden`.
        self.hidden.weight = nn.Parameter(self.hidden.weight.detach().t().contiguous().t())
        # One row for all domains: the encoder is free of them. It is the same layer as the decoder's so that a minibatch
        # of one cell is handled the same way.
        self.hidden_norm = DomainBatchNorm(n_hidden, 1)
        self.heads = nn.Linear(n_hidden, 2 * n_latent)
        # (Z, G) and not (G, Z) as nn.Linear has it: products with so few columns take four times as long.
        self.output_weight = nn.Parameter(nn.Linear(n_latent, n_features, bias=False).weight.detach().t().contiguous())
        self.output_norm = DomainBatchNorm(n_features, n_domains)

    def posterior(self, x_CG: Tensor, counts: MinibatchCounts | None = None) -> Posterior:
        """q(z | x) of cells, with the batch norm as the train or eval mode of this module says.

        Parameters
        ----------
        x_CG
            (n_cells, n_features) float32 in [0, 1].
        counts
            Of the minibatch, if they are known already.
        """
        hidden_CH = self._hidden(x_CG)
        all_as_one = None if counts is None else counts.regardless_of_domain()
        return self._heads(self.hidden_norm(hidden_CH, hidden_CH.new_zeros(len(hidden_CH), dtype=torch.int64), all_as_one))

    def encode(self, hidden_CH: Tensor, domain_C: Tensor, statistics: HiddenStatistics | None = None) -> Tensor:
        """Latent of cells: the posterior mean, (n_cells, n_latent) float32. Never depends on train or eval mode.

        Parameters
        ----------
        hidden_CH
            (n_cells, n_hidden), the output of `hidden`.
        domain_C
            (n_cells,) int64, the rows of `statistics`.
        statistics
            Hidden-layer statistics per domain. None: the running ones, so that a cell's latent depends on that cell alone.
        """
        norm = self.hidden_norm
        mean_DH, var_DH = statistics or (norm.running_mean, norm.running_var)
        return self._heads(norm.normalize(hidden_CH, domain_C, mean_DH, var_DH)).mean_CZ

    def decode(self, z_CZ: Tensor, domain_C: Tensor, counts: MinibatchCounts | None = None) -> Tensor:
        """Logits of the reconstruction, (n_cells, n_features): their sigmoid is scaled expression in [0, 1]."""
        logits_CG: Tensor = self.output_norm(z_CZ @ self.output_weight, domain_C, counts)
        return logits_CG

    def forward(self, x_CG: Tensor, domain_C: Tensor, generator: torch.Generator, counts: MinibatchCounts) -> tuple[Tensor, Posterior]:
        """Logits of the reconstruction of `x_CG` from a sample of its posterior, and the posterior."""
        posterior = self.posterior(x_CG, counts)
        return self.decode(posterior.sample(generator, counts), domain_C, counts), posterior

    def _hidden(self, x_CG: Tensor) -> Tensor:
        """The hidden layer before normalization; of inputs that are nearly all 0, such as peaks, by a sum over the others.

        That takes a fourth of the time of the dense product where 1 of 300 is above 0. It is for processors alone: a GPU would have to
        wait for the number of values.
        """
        if x_CG.device.type != "cpu" or x_CG.count_nonzero() > NEARLY_EMPTY * x_CG.numel():
            hidden_CH: Tensor = self.hidden(x_CG)
            return hidden_CH
        cell_N, feature_N = x_CG.nonzero(as_tuple=True)
        pointer_C1 = torch.searchsorted(cell_N, torch.arange(len(x_CG) + 1))
        return SparseRows(x_CG[cell_N, feature_N], feature_N, pointer_C1, x_CG.shape[1]).times(self.hidden.weight.t())

    def _heads(self, hidden_CH: Tensor) -> Posterior:
        mean_CZ, logvar_CZ = self.heads(torch.relu_(hidden_CH)).float().chunk(2, dim=1)
        return Posterior(mean_CZ, logvar_CZ)
