"""The network, in torch alone."""

from scalex.nn.collectives import MinibatchCounts, all_sum, n_processes
from scalex.nn.dsbn import DomainBatchNorm
from scalex.nn.likelihood import reconstruction_loss
from scalex.nn.loss import BoundTerms, bound_terms, kl_divergence
from scalex.nn.sparse_rows import SparseRows
from scalex.nn.vae import VAE, HiddenStatistics, Posterior, draw_noise

__all__ = [
    "VAE",
    "BoundTerms",
    "DomainBatchNorm",
    "HiddenStatistics",
    "MinibatchCounts",
    "Posterior",
    "SparseRows",
    "kl_divergence",
    "n_processes",
    "reconstruction_loss",
    "all_sum",
    "bound_terms",
    "draw_noise",
]
