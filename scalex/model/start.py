"""The start of a training from the weights of a trained model."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from scalex.model.inference import embed
from scalex.nn import VAE, SparseRows
from scalex.nn.batch import CellBatch

__all__ = ["copy_weights"]


def copy_weights(trained: VAE, vae: VAE, inputs: sparse.csr_matrix, domain: NDArray[np.int64]) -> None:
    """Copy the weights of a trained network into one that has more domains.

    A new domain takes its running statistics from the decoded latents of its cells. Its shift is the logit of their mean input, its scale
    the mean scale of the known domains.

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
        mean_G = torch.from_numpy(np.asarray(own.mean(0), np.float32).ravel()).clamp(1e-4, 1 - 1e-4)
        state[norm["running_mean"]][code] = decoded_CG.mean(0)
        state[norm["running_var"]][code] = decoded_CG.var(0) if len(row_C) > 1 else trained.output_norm.running_var.mean(0)
        state[norm["weight"]][code] = trained.output_norm.weight.detach().mean(0)
        state[norm["bias"]][code] = torch.logit(mean_G)
    vae.load_state_dict(state)
