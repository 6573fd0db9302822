"""The network, in torch alone."""

from scalex.nn.dsbn import DomainBatchNorm
from scalex.nn.loss import kl_divergence, reconstruction_loss
from scalex.nn.processes import n_processes, share_of_minibatch, summed
from scalex.nn.sparse_rows import SparseRows
from scalex.nn.vae import VAE, HiddenStatistics, Posterior

__all__ = [
    "VAE",
    "DomainBatchNorm",
    "HiddenStatistics",
    "Posterior",
    "SparseRows",
    "kl_divergence",
    "n_processes",
    "reconstruction_loss",
    "share_of_minibatch",
    "summed",
]
