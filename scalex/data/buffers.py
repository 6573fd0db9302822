"""Which rows are read together, and which of them form which minibatch: index arithmetic alone, nothing is read.

A file is read fast in runs of contiguous rows. So runs are shuffled over the epoch, as many are read at once as a buffer holds, and
minibatches are drawn within the buffer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scalex.nn.batch import Sampling

__all__ = ["Buffer", "buffers"]

# Each minibatch has an equal share of each segment of its buffer. Several processes share the segments, so that what is in a minibatch
# does not depend on their number, up to this one.
N_SEGMENTS = 8


class Buffer(NamedTuple):
    """Rows that are read together, and the minibatches made of them.

    Attributes
    ----------
    rows
        (n_rows,) int64, ascending, without repeats.
    minibatches
        Positions in `rows`, int64.
    """

    rows: NDArray[np.int64]
    minibatches: list[NDArray[np.int64]]


class _Group(NamedTuple):
    """Rows whose minibatches are made alike: each takes of each stream the rows between two of the stream's cuts."""

    streams: list[NDArray[np.int64]]
    cuts: list[NDArray[np.int64]]


def buffers(
    domain: NDArray[np.int64],
    batch_size: int,
    sampling: Sampling,
    rng: np.random.Generator,
    *,
    run_rows: int,
    buffer_minibatches: int,
    process: int = 0,
    n_processes: int = 1,
) -> Iterator[Buffer]:
    """The buffers of one epoch, in the order of their use.

    Over an epoch there are as many minibatches, of the same sizes and of the same domains, as `scalex.data.minibatches` gives.

    Parameters
    ----------
    domain, batch_size, sampling
        As in `scalex.data.minibatches`.
    rng
        Source of the order; the same on all processes.
    run_rows
        Rows that stay together until they are in a buffer; 1: any rows. With "domain" and "balanced" the rows of a domain are counted.
    buffer_minibatches
        Minibatches of a buffer; the last one may have fewer.
    process, n_processes
        Which process this is, of how many. Each gets its share of each minibatch, and reads those rows alone.
    """
    if sampling == "shuffle":
        groups = [_group([_in_runs(np.arange(len(domain)), run_rows, rng)], batch_size)]
    else:
        members = [np.flatnonzero(domain == code) for code in np.unique(domain)]
        if sampling == "domain":
            groups = [_group([_in_runs(rows, run_rows, rng)], batch_size) for rows in members]
        else:
            share = -(-len(domain) // len(members))
            groups = [_group([_repeated_in_runs(rows, share, run_rows, rng) for rows in members], batch_size)]
    sequence = np.repeat(np.arange(len(groups)), [len(group.cuts[0]) - 1 for group in groups])
    if len(groups) > 1:
        sequence = rng.permutation(sequence)
    used = [0] * len(groups)
    for start in range(0, len(sequence), buffer_minibatches):
        of_buffer = sequence[start : start + buffer_minibatches]
        dealt: dict[int, Iterator[list[NDArray[np.int64]]]] = {}
        for i, n in zip(*np.unique(of_buffer, return_counts=True), strict=True):
            first, last = used[i], used[i] + n
            taken = [rows[cut[first] : cut[last]] for rows, cut in zip(groups[i].streams, groups[i].cuts, strict=True)]
            dealt[i] = _dealt(taken, n, max(N_SEGMENTS, n_processes), rng)
            used[i] = last
        own = np.array_split(np.arange(max(N_SEGMENTS, n_processes)), n_processes)[process]
        minibatches = [np.concatenate([parts[s] for s in own]) for parts in (next(dealt[i]) for i in of_buffer)]
        rows = np.unique(np.concatenate(minibatches))
        yield Buffer(rows, [np.searchsorted(rows, one) for one in minibatches])


def _in_runs(rows: NDArray[np.int64], run_rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The rows, run by run, the runs in random order. They begin at another row each time, so that other rows share a run."""
    start = np.arange(-int(rng.integers(run_rows)), len(rows), run_rows)
    start = rng.permutation(start)
    stop = np.minimum(start + run_rows, len(rows))
    start = np.maximum(start, 0)
    length = stop - start
    position = np.repeat(start - (np.cumsum(length) - length), length) + np.arange(len(rows))
    return rows[position]


def _repeated_in_runs(rows: NDArray[np.int64], n: int, run_rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`n` of the rows, each as often as any other, give or take one."""
    rounds = [_in_runs(rows, run_rows, rng) for _ in range(-(-n // len(rows)))]
    return np.concatenate(rounds)[:n]


def _group(streams: list[NDArray[np.int64]], batch_size: int) -> _Group:
    """As few minibatches as `batch_size` allows, of sizes that differ by at most one, of equal shares of the streams."""
    total = sum(len(rows) for rows in streams)
    n_minibatches = -(-total // batch_size)
    end = np.arange(n_minibatches + 1) * total // n_minibatches
    n = len(streams)
    return _Group(streams, [np.minimum(end // n + (d < end % n), len(rows)) for d, rows in enumerate(streams)])


def _dealt(
    streams: list[NDArray[np.int64]], n_minibatches: int, n_segments: int, rng: np.random.Generator
) -> Iterator[list[NDArray[np.int64]]]:
    """The rows of each minibatch, by segment; a segment is a stretch of each stream, and each minibatch has an equal share of it."""
    stretches = [np.array_split(rows, n_segments) for rows in streams]
    segments = [rng.permutation(np.concatenate([stretch[s] for stretch in stretches])) for s in range(n_segments)]
    ends, extra = [], 0
    for rows in segments:
        least, n_extra = divmod(len(rows), n_minibatches)
        # Who gets the rows that are left over goes round, so that minibatches differ by one in all and not in each segment.
        sizes = least + np.roll(np.arange(n_minibatches) < n_extra, extra)
        extra = (extra + n_extra) % n_minibatches
        ends.append(np.cumsum(sizes)[:-1])
    yield from map(list, zip(*(np.split(rows, end) for rows, end in zip(segments, ends, strict=True)), strict=True))
