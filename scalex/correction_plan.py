"""When the encoder gets corrected latents to learn, and how far it is from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scalex.correction import correction_targets

__all__ = ["CorrectionPlan"]

# A dimension that the model does not use is not blown up.
LEAST_VARIANCE = 1e-3


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
        (n_cells, n_latent) latents that the encoder is drawn to; None before the first correction.
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
        self.variance_Z: Tensor | None = None

    @property
    def complete(self) -> bool:
        """Whether the last targets are there."""
        return self.n_made == len(self._shares)

    def n_due(self, step: int, n_steps: float) -> int:
        """For how many of the shares targets should be there at a step, counted from 0, of `n_steps`."""
        return sum(share * n_steps <= step for share in self._shares)

    def make(self, latent_NZ: Tensor, domain_N: Tensor, n_due: int, label_N: Tensor | None = None) -> float:
        """Correct the latents of all cells.

        Parameters
        ----------
        latent_NZ, domain_N, label_N
            As in `scalex.correction.correction_targets`.
        n_due
            What `n_made` becomes.

        Returns
        -------
        How far the cells move, root of the mean square, in units of the spread of each dimension.
        """
        variance_Z = latent_NZ.var(0, correction=0).clamp(min=LEAST_VARIANCE)
        target_NZ = correction_targets(latent_NZ, domain_N, seed=self._seed, attract=self.n_made == 0, label_N=label_N)
        self.n_made, self.target_NZ, self.variance_Z = n_due, target_NZ, variance_Z
        return float(((target_NZ - latent_NZ).square() / variance_Z).mean().sqrt())

    def distance(self, mean_CZ: Tensor, row_C: Tensor) -> Tensor:
        """Sum over cells of the squared distance to their targets, in units of the variance of each dimension; 0 before there are any.

        Parameters
        ----------
        mean_CZ
            (n_cells, n_latent) latents.
        row_C
            (n_cells,) the cells' rows among all.
        """
        if self.target_NZ is None or self.variance_Z is None:
            return mean_CZ.new_zeros(())
        return ((mean_CZ - self.target_NZ[row_C]).square() / self.variance_Z).sum()

    def to(self, device: torch.device) -> None:
        """Move the targets to a device."""
        if self.target_NZ is not None and self.variance_Z is not None:
            self.target_NZ, self.variance_Z = self.target_NZ.to(device), self.variance_Z.to(device)

    def to_plain(self) -> dict[str, Any]:
        """As plain values and tensors, for a checkpoint."""
        return {"latent_NZ": self.target_NZ, "variance_Z": self.variance_Z, "n_corrected": self.n_made}

    def load_plain(self, plain: dict[str, Any]) -> None:
        """Take what `to_plain` gave."""
        self.n_made, self.target_NZ, self.variance_Z = plain["n_corrected"], plain["latent_NZ"], plain["variance_Z"]
