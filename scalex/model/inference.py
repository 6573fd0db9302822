"""What a trained network says of cells: their latents, and what they would show in a domain. The one way for all who ask.

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
from scalex.nn import VAE, HiddenStatistics, summed
from scalex.nn.batch import CellBatch
from scalex.preprocess import Preprocessor

__all__ = ["decode", "embed", "feature_weights", "on_device", "statistics_by_domain"]

# Matrix products of fewer rows run through other kernels, which round differently: below this, rows of zeros are added, so
# that a cell's latent is the same to the last bit whatever the number of cells beside it.
LEAST_ROWS = 64
# Chunks are encoded in pieces whose hidden layer stays in the processor's cache.
PIECE_ROWS = 1024


@torch.no_grad()
def embed(
    vae: VAE,
    batches: Iterable[CellBatch],
    statistics: HiddenStatistics | None = None,
    fill_value: NDArray[np.float32] | None = None,
) -> Iterator[Embedded]:
    """Latents of cells, chunk by chunk.

    Parameters
    ----------
    vae
        The network, wherever it is.
    batches
        The cells.
    statistics
        Of the hidden layer, by the domains of the batches. None: the running ones of training, so that a cell's latent depends on that
        cell alone.
    fill_value
        (n_features,) to be added to each row of inputs: what stands for the features that the cells lack. None: nothing.
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
    """Exact mean and variance of the hidden layer per domain, in float64 so that chunks and order do not matter.

    Of several processes each has some of the chunks, and all get the same; without `shared` each has all chunks, and they do not talk. The
    parameters are those of `embed`.
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
        count_D1, sums_2DH = summed(count_D1), summed(sums_2DH)
    mean_DH = sums_2DH[0] / count_D1.clamp(min=1)
    var_DH = (sums_2DH[1] / count_D1.clamp(min=1) - mean_DH.square()).clamp(min=0)
    # Fewer than two cells have no variance: the running statistics stand in, as in training.
    norm, known_D1 = vae.hidden_norm, count_D1 > 1
    mean_DH, var_DH = torch.where(known_D1, mean_DH.float(), norm.running_mean), torch.where(known_D1, var_DH.float(), norm.running_var)
    return HiddenStatistics(mean_DH, var_DH)


@torch.inference_mode()
def decode(vae: VAE, preprocessor: Preprocessor, latent: NDArray[np.float32], domain: NDArray[np.int64]) -> NDArray[np.float32]:
    """Decode latents: what the cells would show if they were measured in the given domains.

    Parameters
    ----------
    vae
        The network, in eval mode.
    preprocessor
        What its inputs were made by.
    latent
        (n_cells, n_latent) float32.
    domain
        (n_cells,) int64, codes of the domains that the network knows.

    Returns
    -------
    (n_cells, n_features) float32, in the units of normalized expression: the scaling to [0, 1] is undone.
    """
    device = vae.hidden.weight.device
    maximum = preprocessor.maximum if preprocessor.scaling == "domain" else preprocessor.maximum.max(0, keepdims=True)
    # As in scaling, a maximum of 0 counts as 1.
    unit_DG = torch.from_numpy(np.where(maximum > 0, maximum, np.float32(1))).to(device)
    decoded = np.empty((len(latent), len(preprocessor.features)), np.float32)
    for start in range(0, len(latent), PIECE_ROWS):
        piece = slice(start, start + PIECE_ROWS)
        z_CZ = torch.from_numpy(latent[piece]).to(device)
        domain_C = torch.from_numpy(domain[piece]).to(device)
        scaled_CG = torch.sigmoid(vae.decode(_pad(z_CZ), _pad(domain_C)))[: len(z_CZ)]
        decoded[piece] = (scaled_CG * (unit_DG[domain_C] if len(unit_DG) > 1 else unit_DG)).cpu().numpy()
    return decoded


def feature_weights(vae: VAE) -> Tensor:
    """How much the encoder uses each feature, (n_features,) of sum 1: the norms of the columns of its normalized first layer."""
    norm = vae.hidden_norm
    scale_H = norm.weight[0] * torch.rsqrt(norm.running_var[0] + norm.eps)
    weight_G = (vae.hidden.weight.detach() * scale_H.detach()[:, None]).norm(dim=0)
    share_G: Tensor = weight_G / weight_G.sum()
    return share_G


@contextmanager
def on_device(module: LightningModule, trainer: Trainer) -> Iterator[None]:
    """While this lasts, a module is in eval mode, where and as precisely as its trainer computes; then it is on the processor again."""
    module.to(trainer.strategy.root_device).eval()
    try:
        with trainer.precision_plugin.predict_step_context():
            yield
    finally:
        module.cpu()


def _first_layer(vae: VAE, batch: CellBatch, fill_value: NDArray[np.float32] | None) -> Iterator[tuple[slice, Tensor]]:
    """The encoder's hidden layer before normalization, piece by piece."""
    weight_GH = vae.hidden.weight.t().contiguous()
    device = weight_GH.device
    if torch.is_autocast_enabled(device.type):
        # torch's autocast does not know the sparse product.
        weight_GH = weight_GH.to(torch.get_autocast_dtype(device.type))
    filled_H = None if fill_value is None else torch.from_numpy(fill_value).to(weight_GH) @ weight_GH
    for start in range(0, batch.rows.n_rows, PIECE_ROWS):
        piece = slice(start, min(start + PIECE_ROWS, batch.rows.n_rows))
        hidden_CH = batch.rows.cut(piece.start, piece.stop).to(device).times(weight_GH)
        yield piece, hidden_CH if filled_H is None else hidden_CH + filled_H


def _pad(rows: Tensor) -> Tensor:
    """The rows with zeros added where they are fewer than `LEAST_ROWS`."""
    missing = LEAST_ROWS - len(rows)
    return rows if missing <= 0 else torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])])
