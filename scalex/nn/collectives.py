"""Communication between the processes of a training. With one process, nothing is sent."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor, distributed

from scalex.nn.domain_groups import DomainGroups
from scalex.nn.transfer import send

__all__ = ["MinibatchCounts", "all_gather", "n_processes", "rank"]


def n_processes() -> int:
    """Return the number of processes that train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process."""
    return distributed.get_rank() if n_processes() > 1 else 0


def all_sum(values: Tensor) -> Tensor:
    """Sum over all processes in place, and return the sum. It has no gradient."""
    if n_processes() > 1:
        distributed.all_reduce(values)
    return values


def all_gather(values: Tensor) -> Tensor:
    """Stack the values of all processes, (n_processes, *values.shape). The stack has no gradient."""
    if n_processes() == 1:
        return values[None]
    stack = values.new_empty(n_processes(), *values.shape)
    distributed.all_gather(list(stack), values)
    return stack


class MinibatchCounts(NamedTuple):
    """Numbers of cells of a minibatch. They are exchanged once per step, since every exchange stops all processes.

    Attributes
    ----------
    count_RD
        (n_processes, n_domains) int64, cells of each domain in each process.
    n_cells
        Cells of the whole minibatch.
    n_before
        Cells of the minibatch in processes of lower rank.
    groups
        This process's cells by domain. None: not known yet.
    """

    count_RD: Tensor
    n_cells: int
    n_before: int
    groups: DomainGroups | None = None

    @classmethod
    def of(cls, domain_C: Tensor, n_domains: int) -> Self:
        """Count the cells of a minibatch; `domain_C` holds the (n_cells,) int64 codes of this process's cells.

        Codes in the memory of a GPU have to be waited for.
        """
        count_RD = all_gather(torch.bincount(domain_C, minlength=n_domains))
        groups = DomainGroups.of(domain_C, count_RD)
        if len(count_RD) == 1:
            return cls(count_RD, len(domain_C), 0, groups)
        size_R = count_RD.sum(1).tolist()
        return cls(count_RD, sum(size_R), sum(size_R[: rank()]), groups)

    def to(self, device: torch.device) -> Self:
        """Return the counts on a device."""
        groups = None if self.groups is None else self.groups.to(device)
        return self._replace(count_RD=send(self.count_RD, device), groups=groups)

    def by_domain(self) -> Tensor:
        """Return the cells of each domain in the whole minibatch, (n_domains,) int64."""
        return self.count_RD.sum(0)

    def regardless_of_domain(self) -> Self:
        """Return the counts with one domain for all cells."""
        return self._replace(count_RD=self.count_RD.sum(1, keepdim=True), groups=None)

    def domain_entropy(self) -> Tensor:
        """Return the entropy of a cell's domain, a scalar in nats. It is highest where all domains have as many cells."""
        entropy: Tensor = torch.special.entr(self.by_domain() / self.n_cells).sum()
        return entropy
