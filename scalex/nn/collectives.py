"""What the processes that train together say to each other; with one process, nothing happens."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor, distributed

__all__ = ["MinibatchCounts", "gathered", "n_processes", "process", "summed"]


def n_processes() -> int:
    """How many train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def process() -> int:
    """Which of them this is."""
    return distributed.get_rank() if n_processes() > 1 else 0


def summed(values: Tensor) -> Tensor:
    """The sum over all processes, written to `values`. The gradient does not flow through it."""
    if n_processes() > 1:
        distributed.all_reduce(values)
    return values


def gathered(values: Tensor) -> Tensor:
    """The values of all processes, stacked: (n_processes, *values.shape). The gradient does not flow through it."""
    if n_processes() == 1:
        return values[None]
    found = values.new_empty(n_processes(), *values.shape)
    distributed.all_gather(list(found), values)
    return found


class MinibatchCounts(NamedTuple):
    """How many cells a minibatch has. Found once for a step, since every word between processes holds all of them up.

    Attributes
    ----------
    count_RD
        (n_processes, n_domains) int64, cells of each domain that each process has.
    n_cells
        Cells of the whole minibatch.
    n_before
        Those among them that processes before this one have.
    """

    count_RD: Tensor
    n_cells: int
    n_before: int

    @classmethod
    def of(cls, domain_C: Tensor, n_domains: int) -> Self:
        """Those of the minibatch of which this process has cells of these domains, (n_cells,) int64 codes."""
        count_RD = gathered(torch.bincount(domain_C, minlength=n_domains))
        if len(count_RD) == 1:
            return cls(count_RD, len(domain_C), 0)
        size_R = count_RD.sum(1).tolist()
        return cls(count_RD, sum(size_R), sum(size_R[: process()]))

    def by_domain(self) -> Tensor:
        """Cells of each domain in the whole minibatch, (n_domains,) int64."""
        return self.count_RD.sum(0)

    def regardless_of_domain(self) -> Self:
        """The same with one domain for all cells."""
        return self._replace(count_RD=self.count_RD.sum(1, keepdim=True))

    def domain_entropy(self) -> Tensor:
        """Entropy of the domain of a cell, a scalar in nats: how well the domains are mixed in the minibatch."""
        entropy: Tensor = torch.special.entr(self.by_domain() / self.n_cells).sum()
        return entropy
