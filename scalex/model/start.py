"""The start of a training: the likelihood, the means of the domains, or the weights of a trained model."""

from __future__ import annotations

import logging

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from scalex.model.base import TrainingCells
from scalex.model.inference import embed
from scalex.nn import VAE, SparseRows
from scalex.nn.batch import CellBatch
from scalex.nn.likelihood import LIKELIHOODS, Likelihood
from scalex.preprocess import Preprocessor

__all__ = ["copy_weights", "make_likelihood", "shift_decoder"]

logger = logging.getLogger(__name__)

# Cells of a domain whose mean the decoder starts from.
N_OF_DOMAIN = 1000


def make_likelihood(name: str, preprocessor: Preprocessor) -> Likelihood:
    """Make the likelihood of inputs. Where they hold no counts of RNA or peaks, it is not one of counts.

    Parameters
    ----------
    name
        A name in `LIKELIHOODS`.
    preprocessor
        The preprocessing of the inputs.
    """
    if LIKELIHOODS[name].of_counts and not preprocessor.keeps_counts:
        logger.info("model.likelihood=%s is for counts of RNA or peaks, which the inputs do not hold: bernoulli is used instead", name)
        name = "bernoulli"
    return LIKELIHOODS[name](torch.from_numpy(preprocessor.unit))


@torch.no_grad()
def shift_decoder(vae: VAE, cells: TrainingCells) -> None:
    """Start the decoder from the mean of each domain, computed from some of its cells.

    Otherwise latents would learn it in the first steps, also where it differs between domains.

    Parameters
    ----------
    vae
        A new network.
    cells
        The training cells.
    """
    rng = np.random.default_rng(0)
    for code in np.unique(cells.domain):
        row_C = np.flatnonzero(cells.domain == code)
        row_C = np.sort(rng.choice(row_C, min(len(row_C), N_OF_DOMAIN), replace=False))
        inputs = sparse.vstack([batch.rows.csr() for batch in cells.batches_of(row_C)], format="csr")
        device = vae.output_norm.bias.device
        domain_C = torch.full((len(row_C),), int(code), device=device)
        vae.output_norm.bias[code] = vae.likelihood.shift(SparseRows.of(inputs).to(device), domain_C)


def copy_weights(trained: VAE, vae: VAE, inputs: sparse.csr_matrix, domain: NDArray[np.int64]) -> None:
    """Copy the weights of a trained network into one that has more domains.

    A new domain takes its running statistics from the decoded latents of its cells. Its shift stands for their mean input, its scale is the
    mean scale of the known domains.

    Parameters
    ----------
    trained
        The trained network.
    vae
        A network of the same sizes, whose first domains are those of `trained`.
    inputs, domain
        (n_cells, n_features) inputs and (n_cells,) domain codes of the new cells.
    """
    n_known = len(trained.output_norm.weight)
    state = {name: value.clone() for name, value in vae.state_dict().items()}
    norm = {name: f"output_norm.{name}" for name in ("weight", "bias", "running_mean", "running_var")}
    for name, value in trained.state_dict().items():
        if name in norm.values():
            state[name][:n_known] = value
        else:
            state[name] = value
    for code in range(n_known, len(vae.output_norm.weight)):
        own = inputs[domain == code]
        row_C = torch.arange(own.shape[0])
        with torch.inference_mode():
            batch = CellBatch(SparseRows.of(own), torch.zeros_like(row_C), row_C)
            decoded_CG = next(embed(trained, [batch])).latent_CZ @ trained.output_weight
        state[norm["running_mean"]][code] = decoded_CG.mean(0)
        state[norm["running_var"]][code] = decoded_CG.var(0) if len(row_C) > 1 else trained.output_norm.running_var.mean(0)
        state[norm["weight"]][code] = trained.output_norm.weight.detach().mean(0)
        state[norm["bias"]][code] = vae.likelihood.shift(SparseRows.of(own), torch.full_like(row_C, code))
    vae.load_state_dict(state)
