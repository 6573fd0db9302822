"""Losses of a minibatch and their means over an epoch."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from scalex.nn import MinibatchCounts, all_sum, n_processes

__all__ = ["EpochLosses", "Losses"]


class Losses(NamedTuple):
    """The total loss and its terms, scalars averaged over cells."""

    total: Tensor
    reconstruction: Tensor
    kl: Tensor
    correction: Tensor

    def check_finite(self, where: str, lr: float) -> None:
        """Check that training has not diverged.

        Raises
        ------
        FloatingPointError
            If the loss is not finite.
        """
        if not torch.isfinite(self.total):
            raise FloatingPointError(
                f"The loss is {self.total.item()} at {where} (reconstruction {self.reconstruction.item():.4g}, KL {self.kl.item():.4g}). "
                f"Lower model.lr (now {lr}) or set trainer.gradient_clip_val=10."
            )


class EpochLosses(NamedTuple):
    """Sums over the cells of an epoch so far, on the device of the model.

    Attributes
    ----------
    losses
        (4,) sums of the terms of `Losses` in this process.
    entropy
        Sum of the minibatches' domain entropies, weighted by cells, a scalar in nats.
    n_cells
        Number of cells of all processes.
    """

    losses: Tensor
    entropy: Tensor
    n_cells: int

    @classmethod
    def zero(cls, device: torch.device) -> Self:
        """Return the sums at the start of an epoch."""
        return cls(torch.zeros(len(Losses._fields), device=device), torch.zeros((), device=device), 0)

    def add(self, losses: Losses, counts: MinibatchCounts) -> Self:
        """Return the sums with one more minibatch."""
        n_cells = counts.n_cells
        return self._replace(
            losses=self.losses + torch.stack(losses).detach() * n_cells,
            entropy=self.entropy + counts.domain_entropy() * n_cells,
            n_cells=self.n_cells + n_cells,
        )

    def means(self) -> Losses:
        """Return the mean losses per cell over all processes."""
        return Losses(*(all_sum(self.losses.clone()) / self.n_cells))

    def mean_domain_entropy(self) -> float:
        """Return the mean domain entropy of a minibatch, in nats."""
        return (self.entropy / self.n_cells).item()

    def to(self, device: torch.device) -> Self:
        """Return the sums on a device."""
        return self._replace(losses=self.losses.to(device), entropy=self.entropy.to(device))

    def to_plain(self) -> dict[str, Any]:
        """Return plain values and tensors for a checkpoint. Each process that loads them gets an equal share of the losses."""
        return self._asdict() | {"losses": all_sum(self.losses.clone()) / n_processes()}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """Load the result of `to_plain`."""
        return cls(*(plain[name] for name in cls._fields))
