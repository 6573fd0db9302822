"""The network, in torch alone."""

from scalex.nn.dsbn import DomainBatchNorm
from scalex.nn.loss import kl_divergence, reconstruction_loss
from scalex.nn.sparse_rows import SparseRows
from scalex.nn.vae import VAE, HiddenStatistics, Posterior

__all__ = ["VAE", "DomainBatchNorm", "HiddenStatistics", "Posterior", "SparseRows", "kl_divergence", "reconstruction_loss"]
