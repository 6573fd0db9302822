"""How the cells of a minibatch are grouped by domain.

Dimension letters: C cells of a minibatch, D known domains, P domains with two cells or more in the minibatch, S cells of such domains,
R processes.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor

from scalex.nn.transfer import send

__all__ = ["DomainGroups"]


class DomainGroups(NamedTuple):
    """The cells of a minibatch that share their domain with others of it. Only their statistics come from the minibatch.

    It is computed where the codes of the domains are in the memory of the CPU. On a GPU, the sizes of its tensors would have to be waited
    for.

    Attributes
    ----------
    present_P
        (P,) int64, ascending, domains with two cells or more, in all processes together.
    count_RP1
        (R, P, 1) float32, cells of these domains in each process.
    shared_S
        (S,) int64, cells of such domains; None: all cells of all processes are.
    position_S
        (S,) int64, the place of each such cell's domain in `present_P`.
    share_S1
        (S, 1) float32, 1 / number of cells of the domain.
    """

    present_P: Tensor
    count_RP1: Tensor
    shared_S: Tensor | None
    position_S: Tensor
    share_S1: Tensor

    @classmethod
    def of(cls, domain_C: Tensor, count_RD: Tensor) -> Self:
        """Group the cells with these (C,) int64 codes. `count_RD` are the (R, D) numbers of cells of each process and domain."""
        count_D = count_RD.sum(0)
        is_shared_D = count_D > 1
        present_P = torch.nonzero(is_shared_D)[:, 0]
        # All processes come to the same answer, although one may have no cell: they exchange statistics next.
        shared_S = torch.nonzero(is_shared_D[domain_C])[:, 0] if bool((count_D == 1).any()) else None
        domain_S = domain_C if shared_S is None else domain_C[shared_S]
        position_S = (torch.cumsum(is_shared_D, 0) - 1)[domain_S]
        return cls(present_P, count_RD[:, present_P, None].float(), shared_S, position_S, (1 / count_D)[domain_S, None])

    def to(self, device: torch.device) -> Self:
        """Return the groups on a device."""
        shared_S = None if self.shared_S is None else send(self.shared_S, device)
        parts = (send(part, device) for part in (self.position_S, self.share_S1))
        return type(self)(send(self.present_P, device), send(self.count_RP1, device), shared_S, *parts)
