"""The loss of a minibatch and its terms, and their means over an epoch."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from scalex.nn import MinibatchCounts, n_processes, summed

__all__ = ["EpochLosses", "Losses"]


class Losses(NamedTuple):
    """The loss that is minimized and its terms, scalars, averaged over cells."""

    total: Tensor
    reconstruction: Tensor
    kl: Tensor
    correction: Tensor

    def check_finite(self, where: str, lr: float) -> None:
        """See that training has not diverged.

        Raises
        ------
        FloatingPointError
            If the loss is not finite; the message says where, and which learning rate to lower.
        """
        if not torch.isfinite(self.total):
            raise FloatingPointError(
                f"The loss is {self.total.item()} at {where} (reconstruction {self.reconstruction.item():.4g}, KL {self.kl.item():.4g}). "
                f"Lower model.lr (now {lr}) or set trainer.gradient_clip_val=10."
            )


class EpochLosses(NamedTuple):
    """Sums over the cells that an epoch has seen so far, on the device of the model.

    Attributes
    ----------
    losses
        (4,) sums of the terms of `Losses`; of several processes, this one's summands.
    entropy
        Sum of the entropies of the minibatches' domains, a scalar in nats.
    n_cells
        Number of cells, of all processes.
    """

    losses: Tensor
    entropy: Tensor
    n_cells: int

    @classmethod
    def zero(cls, device: torch.device) -> Self:
        """The sums when an epoch begins."""
        return cls(torch.zeros(len(Losses._fields), device=device), torch.zeros((), device=device), 0)

    def add(self, losses: Losses, counts: MinibatchCounts) -> Self:
        """The sums with those of one more minibatch."""
        n_cells = counts.n_cells
        return self._replace(
            losses=self.losses + torch.stack(losses).detach() * n_cells,
            entropy=self.entropy + counts.domain_entropy() * n_cells,
            n_cells=self.n_cells + n_cells,
        )

    def means(self) -> Losses:
        """Mean losses per cell, the same in all processes."""
        return Losses(*(summed(self.losses.clone()) / self.n_cells))

    def mean_domain_entropy(self) -> float:
        """Mean entropy of a minibatch's domains, in nats."""
        return (self.entropy / self.n_cells).item()

    def to(self, device: torch.device) -> Self:
        """The sums on a device."""
        return self._replace(losses=self.losses.to(device), entropy=self.entropy.to(device))

    def to_plain(self) -> dict[str, Any]:
        """Plain values and tensors for a checkpoint within an epoch, from which each process takes an equal share of the losses."""
        return self._asdict() | {"losses": summed(self.losses.clone()) / n_processes()}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """The inverse of `to_plain`."""
        return cls(*(plain[name] for name in cls._fields))
