"""How decoded expression agrees with the observed one, feature by feature."""

from __future__ import annotations

import logging
from typing import NamedTuple, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

__all__ = ["ImputationFit"]

logger = logging.getLogger(__name__)

# Decoded values that are squared at a time.
ROWS_PER_PIECE = 1024


class ImputationFit(NamedTuple):
    """Sums over cells, from which each feature's regression of the observed on the decoded expression follows.

    Attributes
    ----------
    n_cells
        Number of cells.
    sum_5G
        (5, n_features) float64: sums of the decoded and the observed expression, of their squares, and of their product.
    """

    n_cells: int
    sum_5G: NDArray[np.float64]

    @classmethod
    def of(cls, decoded: NDArray[np.float32], observed: sparse.csr_matrix) -> Self:
        """Return the sums over some cells, (n_cells, n_features) each."""
        sums = np.zeros((5, decoded.shape[1]))
        for start in range(0, len(decoded), ROWS_PER_PIECE):
            predicted = decoded[start : start + ROWS_PER_PIECE].astype(np.float64)
            seen = observed[start : start + ROWS_PER_PIECE].astype(np.float64)
            terms = (predicted, seen, np.square(predicted), seen.multiply(seen), seen.multiply(predicted))
            sums += np.vstack([np.asarray(term.sum(0)).ravel() for term in terms])
        return cls(len(decoded), sums)

    def add(self, other: Self) -> Self:
        """Return the sums over the cells of both."""
        return self._replace(n_cells=self.n_cells + other.n_cells, sum_5G=self.sum_5G + other.sum_5G)

    def add_to(self, var: pd.DataFrame, measured: NDArray[np.bool_], cells: str) -> pd.DataFrame:
        """Return the annotation of the features with the columns of `describe`, and log their medians. `cells` says over which cells."""
        described = self.describe(measured).set_axis(var.index)
        logger.info(
            "Imputed %s features: the median slope of observed on decoded expression is %.2f, the median correlation %.2f, over %s "
            "(var has those of each feature)", f"{len(var):,}", *described.median(), cells,
        )  # fmt: skip
        return var.assign(**dict(described.items()))

    def describe(self, measured: NDArray[np.bool_]) -> pd.DataFrame:
        """Return "impute_slope" and "impute_correlation" of each feature.

        Parameters
        ----------
        measured
            (n_features,) whether the cells have the feature.

        Returns
        -------
        DataFrame
            The slope of the least-squares line of the observed on the decoded values over the cells, 1 where decoded differences are as
            large as observed ones, and their Pearson correlation. Missing where a feature was not measured or does not vary.
        """
        decoded, observed, decoded_2, observed_2, product = self.sum_5G / max(self.n_cells, 1)
        covariance = product - decoded * observed
        variances = decoded_2 - decoded**2, observed_2 - observed**2
        # Differences of equal sums are only nearly 0.
        varies = measured & (variances[0] > 1e-9 * decoded_2) & (variances[1] > 1e-9 * observed_2)
        with np.errstate(invalid="ignore", divide="ignore"):
            slope, correlation = covariance / variances[0], covariance / np.sqrt(variances[0] * variances[1])
        return pd.DataFrame({"impute_slope": np.where(varies, slope, np.nan), "impute_correlation": np.where(varies, correlation, np.nan)})
