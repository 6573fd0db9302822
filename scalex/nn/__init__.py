"""The network, in torch alone."""

from scalex.nn.dsbn import DomainBatchNorm
from scalex.nn.loss import kl_divergence, reconstruction_loss
from scalex.nn.vae import VAE, HiddenStatistics, Posterior

__all__ = ["VAE", "DomainBatchNorm", "HiddenStatistics", "Posterior", "kl_divergence", "reconstruction_loss"]
