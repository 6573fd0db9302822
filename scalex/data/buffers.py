"""The plan of which rows are read together and form which minibatch: index arithmetic only.

Reading a file is fast in runs of consecutive rows. Therefore runs are shuffled over the epoch, a buffer of runs is read at once, and
minibatches are drawn from the buffer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scalex.data.sampling import count_minibatches, draw_minibatches
from scalex.nn.batch import Sampling

__all__ = ["Buffer", "plan_buffers"]

# Each minibatch takes an equal share of each segment of its buffer. Processes share the segments, so that minibatches do not depend on
# the number of processes up to this number.
N_SEGMENTS = 8


class Buffer(NamedTuple):
    """Rows that are read together, and their minibatches.

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
    """Rows of which each minibatch takes, from each stream, those between two cuts of the stream."""

    streams: list[NDArray[np.int64]]
    cuts: list[NDArray[np.int64]]


def plan_buffers(
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
    """Yield the buffers of one epoch, in the order of use.

    The number, sizes and domains of an epoch's minibatches are those of `scalex.data.draw_minibatches`. If one buffer holds them all,
    their rows are, too.

    Parameters
    ----------
    domain, batch_size, sampling
        As in `scalex.data.draw_minibatches`.
    rng
        Random generator of the order; the same in all processes.
    run_rows
        Number of rows in a run, whose rows stay together up to a buffer. With "domain" and "balanced", the rows of one domain.
    buffer_minibatches
        Number of minibatches in a buffer. The last buffer may have fewer.
    process, n_processes
        Index of this process, and number of processes. Each gets its share of each minibatch, and reads only those rows.
    """
    if count_minibatches(domain, batch_size, sampling) <= buffer_minibatches:
        # One buffer holds all rows, so that minibatches can be those of cells in memory.
        drawn = [np.array_split(rows, n_processes)[process] for rows in draw_minibatches(domain, batch_size, sampling, rng)]
        rows = np.unique(np.concatenate(drawn))
        yield Buffer(rows, [np.searchsorted(rows, one) for one in drawn])
        return
    if sampling == "shuffle":
        groups = [_plan_group([_shuffle_runs(np.arange(len(domain)), run_rows, rng)], batch_size)]
    else:
        members = [np.flatnonzero(domain == code) for code in np.unique(domain)]
        if sampling == "domain":
            groups = [_plan_group([_shuffle_runs(rows, run_rows, rng)], batch_size) for rows in members]
        else:
            share = -(-len(domain) // len(members))
            groups = [_plan_group([_repeat_runs(rows, share, run_rows, rng) for rows in members], batch_size)]
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
            dealt[i] = _deal(taken, n, max(N_SEGMENTS, n_processes), rng)
            used[i] = last
        own = np.array_split(np.arange(max(N_SEGMENTS, n_processes)), n_processes)[process]
        minibatches = [np.concatenate([parts[s] for s in own]) for parts in (next(dealt[i]) for i in of_buffer)]
        rows = np.unique(np.concatenate(minibatches))
        yield Buffer(rows, [np.searchsorted(rows, one) for one in minibatches])


def _shuffle_runs(rows: NDArray[np.int64], run_rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the rows with their runs in random order. The offset of the runs is random, so that each epoch has other runs."""
    start = np.arange(-int(rng.integers(run_rows)), len(rows), run_rows)
    start = rng.permutation(start)
    stop = np.minimum(start + run_rows, len(rows))
    start = np.maximum(start, 0)
    length = stop - start
    position = np.repeat(start - (np.cumsum(length) - length), length) + np.arange(len(rows))
    return rows[position]


def _repeat_runs(rows: NDArray[np.int64], n: int, run_rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return `n` of the rows, each equally often up to a difference of one."""
    rounds = [_shuffle_runs(rows, run_rows, rng) for _ in range(-(-n // len(rows)))]
    return np.concatenate(rounds)[:n]


def _plan_group(streams: list[NDArray[np.int64]], batch_size: int) -> _Group:
    """Divide the streams into the fewest minibatches that `batch_size` allows. Sizes, and shares of streams, differ by at most one."""
    total = sum(len(rows) for rows in streams)
    n_minibatches = -(-total // batch_size)
    end = np.arange(n_minibatches + 1) * total // n_minibatches
    n = len(streams)
    return _Group(streams, [np.minimum(end // n + (d < end % n), len(rows)) for d, rows in enumerate(streams)])


def _deal(
    streams: list[NDArray[np.int64]], n_minibatches: int, n_segments: int, rng: np.random.Generator
) -> Iterator[list[NDArray[np.int64]]]:
    """Yield the rows of each minibatch by segment. A segment is a stretch of each stream, of which each minibatch has an equal share."""
    stretches = [np.array_split(rows, n_segments) for rows in streams]
    segments = [rng.permutation(np.concatenate([stretch[s] for stretch in stretches])) for s in range(n_segments)]
    ends, extra = [], 0
    for rows in segments:
        least, n_extra = divmod(len(rows), n_minibatches)
        # The remainders rotate over the minibatches, so that their total sizes differ by one, not each segment's.
        sizes = least + np.roll(np.arange(n_minibatches) < n_extra, extra)
        extra = (extra + n_extra) % n_minibatches
        ends.append(np.cumsum(sizes)[:-1])
    yield from map(list, zip(*(np.split(rows, end) for rows, end in zip(segments, ends, strict=True)), strict=True))
