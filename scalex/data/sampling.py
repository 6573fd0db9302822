"""Which rows form which minibatch: index arithmetic alone, nothing is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from scalex.nn.batch import Sampling

__all__ = ["EpochSampler", "MinibatchSampler", "check_sampling", "minibatches", "n_minibatches"]

# What a sampler draws.
Drawn = TypeVar("Drawn")


def minibatches(domain: NDArray[np.int64], batch_size: int, sampling: Sampling, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Rows of each minibatch of one epoch.

    There are as few minibatches as `batch_size` allows, and their sizes differ by at most one, so that none is incomplete and no
    cell is left out.

    Parameters
    ----------
    domain
        (n_cells,) domain codes.
    batch_size
        Most cells in a minibatch.
    sampling
        "shuffle": all domains mixed, each cell once. "domain": each minibatch from one domain, each cell once, so that domains are
        drawn by size. "balanced": all domains mixed, every domain equally often; cells of large domains are left out and those
        of small domains repeated, anew in each epoch.
    rng
        Source of the order.
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


def n_minibatches(domain: NDArray[np.int64], batch_size: int, sampling: Sampling) -> int:
    """How many there are in an epoch; the parameters are those of `minibatches`."""
    _, size = np.unique(domain, return_counts=True)
    if sampling == "domain":
        return int((-(-size // batch_size)).sum())
    n_cells = len(domain) if sampling == "shuffle" else -(-len(domain) // len(size)) * len(size)
    return -(-n_cells // batch_size)


def check_sampling(sampling: str, batch_size: int) -> None:
    """See that they are allowed.

    Raises
    ------
    ValueError
        If they are not.
    """
    if sampling not in get_args(Sampling):
        raise ValueError(f"sampling={sampling!r}: allowed are {', '.join(get_args(Sampling))}.")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: it must be at least 1.")


def _split(rows: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    return np.array_split(rows, -(-len(rows) // batch_size))


def _repeat(rows: NDArray[np.int64], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`n` of `rows`, each as often as any other, give or take one."""
    rounds = [rng.permutation(rows) for _ in range(-(-n // len(rows)))]
    return np.concatenate(rounds)[:n]


class EpochSampler(Sampler[Drawn]):
    """Draws the minibatches of an epoch, in an order that depends on the seed and on the epoch set last.

    Parameters
    ----------
    domain, batch_size, sampling
        As in `minibatches`.
    seed
        Of the order, with the epoch.
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
        """Draw of each minibatch the share of one of several processes."""
        self._process, self._n_processes = process, n_processes

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self._epoch = epoch

    def skip(self, n_minibatches: int) -> None:
        """Leave out the first minibatches of the epoch that is drawn next: a stopped run has had them."""
        self._n_skipped = n_minibatches

    def __len__(self) -> int:
        return n_minibatches(self._domain, self._batch_size, self._sampling)

    def __iter__(self) -> Iterator[Drawn]:
        # A generator, so that the order is drawn with the first minibatch: on a resume, Lightning asks for the iterator before it sets
        # the epoch.
        n_skipped, self._n_skipped = self._n_skipped, 0
        yield from self._drawn(np.random.default_rng([self._seed, self._epoch]), n_skipped)

    def _drawn(self, rng: np.random.Generator, n_skipped: int) -> Iterator[Drawn]:
        """The minibatches of an epoch but the first ones."""
        raise NotImplementedError


class MinibatchSampler(EpochSampler[NDArray[np.int64]]):
    """`minibatches` as torch's DataLoader wants it."""

    def _drawn(self, rng: np.random.Generator, n_skipped: int) -> Iterator[NDArray[np.int64]]:
        for rows in minibatches(self._domain, self._batch_size, self._sampling, rng)[n_skipped:]:
            yield np.array_split(rows, self._n_processes)[self._process]
