"""The choice of rows for each minibatch: index arithmetic only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from scalex.nn.batch import Sampling

__all__ = ["EpochSampler", "MinibatchSampler", "check_sampling", "draw_minibatches", "count_minibatches"]

# The type of what a sampler draws.
Drawn = TypeVar("Drawn")


def draw_minibatches(domain: NDArray[np.int64], batch_size: int, sampling: Sampling, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Return the rows of each minibatch of one epoch.

    An epoch has the fewest minibatches that `batch_size` allows. Their sizes differ by at most one, so that no minibatch is incomplete
    and no cell is dropped.

    Parameters
    ----------
    domain
        (n_cells,) domain codes.
    batch_size
        Largest number of cells in a minibatch.
    sampling
        "shuffle": all domains mixed, each cell once. "domain": each minibatch from one domain, each cell once, so that domains are
        drawn by size. "balanced": all domains mixed, each domain equally often. Each epoch then drops other cells of large domains and
        repeats other cells of small ones.
    rng
        Random generator of the order.
    """
    if sampling == "shuffle":
        return _split(rng.permutation(len(domain)), batch_size)
    members = [np.flatnonzero(domain == code) for code in np.unique(domain)]
    if sampling == "domain":
        parts = [part for rows in members for part in _split(rng.permutation(rows), batch_size)]
        return [parts[i] for i in rng.permutation(len(parts))]
    share = -(-len(domain) // len(members))
    drawn = [_repeat(rows, share, rng) for rows in members]
    return _split(rng.permutation(np.concatenate(drawn)), batch_size)


def count_minibatches(domain: NDArray[np.int64], batch_size: int, sampling: Sampling) -> int:
    """Return the number of minibatches in an epoch. The parameters are those of `draw_minibatches`."""
    _, size = np.unique(domain, return_counts=True)
    if sampling == "domain":
        return int((-(-size // batch_size)).sum())
    n_cells = len(domain) if sampling == "shuffle" else -(-len(domain) // len(size)) * len(size)
    return -(-n_cells // batch_size)


def check_sampling(sampling: str, batch_size: int) -> None:
    """Check the options of sampling.

    Raises
    ------
    ValueError
        If one is not allowed.
    """
    if sampling not in get_args(Sampling):
        raise ValueError(f"sampling={sampling!r}: allowed are {', '.join(get_args(Sampling))}.")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: it must be at least 1.")


def _split(rows: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    return np.array_split(rows, -(-len(rows) // batch_size))


def _repeat(rows: NDArray[np.int64], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return `n` of `rows`, each equally often up to a difference of one."""
    rounds = [rng.permutation(rows) for _ in range(-(-n // len(rows)))]
    return np.concatenate(rounds)[:n]


class EpochSampler(Sampler[Drawn]):
    """Sampler of the minibatches of an epoch. Their order depends on the seed and on the current epoch.

    Parameters
    ----------
    domain, batch_size, sampling
        As in `draw_minibatches`.
    seed
        Seed of the order, together with the epoch.
    """

    def __init__(self, domain: NDArray[np.int64], batch_size: int, sampling: Sampling, seed: int) -> None:
        check_sampling(sampling, batch_size)
        self._domain = domain
        self._batch_size = batch_size
        self._sampling: Sampling = sampling
        self._seed = seed
        self._epoch = 0
        self._process, self._n_processes = 0, 1
        self._n_skipped = 0

    def share(self, process: int, n_processes: int) -> None:
        """Draw only the share of one process in each minibatch."""
        self._process, self._n_processes = process, n_processes

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch. Lightning calls this before each epoch."""
        self._epoch = epoch

    def skip(self, n_minibatches: int) -> None:
        """Skip the first minibatches of the next epoch, which a stopped run has already used."""
        self._n_skipped = n_minibatches

    def __len__(self) -> int:
        return count_minibatches(self._domain, self._batch_size, self._sampling)

    def __iter__(self) -> Iterator[Drawn]:
        # A generator draws the order at the first minibatch. On a resume, Lightning requests the iterator before it sets the epoch.
        n_skipped, self._n_skipped = self._n_skipped, 0
        yield from self._draw(np.random.default_rng([self._seed, self._epoch]), n_skipped)

    def _draw(self, rng: np.random.Generator, n_skipped: int) -> Iterator[Drawn]:
        """Yield the minibatches of an epoch after the skipped ones."""
        raise NotImplementedError


class MinibatchSampler(EpochSampler[NDArray[np.int64]]):
    """`draw_minibatches` as a sampler of torch's DataLoader."""

    def _draw(self, rng: np.random.Generator, n_skipped: int) -> Iterator[NDArray[np.int64]]:
        for rows in draw_minibatches(self._domain, self._batch_size, self._sampling, rng)[n_skipped:]:
            yield np.array_split(rows, self._n_processes)[self._process]
