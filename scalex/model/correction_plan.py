"""The plan of the corrections: when the encoder gets new targets, and how far its latents are from them."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from torch import Tensor

from scalex.model.base import TrainingCells
from scalex.model.correction import MAX_CELLS, DomainCorrection, correction_targets, sample_rows
from scalex.model.inference import embed
from scalex.nn import VAE, all_sum, n_processes
from scalex.nn.batch import CellBatch

__all__ = ["CorrectionPlan", "check_labels"]

logger = logging.getLogger(__name__)

# Smallest variance of a latent dimension: a dimension that the model does not use is not scaled up.
MIN_VARIANCE = 1e-3


def check_labels(cells: TrainingCells | None) -> None:
    """Check that there are labels, and log how many.

    Raises
    ------
    ValueError
        If there are none.
    """
    label = None if cells is None else cells.label
    if label is None:
        raise ValueError(
            "model.use_labels=true, but no cell has a label: name the column of obs that has them (dataset.label_key), or use "
            "another model (model=scalex)."
        )
    known = label.codes[label.codes >= 0]
    logger.info("Learns from the labels of %s of %s cells (%d types)", f"{len(known):,}", f"{len(label):,}", len(np.unique(known)))


class CorrectionPlan:
    """Targets of the encoder: the latents at some points of the training, without the differences between domains.

    Parameters
    ----------
    shares
        When new targets are due, as rising shares of the training in [0, 1).
    seed
        Seed of the targets.
    use_labels
        Whether the cells' labels take part. All cells are then corrected at once.

    Attributes
    ----------
    n_done : int
        Number of shares whose targets are made.
    target_NZ : Tensor or None
        (n_cells, n_latent) targets; None before the first correction, and where they are computed per minibatch (`correct_sample`).
    variance_Z : Tensor or None
        (n_latent,) variance of the latents at the last correction.

    Raises
    ------
    ValueError
        If the shares are not as described.
    """

    def __init__(self, shares: Sequence[float], seed: int, *, use_labels: bool = False) -> None:
        if any(not 0 <= share < 1 for share in shares) or sorted(shares) != list(shares):
            raise ValueError(f"correct_at={list(shares)}: it must be rising shares of the training, at least 0 and below 1.")
        self._shares = tuple(shares)
        self._seed = seed
        self._use_labels = use_labels
        self.n_done = 0
        self.target_NZ: Tensor | None = None
        self._correction: DomainCorrection | None = None
        self._encoder: VAE | None = None
        self.variance_Z: Tensor | None = None

    @property
    def complete(self) -> bool:
        """Whether the last targets are made."""
        return self.n_done == len(self._shares)

    def count_due(self, step: int, n_steps: float) -> int:
        """Return the number of shares that are due at a step, counted from 0, of `n_steps`."""
        return sum(share * n_steps <= step for share in self._shares)

    def count_draws(self, n_due: int, step: int, n_steps: float, batch_size: int) -> int:
        """Return the number of draws of a cell between a step and the next targets, or the end."""
        end = self._shares[n_due] * n_steps if n_due < len(self._shares) else n_steps
        return math.ceil(end - step) * batch_size

    def takes_all(self, n_due: int, step: int, n_steps: float, batch_size: int, n_cells: int) -> bool:
        """Return whether all cells are corrected at once: labels take part, there are few cells, or most will be drawn."""
        return self._use_labels or n_cells <= MAX_CELLS or self.count_draws(n_due, step, n_steps, batch_size) >= n_cells

    def count_embeddings(self, n_steps: float, batch_size: int, n_cells: int) -> int:
        """Return how often the corrections of a training embed all cells."""
        due = [math.ceil(share * n_steps) for share in self._shares]
        return sum(self.takes_all(i + 1, step, n_steps, batch_size, n_cells) for i, step in enumerate(due))

    def sample(self, domain_N: Tensor) -> Tensor:
        """Return the ascending rows of the cells that a correction is fitted to."""
        return sample_rows(domain_N, torch.Generator().manual_seed(self._seed))

    @torch.no_grad()
    def update(self, n_due: int, vae: VAE, cells: TrainingCells | None, trainer: Trainer, batch_size: int) -> None:
        """Embed the cells, or a sample if few will be drawn, and make new targets, the same in all processes.

        Parameters
        ----------
        n_due
            The new `n_done`.
        vae
            The network.
        cells
            The training cells.
        trainer
            The trainer, for the step and for communication between processes.
        batch_size
            Most cells in a training minibatch.

        Raises
        ------
        ValueError
            If there are no training cells.
        """
        if cells is None:
            raise ValueError("correct_at needs the training cells, and set_trained_on was given none: give it the data module.")
        start, domain_N = time.monotonic(), torch.from_numpy(cells.domain)
        if self.takes_all(n_due, trainer.global_step, trainer.estimated_stepping_batches, batch_size, len(domain_N)):
            n_embedded, moved = len(domain_N), self._update_from_all(n_due, vae, cells, domain_N, trainer)
        else:
            n_embedded, moved = self._update_from_sample(n_due, vae, cells, domain_N, trainer)
        if n_processes() > 1:
            self.load_plain(trainer.strategy.broadcast(self.to_plain()), vae)
        self.to(vae.hidden.weight.device)
        logger.info(
            "Step %s: corrected the latents of %s cells for their domains in %.1f s; they moved by %.2f of their spread",
            f"{trainer.global_step:,}", f"{n_embedded:,}", time.monotonic() - start, moved,
        )  # fmt: skip

    def _update_from_all(self, n_due: int, vae: VAE, cells: TrainingCells, domain_N: Tensor, trainer: Trainer) -> float:
        latent_NZ = torch.zeros(len(domain_N), vae.heads.out_features // 2, device=vae.hidden.weight.device)
        for batch, latent_CZ in embed(vae, cells.batches()):
            latent_NZ[batch.row_C] = latent_CZ
        # Each process embeds its share of the chunks.
        latent_NZ = all_sum(latent_NZ).cpu()
        label_N = None
        if self._use_labels:
            assert cells.label is not None
            label_N = torch.from_numpy(cells.label.codes.astype(np.int64))
        return self.correct_all(latent_NZ, domain_N, n_due, label_N) if trainer.is_global_zero else 0.0

    def _update_from_sample(self, n_due: int, vae: VAE, cells: TrainingCells, domain_N: Tensor, trainer: Trainer) -> tuple[int, float]:
        """Return the size of the sample, and how far its cells move."""
        row_M = self.sample(domain_N)
        if not trainer.is_global_zero:
            return len(row_M), 0.0
        latent_MZ = torch.cat([part.latent_CZ for part in embed(vae, cells.batches_of(row_M.numpy()))]).cpu()
        return len(row_M), self.correct_sample(vae, latent_MZ, domain_N[row_M], row_M, n_due)

    def correct_all(self, latent_NZ: Tensor, domain_N: Tensor, n_due: int, label_N: Tensor | None = None) -> float:
        """Correct the latents of all cells.

        Parameters
        ----------
        latent_NZ, domain_N, label_N
            As in `scalex.model.correction.correction_targets`.
        n_due
            The new `n_done`.

        Returns
        -------
        Root mean square distance that the cells move, in units of the spread of each dimension.
        """
        variance_Z = latent_NZ.var(0, correction=0).clamp(min=MIN_VARIANCE)
        target_NZ = correction_targets(latent_NZ, domain_N, seed=self._seed, attract=self.n_done == 0, label_N=label_N)
        self.n_done, self.target_NZ, self.variance_Z = n_due, target_NZ, variance_Z
        self._correction = self._encoder = None
        return float(((target_NZ - latent_NZ).square() / variance_Z).mean().sqrt())

    def correct_sample(self, encoder: VAE, latent_MZ: Tensor, domain_M: Tensor, row_M: Tensor, n_due: int) -> float:
        """Correct the latents of a sample; other cells are corrected when they are drawn.

        This is for data sets of which few cells are drawn before new targets are due. Time and memory do not grow with the cells.

        Parameters
        ----------
        encoder
            The network, a copy of which embeds the cells that are drawn.
        latent_MZ, domain_M, row_M
            Latents, domain codes and rows of the sample.
        n_due
            The new `n_done`.

        Returns
        -------
        As `correct_all`, for the sample.
        """
        correction = DomainCorrection.fit(latent_MZ, domain_M, row_M, seed=self._seed, attract=self.n_done == 0)
        self.n_done, self.target_NZ, self._correction = n_due, None, correction
        self.variance_Z = latent_MZ.var(0, correction=0).clamp(min=MIN_VARIANCE)
        self._encoder = _freeze(encoder)
        return float(((correction.targets(latent_MZ, domain_M, row_M) - latent_MZ).square() / self.variance_Z).mean().sqrt())

    def distance(self, mean_CZ: Tensor, x_CG: Tensor, batch: CellBatch) -> Tensor:
        """Return the sum over cells of the squared distance to their targets, in units of the variances; 0 before the first correction.

        Parameters
        ----------
        mean_CZ
            (n_cells, n_latent) latents.
        x_CG
            (n_cells, n_features) inputs.
        batch
            The cells.
        """
        if self.variance_Z is None:
            return mean_CZ.new_zeros(())
        return ((mean_CZ - self._targets(x_CG, batch)).square() / self.variance_Z).sum()

    @torch.no_grad()
    def _targets(self, x_CG: Tensor, batch: CellBatch) -> Tensor:
        if self.target_NZ is not None:
            return self.target_NZ[batch.row_C]
        assert self._correction is not None
        assert self._encoder is not None
        # Distances to other cells are differences of large numbers, which mixed precision would round.
        with torch.autocast(x_CG.device.type, enabled=False):
            return self._correction.targets(self._encoder.posterior(x_CG).mean_CZ, batch.domain_C, batch.row_C)

    def to(self, device: torch.device) -> None:
        """Move the targets to a device."""
        if self.variance_Z is not None:
            self.variance_Z = self.variance_Z.to(device)
        if self.target_NZ is not None:
            self.target_NZ = self.target_NZ.to(device)
        if self._correction is not None and self._encoder is not None:
            self._correction = DomainCorrection(*(part.to(device) for part in self._correction))
            self._encoder = self._encoder.to(device)

    def to_plain(self) -> dict[str, Any]:
        """Return plain values and tensors for a checkpoint."""
        return {
            "latent_NZ": self.target_NZ,
            "variance_Z": self.variance_Z,
            "n_corrected": self.n_done,
            "found": None if self._correction is None else self._correction._asdict(),
            "encoder": None if self._encoder is None else self._encoder.state_dict(),
        }

    def load_plain(self, plain: dict[str, Any], net: VAE) -> None:
        """Load the result of `to_plain`; `net` is a network of the same sizes."""
        self.n_done, self.target_NZ, self.variance_Z = plain["n_corrected"], plain["latent_NZ"], plain["variance_Z"]
        # Older checkpoints have no correction of a sample.
        self._correction = self._encoder = None
        if plain.get("found") is not None:
            self._correction = DomainCorrection(**plain["found"])
            self._encoder = _freeze(net)
            self._encoder.load_state_dict(plain["encoder"])


def _freeze(net: VAE) -> VAE:
    return copy.deepcopy(net).eval().requires_grad_(requires_grad=False)
