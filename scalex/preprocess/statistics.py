"""Sums over cells, per domain and feature. They can be merged in any order and over any number of processes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scalex.preprocess.kernels import add_sums

__all__ = ["FeatureStatistics", "FeatureSums"]


@dataclass(frozen=True)
class FeatureStatistics:
    """Statistics of one pass over the cells. ``+`` merges two of them.

    Attributes
    ----------
    n_cells
        (n_domains,) int64.
    n_detected
        (n_domains, n_features) int64, number of cells in which the feature is not 0.
    total, total_of_squares, total_of_logs
        (n_domains, n_features) float64, sums of the values x, of x² and of log(1 + x).
    maximum
        (n_domains, n_features) float32.
    """

    n_cells: NDArray[np.int64]
    n_detected: NDArray[np.int64]
    total: NDArray[np.float64]
    total_of_squares: NDArray[np.float64]
    total_of_logs: NDArray[np.float64]
    maximum: NDArray[np.float32]

    @classmethod
    def zeros(cls, n_domains: int, n_features: int) -> FeatureStatistics:
        """Return the statistics of no cells."""
        return FeatureSums(n_domains, n_features).statistics()

    @classmethod
    def of(cls, values: sparse.csr_matrix, domain: NDArray[np.int64], n_domains: int) -> FeatureStatistics:
        """Return the statistics of (n_cells, n_features) values >= 0; `domain` is (n_cells,) codes."""
        sums = FeatureSums(n_domains, values.shape[1])
        sums.add(values, np.log1p(values.data), np.arange(len(domain)), domain)
        return sums.statistics()

    def __add__(self, other: FeatureStatistics) -> FeatureStatistics:
        return FeatureStatistics(
            self.n_cells + other.n_cells,
            self.n_detected + other.n_detected,
            self.total + other.total,
            self.total_of_squares + other.total_of_squares,
            self.total_of_logs + other.total_of_logs,
            np.maximum(self.maximum, other.maximum),
        )

    def select_features(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> FeatureStatistics:
        """Return the statistics of the `chosen` features."""
        return FeatureStatistics(
            self.n_cells,
            self.n_detected[:, chosen],
            self.total[:, chosen],
            self.total_of_squares[:, chosen],
            self.total_of_logs[:, chosen],
            self.maximum[:, chosen],
        )

    def select_domains(self, chosen: NDArray[np.bool_]) -> FeatureStatistics:
        """Return the statistics of the `chosen` domains."""
        return FeatureStatistics(
            self.n_cells[chosen],
            self.n_detected[chosen],
            self.total[chosen],
            self.total_of_squares[chosen],
            self.total_of_logs[chosen],
            self.maximum[chosen],
        )

    def pool(self) -> FeatureStatistics:
        """Merge all domains into one."""
        return FeatureStatistics(
            self.n_cells.sum(keepdims=True),
            self.n_detected.sum(0, keepdims=True),
            self.total.sum(0, keepdims=True),
            self.total_of_squares.sum(0, keepdims=True),
            self.total_of_logs.sum(0, keepdims=True),
            self.maximum.max(0, keepdims=True),
        )

    def mean_and_variance(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and unbiased variance, (n_domains, n_features) each. A domain of one cell has variance 0."""
        n_cells = self.n_cells[:, None]
        mean = self.total / n_cells
        variance = (self.total_of_squares / n_cells - mean**2) * (n_cells / np.maximum(n_cells - 1, 1))
        return mean, variance


class FeatureSums:
    """The sums of `FeatureStatistics` while cells are added.

    Parameters
    ----------
    n_domains, n_features
        Numbers of domains and features.
    """

    def __init__(self, n_domains: int, n_features: int) -> None:
        self._n_cells = np.zeros(n_domains, np.int64)
        # The sums of a feature are contiguous, since each value changes all of them.
        self._sums = np.zeros((n_domains, n_features, 4))
        self._maximum = np.zeros((n_domains, n_features), np.float32)

    def add(self, values: sparse.csr_matrix, logs: NDArray[np.float32], rows: NDArray[np.int64], domain: NDArray[np.int64]) -> None:
        """Add cells.

        Parameters
        ----------
        values
            (n_cells, n_features) values >= 0.
        logs
            log(1 + x) of the stored values.
        rows
            Positions of the cells to add.
        domain
            (n_cells,) codes.
        """
        # Domain by domain: the sums of one domain fit into the processor's cache.
        rows = rows[np.argsort(domain[rows], kind="stable")]
        data = values.data.astype(np.float32, copy=False)
        add_sums(data, logs.astype(np.float32, copy=False), values.indices, values.indptr, rows, domain, self._sums, self._maximum)
        self._n_cells += np.bincount(domain[rows], minlength=len(self._n_cells))

    def statistics(self) -> FeatureStatistics:
        """Return the statistics of the cells added so far."""
        n_detected, total, squares, logs = np.ascontiguousarray(np.moveaxis(self._sums, 2, 0))
        return FeatureStatistics(self._n_cells.copy(), n_detected.astype(np.int64), total, squares, logs, self._maximum.copy())
