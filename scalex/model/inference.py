"""Encoding and decoding of cells by a trained network.

Dimension letters: C cells of a chunk, G features, H hidden units, Z latent dimensions, D domains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from lightning import LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

from scalex.model.base import Embedded
from scalex.nn import VAE, HiddenStatistics, all_sum
from scalex.nn.batch import CellBatch

__all__ = ["decode", "embed", "feature_weights", "on_device", "statistics_by_domain"]

# Products of matrices with fewer rows use other kernels, which round differently. Rows of zeros are added up to this number, so that a
# cell's latent does not depend on the number of cells, to the last bit.
MIN_ROWS = 64
# The hidden layer of so many rows stays in the processor's cache.
ROWS_PER_PIECE = 1024


@torch.no_grad()
def embed(
    vae: VAE,
    batches: Iterable[CellBatch],
    statistics: HiddenStatistics | None = None,
    fill_value: NDArray[np.float32] | None = None,
) -> Iterator[Embedded]:
    """Yield the latents of cells chunk by chunk.

    Parameters
    ----------
    vae
        The network, on any device.
    batches
        The cells.
    statistics
        Hidden-layer statistics of the domains in `batches`. None: the running ones, so that a cell's latent depends on that cell alone.
    fill_value
        (n_features,) added to each row of inputs: values of the missing features, and 0 for the others. None: no feature is missing.
    """
    for batch in batches:
        domain_C = batch.domain_C.to(vae.hidden.weight.device)
        latent_CZ = []
        for rows, hidden_CH in _first_layer(vae, batch, fill_value):
            encoded_CZ = vae.encode(_pad(hidden_CH), _pad(domain_C[rows]), statistics)
            latent_CZ.append(encoded_CZ[: len(hidden_CH)].float())
        yield Embedded(batch, torch.cat(latent_CZ))


@torch.no_grad()
def statistics_by_domain(
    vae: VAE, batches: Iterable[CellBatch], n_domains: int, fill_value: NDArray[np.float32] | None = None, *, shared: bool = True
) -> HiddenStatistics:
    """Return the exact mean and variance of the hidden layer per domain. Sums are in float64, so that chunks and order do not matter.

    With `shared`, `batches` is this process's share, and the sums are over all processes. The other parameters are those of `embed`.
    """
    device = vae.hidden.weight.device
    count_D1 = torch.zeros(n_domains, 1, dtype=torch.float64, device=device)
    sums_2DH = torch.zeros(2, n_domains, vae.hidden.out_features, dtype=torch.float64, device=device)
    for batch in batches:
        domain_C = batch.domain_C.to(device)
        count_D1 += torch.bincount(domain_C, minlength=n_domains)[:, None]
        for rows, piece_CH in _first_layer(vae, batch, fill_value):
            hidden_CH = piece_CH.double()
            sums_2DH[0].index_add_(0, domain_C[rows], hidden_CH)
            sums_2DH[1].index_add_(0, domain_C[rows], hidden_CH.square())
    if shared:
        count_D1, sums_2DH = all_sum(count_D1), all_sum(sums_2DH)
    mean_DH = sums_2DH[0] / count_D1.clamp(min=1)
    var_DH = (sums_2DH[1] / count_D1.clamp(min=1) - mean_DH.square()).clamp(min=0)
    # As in training, fewer than two cells are normalized with the running statistics.
    norm, known_D1 = vae.hidden_norm, count_D1 > 1
    mean_DH, var_DH = torch.where(known_D1, mean_DH.float(), norm.running_mean), torch.where(known_D1, var_DH.float(), norm.running_var)
    return HiddenStatistics(mean_DH, var_DH)


@torch.inference_mode()
def decode(vae: VAE, latent: NDArray[np.float32], domain: NDArray[np.int64]) -> NDArray[np.float32]:
    """Decode latents through domains: the expression that the cells would have if they were measured in these domains.

    Parameters
    ----------
    vae
        The network, in eval mode.
    latent
        (n_cells, n_latent) float32.
    domain
        (n_cells,) int64 codes of domains that the network knows.

    Returns
    -------
    (n_cells, n_features) float32, normalized expression before its scaling to [0, 1].
    """
    device = vae.hidden.weight.device
    decoded = np.empty((len(latent), vae.hidden.in_features), np.float32)
    for start in range(0, len(latent), ROWS_PER_PIECE):
        piece = slice(start, start + ROWS_PER_PIECE)
        z_CZ = torch.from_numpy(latent[piece]).to(device)
        domain_C = torch.from_numpy(domain[piece]).to(device)
        decoded_CG = vae.decode(_pad(z_CZ), _pad(domain_C))[: len(z_CZ)]
        decoded[piece] = vae.likelihood.expression(decoded_CG, domain_C).cpu().numpy()
    return decoded


def feature_weights(vae: VAE) -> Tensor:
    """Return how much the encoder uses each feature, (n_features,) with sum 1: column norms of its normalized first layer."""
    norm = vae.hidden_norm
    scale_H = norm.weight[0] * torch.rsqrt(norm.running_var[0] + norm.eps)
    weight_G = (vae.hidden.weight.detach() * scale_H.detach()[:, None]).norm(dim=0)
    share_G: Tensor = weight_G / weight_G.sum()
    return share_G


@contextmanager
def on_device(module: LightningModule, trainer: Trainer) -> Iterator[None]:
    """Keep a module in eval mode on the trainer's device and with its precision; move it to the CPU in the end."""
    module.to(trainer.strategy.root_device).eval()
    try:
        with trainer.precision_plugin.predict_step_context():
            yield
    finally:
        module.cpu()


def _first_layer(vae: VAE, batch: CellBatch, fill_value: NDArray[np.float32] | None) -> Iterator[tuple[slice, Tensor]]:
    """Yield the hidden layer of a chunk before normalization, with its rows, piece by piece."""
    weight_GH = vae.hidden.weight.t().contiguous()
    device = weight_GH.device
    if torch.is_autocast_enabled(device.type):
        # torch's autocast does not cover the sparse product.
        weight_GH = weight_GH.to(torch.get_autocast_dtype(device.type))
    fill_H = None if fill_value is None else torch.from_numpy(fill_value).to(weight_GH) @ weight_GH
    for start in range(0, batch.rows.n_rows, ROWS_PER_PIECE):
        piece = slice(start, min(start + ROWS_PER_PIECE, batch.rows.n_rows))
        hidden_CH = batch.rows.cut(piece.start, piece.stop).to(device).times(weight_GH)
        yield piece, hidden_CH if fill_H is None else hidden_CH + fill_H


def _pad(rows: Tensor) -> Tensor:
    """Append rows of zeros up to `MIN_ROWS`."""
    missing = MIN_ROWS - len(rows)
    return rows if missing <= 0 else torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])])
