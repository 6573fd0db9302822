"""Sums over the processes that train together; with one process, nothing happens."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

__all__ = ["n_processes", "share_of_minibatch", "summed"]


def n_processes() -> int:
    """How many train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def summed(values: Tensor) -> Tensor:
    """The sum over all processes, written to `values`. The gradient does not flow through it."""
    if n_processes() > 1:
        distributed.all_reduce(values)
    return values


def share_of_minibatch(n_cells: int, device: torch.device) -> tuple[int, int]:
    """Number of cells of the whole minibatch, and of those among them that processes before this one have.

    Parameters
    ----------
    n_cells
        Cells that this process has.
    device
        Where its tensors are.
    """
    if n_processes() == 1:
        return n_cells, 0
    rank = distributed.get_rank()
    sizes = torch.zeros(n_processes(), dtype=torch.int64, device=device)
    sizes[rank] = n_cells
    found: list[int] = summed(sizes).tolist()
    return sum(found), sum(found[:rank])
