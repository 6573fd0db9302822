"""When the encoder gets corrected latents to learn, and how far it is from them."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalex.model.correction import MOST_CELLS, DomainCorrection, correction_targets, sample_rows
from scalex.nn import VAE
from scalex.nn.batch import CellBatch

__all__ = ["CorrectionPlan", "TrainingCells"]

# A dimension that the model does not use is not blown up.
LEAST_VARIANCE = 1e-3


class TrainingCells(Protocol):
    """What corrections need to know of the cells that are trained on."""

    @property
    def domain(self) -> NDArray[np.int64]:
        """(n_cells,) code of each cell's domain."""
        ...

    @property
    def label(self) -> pd.Categorical | None:
        """(n_cells,) known type of each cell."""
        ...

    def batches(self) -> Iterable[CellBatch]:
        """All cells in chunks; of several processes, this one's share of them."""
        ...

    def batches_of(self, rows: NDArray[np.int64]) -> Iterable[CellBatch]:
        """Some of the cells, ascending, in chunks."""
        ...


class CorrectionPlan:
    """Targets of the encoder: the latents of all cells at some points of the training, less the differences between domains.

    Parameters
    ----------
    shares
        When new targets are due, as shares of the training, rising, each from 0 up to, but not, 1.
    seed
        Of the targets.

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

    def __init__(self, shares: Sequence[float], seed: int) -> None:
        if any(not 0 <= share < 1 for share in shares) or sorted(shares) != list(shares):
            raise ValueError(f"correct_at={list(shares)}: shares of the training are needed, from 0 up to, but not, 1, rising.")
        self._shares = tuple(shares)
        self._seed = seed
        self.n_made = 0
        self.target_NZ: Tensor | None = None
        self._found: DomainCorrection | None = None
        self._encoder: VAE | None = None
        self.variance_Z: Tensor | None = None

    @property
    def complete(self) -> bool:
        """Whether the last targets are there."""
        return self.n_made == len(self._shares)

    def n_due(self, step: int, n_steps: float) -> int:
        """For how many of the shares targets should be there at a step, counted from 0, of `n_steps`."""
        return sum(share * n_steps <= step for share in self._shares)

    def n_draws(self, n_due: int, step: int, n_steps: float, batch_size: int) -> int:
        """How many cells are drawn, each as often as it is drawn, from a step on until the next targets are due or training ends."""
        end = self._shares[n_due] * n_steps if n_due < len(self._shares) else n_steps
        return math.ceil(end - step) * batch_size

    def takes_all(self, n_due: int, step: int, n_steps: float, batch_size: int, n_cells: int) -> bool:
        """Whether all cells are corrected at once: they are few, or drawn so often that it is worth it."""
        return n_cells <= MOST_CELLS or self.n_draws(n_due, step, n_steps, batch_size) >= n_cells

    def n_of_all(self, n_steps: float, batch_size: int, n_cells: int) -> int:
        """How many of the corrections take all cells, in a training that begins."""
        due = [math.ceil(share * n_steps) for share in self._shares]
        return sum(self.takes_all(i + 1, step, n_steps, batch_size, n_cells) for i, step in enumerate(due))

    def sample(self, domain_N: Tensor) -> Tensor:
        """Rows of the cells in whose latents differences between domains are found, ascending."""
        return sample_rows(domain_N, torch.Generator().manual_seed(self._seed))

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
        found = DomainCorrection.found(latent_MZ, domain_M, row_M, seed=self._seed, attract=self.n_made == 0)
        self.n_made, self.target_NZ, self._found = n_due, None, found
        self.variance_Z = latent_MZ.var(0, correction=0).clamp(min=LEAST_VARIANCE)
        self._encoder = _frozen(encoder)
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
            self._encoder = _frozen(net)
            self._encoder.load_state_dict(plain["encoder"])


def _frozen(net: VAE) -> VAE:
    return copy.deepcopy(net).eval().requires_grad_(requires_grad=False)
