"""When the encoder gets corrected latents to learn, and how far it is from them."""

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
from scalex.model.correction import MOST_CELLS, DomainCorrection, correction_targets, sample_rows
from scalex.model.inference import embed
from scalex.nn import VAE, n_processes, summed
from scalex.nn.batch import CellBatch

__all__ = ["CorrectionPlan", "check_labels"]

logger = logging.getLogger(__name__)

# A dimension that the model does not use is not blown up.
LEAST_VARIANCE = 1e-3


def check_labels(cells: TrainingCells | None) -> None:
    """See that there are known types, and log how many.

    Raises
    ------
    ValueError
        If there are none.
    """
    label = None if cells is None else cells.label
    if label is None:
        raise ValueError(
            "model.use_labels=true, and no cell has a known type: name the column of obs that has them (dataset.label_key), or use "
            "another model (model=scalex)."
        )
    known = label.codes[label.codes >= 0]
    logger.info("Learns from %d types, known of %s of %s cells", len(np.unique(known)), f"{len(known):,}", f"{len(label):,}")


class CorrectionPlan:
    """Targets of the encoder: the latents of all cells at some points of the training, less the differences between domains.

    Parameters
    ----------
    shares
        When new targets are due, as shares of the training, rising, each from 0 up to, but not, 1.
    seed
        Of the targets.
    use_labels
        Whether the known types of cells take part. All cells are corrected at once then.

    Attributes
    ----------
    n_made : int
        For how many of the shares targets were made.
    target_NZ : Tensor or None
        (n_cells, n_latent) latents that the encoder is drawn to; None before the first correction, and while they are found for each
        minibatch alone (`make_from_sample`).
    variance_Z : Tensor or None
        (n_latent,) variance of the latents when they were corrected.

    Raises
    ------
    ValueError
        If the shares are not as described.
    """

    def __init__(self, shares: Sequence[float], seed: int, *, use_labels: bool = False) -> None:
        if any(not 0 <= share < 1 for share in shares) or sorted(shares) != list(shares):
            raise ValueError(f"correct_at={list(shares)}: shares of the training are needed, from 0 up to, but not, 1, rising.")
        self._shares = tuple(shares)
        self._seed = seed
        self._use_labels = use_labels
        self.n_made = 0
        self.target_NZ: Tensor | None = None
        self._found: DomainCorrection | None = None
        self._encoder: VAE | None = None
        self.variance_Z: Tensor | None = None

    @property
    def complete(self) -> bool:
        """Whether the last targets are there."""
        return self.n_made == len(self._shares)

    def count_due(self, step: int, n_steps: float) -> int:
        """For how many of the shares targets should be there at a step, counted from 0, of `n_steps`."""
        return sum(share * n_steps <= step for share in self._shares)

    def count_draws(self, n_due: int, step: int, n_steps: float, batch_size: int) -> int:
        """How many cells are drawn, each as often as it is drawn, from a step on until the next targets are due or training ends."""
        end = self._shares[n_due] * n_steps if n_due < len(self._shares) else n_steps
        return math.ceil(end - step) * batch_size

    def takes_all(self, n_due: int, step: int, n_steps: float, batch_size: int, n_cells: int) -> bool:
        """Whether all cells are corrected at once: types take part, the cells are few, or they are drawn so often that it is worth it."""
        return self._use_labels or n_cells <= MOST_CELLS or self.count_draws(n_due, step, n_steps, batch_size) >= n_cells

    def n_embeddings(self, n_steps: float, batch_size: int, n_cells: int) -> int:
        """How often a training embeds all cells, for its corrections."""
        due = [math.ceil(share * n_steps) for share in self._shares]
        return sum(self.takes_all(i + 1, step, n_steps, batch_size, n_cells) for i, step in enumerate(due))

    def sample(self, domain_N: Tensor) -> Tensor:
        """Rows of the cells in whose latents differences between domains are found, ascending."""
        return sample_rows(domain_N, torch.Generator().manual_seed(self._seed))

    @torch.no_grad()
    def update(self, n_due: int, vae: VAE, cells: TrainingCells | None, trainer: Trainer, batch_size: int) -> None:
        """Embed the cells, or a sample if few of them will be drawn, and make new targets; all processes get the same.

        Parameters
        ----------
        n_due
            What `n_made` becomes.
        vae
            The network as it is now.
        cells
            The training cells.
        trainer
            Says which step it is, and lets processes talk.
        batch_size
            Most cells in a training minibatch.

        Raises
        ------
        ValueError
            If there are no training cells.
        """
        if cells is None:
            raise ValueError(
                "The latents of the cells are to be corrected (correct_at), and set_trained_on was given no cells: give it the data module."
            )
        start, domain_N = time.monotonic(), torch.from_numpy(cells.domain)
        if self.takes_all(n_due, trainer.global_step, trainer.estimated_stepping_batches, batch_size, len(domain_N)):
            n_embedded, moved = len(domain_N), self._update_from_all(n_due, vae, cells, domain_N, trainer)
        else:
            n_embedded, moved = self._update_from_sample(n_due, vae, cells, domain_N, trainer)
        if n_processes() > 1:
            self.load_plain(trainer.strategy.broadcast(self.to_plain()), vae)
        self.to(vae.hidden.weight.device)
        logger.info(
            "Step %s: corrected the latents of %s cells for their domains in %.1f s; they move by %.2f of their spread",
            f"{trainer.global_step:,}", f"{n_embedded:,}", time.monotonic() - start, moved,
        )  # fmt: skip

    def _update_from_all(self, n_due: int, vae: VAE, cells: TrainingCells, domain_N: Tensor, trainer: Trainer) -> float:
        latent_NZ = torch.zeros(len(domain_N), vae.heads.out_features // 2, device=vae.hidden.weight.device)
        for batch, latent_CZ in embed(vae, cells.batches()):
            latent_NZ[batch.row_C] = latent_CZ
        # Each process embeds its share of the chunks.
        latent_NZ = summed(latent_NZ).cpu()
        label_N = None
        if self._use_labels:
            assert cells.label is not None
            label_N = torch.from_numpy(cells.label.codes.astype(np.int64))
        return self.make(latent_NZ, domain_N, n_due, label_N) if trainer.is_global_zero else 0.0

    def _update_from_sample(self, n_due: int, vae: VAE, cells: TrainingCells, domain_N: Tensor, trainer: Trainer) -> tuple[int, float]:
        """Size of the sample, and how far its cells move."""
        row_M = self.sample(domain_N)
        if not trainer.is_global_zero:
            return len(row_M), 0.0
        latent_MZ = torch.cat([found.latent_CZ for found in embed(vae, cells.batches_of(row_M.numpy()))]).cpu()
        return len(row_M), self.make_from_sample(vae, latent_MZ, domain_N[row_M], row_M, n_due)

    def make(self, latent_NZ: Tensor, domain_N: Tensor, n_due: int, label_N: Tensor | None = None) -> float:
        """Correct the latents of all cells.

        Parameters
        ----------
        latent_NZ, domain_N, label_N
            As in `scalex.model.correction.correction_targets`.
        n_due
            What `n_made` becomes.

        Returns
        -------
        How far the cells move, root of the mean square, in units of the spread of each dimension.
        """
        variance_Z = latent_NZ.var(0, correction=0).clamp(min=LEAST_VARIANCE)
        target_NZ = correction_targets(latent_NZ, domain_N, seed=self._seed, attract=self.n_made == 0, label_N=label_N)
        self.n_made, self.target_NZ, self.variance_Z = n_due, target_NZ, variance_Z
        self._found = self._encoder = None
        return float(((target_NZ - latent_NZ).square() / variance_Z).mean().sqrt())

    def make_from_sample(self, encoder: VAE, latent_MZ: Tensor, domain_M: Tensor, row_M: Tensor, n_due: int) -> float:
        """Correct the latents of a sample; those of other cells are corrected when they are drawn.

        For so many cells that few of them are drawn before new targets are due: neither the time nor the memory that this takes grows with
        their number.

        Parameters
        ----------
        encoder
            The network as it is now; a copy of it embeds the cells that are drawn.
        latent_MZ, domain_M, row_M
            Latents of the sample, their domains and their rows among all cells.
        n_due
            What `n_made` becomes.

        Returns
        -------
        As `make`, for the sample.
        """
        found = DomainCorrection.fit(latent_MZ, domain_M, row_M, seed=self._seed, attract=self.n_made == 0)
        self.n_made, self.target_NZ, self._found = n_due, None, found
        self.variance_Z = latent_MZ.var(0, correction=0).clamp(min=LEAST_VARIANCE)
        self._encoder = _freeze(encoder)
        return float(((found.targets(latent_MZ, domain_M, row_M) - latent_MZ).square() / self.variance_Z).mean().sqrt())

    def distance(self, mean_CZ: Tensor, x_CG: Tensor, batch: CellBatch) -> Tensor:
        """Sum over cells of the squared distance to their targets, in units of the variance of each dimension; 0 before there are any.

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
        assert self._found is not None
        assert self._encoder is not None
        return self._found.targets(self._encoder.posterior(x_CG).mean_CZ, batch.domain_C, batch.row_C)

    def to(self, device: torch.device) -> None:
        """Move the targets to a device."""
        if self.variance_Z is not None:
            self.variance_Z = self.variance_Z.to(device)
        if self.target_NZ is not None:
            self.target_NZ = self.target_NZ.to(device)
        if self._found is not None and self._encoder is not None:
            self._found = DomainCorrection(*(part.to(device) for part in self._found))
            self._encoder = self._encoder.to(device)

    def to_plain(self) -> dict[str, Any]:
        """As plain values and tensors, for a checkpoint."""
        return {
            "latent_NZ": self.target_NZ,
            "variance_Z": self.variance_Z,
            "n_corrected": self.n_made,
            "found": None if self._found is None else self._found._asdict(),
            "encoder": None if self._encoder is None else self._encoder.state_dict(),
        }

    def load_plain(self, plain: dict[str, Any], net: VAE) -> None:
        """Take what `to_plain` gave; `net` is a network of the same sizes."""
        self.n_made, self.target_NZ, self.variance_Z = plain["n_corrected"], plain["latent_NZ"], plain["variance_Z"]
        # Not there in checkpoints of before this was.
        self._found = self._encoder = None
        if plain.get("found") is not None:
            self._found = DomainCorrection(**plain["found"])
            self._encoder = _freeze(net)
            self._encoder.load_state_dict(plain["encoder"])


def _freeze(net: VAE) -> VAE:
    return copy.deepcopy(net).eval().requires_grad_(requires_grad=False)
