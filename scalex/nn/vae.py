"""The variational autoencoder: one encoder for all domains, a decoder normalized per domain.

Dimension letters: C cells of a minibatch, G features, H hidden units, Z latent dimensions, D domains.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from scalex.nn.collectives import MinibatchCounts
from scalex.nn.dsbn import DomainBatchNorm
from scalex.nn.likelihood import Bernoulli, Likelihood
from scalex.nn.sparse_rows import SparseRows

__all__ = ["VAE", "HiddenStatistics", "Posterior", "draw_noise"]


# Largest share of inputs above 0 for which a sum over them is faster than the dense product.
MAX_SUMMED_SHARE = 1 / 50


class Posterior(NamedTuple):
    """Mean and log-variance of q(z | x), (n_cells, n_latent) float32 each."""

    mean_CZ: Tensor
    logvar_CZ: Tensor

    def sample(self, noise_CZ: Tensor) -> Tensor:
        """Return z = mean + std * noise, (n_cells, n_latent)."""
        return torch.addcmul(self.mean_CZ, noise_CZ, torch.exp(0.5 * self.logvar_CZ))


def draw_noise(n_cells: int, n_latent: int, counts: MinibatchCounts, generator: torch.Generator) -> Tensor:
    """Draw the noise of this process's cells, (n_cells, n_latent) float32. A cell's noise does not depend on the number of processes."""
    noise_CZ = torch.empty(counts.n_cells, n_latent, device=generator.device).normal_(generator=generator)
    return noise_CZ[counts.n_before : counts.n_before + n_cells]


class HiddenStatistics(NamedTuple):
    """Mean and variance of the encoder's hidden layer before normalization, (n_domains, n_hidden) float32 each."""

    mean_DH: Tensor
    var_DH: Tensor


class VAE(nn.Module):
    """Encoder Linear - batch norm - ReLU - two heads; decoder Linear - domain-specific batch norm.

    Parameters
    ----------
    n_features
        Number of input features G.
    n_domains
        Number of domains D of the decoder.
    n_latent
        Latent dimensions Z.
    n_hidden
        Hidden units H of the encoder.
    likelihood
        Likelihood of the inputs given the reconstruction. None: `Bernoulli`, of inputs that are normalized expression themselves.

    References
    ----------
    Xiong et al., Online single-cell data integration through projecting heterogeneous datasets into a common
    cell-embedding space, Nature Communications 13:6118 (2022).
    """

    def __init__(
        self, n_features: int, n_domains: int, *, n_latent: int = 10, n_hidden: int = 1024, likelihood: Likelihood | None = None
    ) -> None:
        super().__init__()
        # Layers before a batch norm have no bias, since the mean is subtracted.
        self.hidden = nn.Linear(n_features, n_hidden, bias=False)
        # The shape is (H, G), but memory holds feature after feature: see `_hidden`.
        self.hidden.weight = nn.Parameter(self.hidden.weight.detach().t().contiguous().t())
        # The encoder does not know the domains. This is the decoder's layer because it accepts minibatches of one cell.
        self.hidden_norm = DomainBatchNorm(n_hidden, 1)
        self.heads = nn.Linear(n_hidden, 2 * n_latent)
        # The shape is (Z, G), and not the (G, Z) of nn.Linear: products with so few columns take four times as long.
        self.output_weight = nn.Parameter(nn.Linear(n_latent, n_features, bias=False).weight.detach().t().contiguous())
        self.output_norm = DomainBatchNorm(n_features, n_domains)
        self.likelihood = likelihood or Bernoulli(torch.ones(1, n_features))

    def posterior(self, x_CG: Tensor, counts: MinibatchCounts | None = None) -> Posterior:
        """Return q(z | x) of cells. Batch normalization follows the train or eval mode.

        Parameters
        ----------
        x_CG
            (n_cells, n_features) float32 in [0, 1].
        counts
            Those of the minibatch, if they are known.
        """
        hidden_CH = self._hidden(x_CG)
        all_as_one = None if counts is None else counts.regardless_of_domain()
        return self._heads(self.hidden_norm(hidden_CH, hidden_CH.new_zeros(len(hidden_CH), dtype=torch.int64), all_as_one))

    def encode(self, hidden_CH: Tensor, domain_C: Tensor, statistics: HiddenStatistics | None = None) -> Tensor:
        """Return the posterior means, (n_cells, n_latent) float32. They do not depend on the train or eval mode.

        Parameters
        ----------
        hidden_CH
            (n_cells, n_hidden) output of `hidden`.
        domain_C
            (n_cells,) int64 rows of `statistics`.
        statistics
            Hidden-layer statistics per domain. None: the running ones, so that a cell's latent depends on that cell alone.
        """
        norm = self.hidden_norm
        mean_DH, var_DH = statistics or (norm.running_mean, norm.running_var)
        return self._heads(norm.normalize(hidden_CH, domain_C, mean_DH, var_DH)).mean_CZ

    def decode(self, z_CZ: Tensor, domain_C: Tensor, counts: MinibatchCounts | None = None) -> Tensor:
        """Return the reconstruction, (n_cells, n_features), on the scale of the likelihood: the logits or the logarithms of means."""
        decoded_CG: Tensor = self.output_norm(z_CZ @ self.output_weight, domain_C, counts)
        return decoded_CG

    def forward(self, x_CG: Tensor, domain_C: Tensor, noise_CZ: Tensor, counts: MinibatchCounts) -> tuple[Tensor, Posterior]:
        """Return the reconstruction from a sample of the posterior, and the posterior."""
        posterior = self.posterior(x_CG, counts)
        return self.decode(posterior.sample(noise_CZ), domain_C, counts), posterior

    def _hidden(self, x_CG: Tensor) -> Tensor:
        """Return the hidden layer before normalization. On the CPU, very sparse inputs such as peaks are summed over their values above 0.

        With 1 of 300 values above 0, this takes a fourth of the time of the dense product. A GPU would have to wait for the number of
        values, and a compiled step has one way for all minibatches.
        """
        if x_CG.device.type != "cpu" or torch.compiler.is_compiling() or x_CG.count_nonzero() > MAX_SUMMED_SHARE * x_CG.numel():
            hidden_CH: Tensor = self.hidden(x_CG)
            return hidden_CH
        cell_N, feature_N = x_CG.nonzero(as_tuple=True)
        pointer_C1 = torch.searchsorted(cell_N, torch.arange(len(x_CG) + 1))
        return SparseRows(x_CG[cell_N, feature_N], feature_N, pointer_C1, x_CG.shape[1]).times(self.hidden.weight.t())

    def _heads(self, hidden_CH: Tensor) -> Posterior:
        mean_CZ, logvar_CZ = self.heads(torch.relu_(hidden_CH)).float().chunk(2, dim=1)
        return Posterior(mean_CZ, logvar_CZ)
