"""Choice of highly variable features from sums over cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scalex.preprocess.statistics import FeatureStatistics

__all__ = ["choose_highly_variable"]

N_BINS = 20


def choose_highly_variable(statistics: FeatureStatistics, names: pd.Index, n_top: int) -> NDArray[np.int64]:
    """Return the positions of the `n_top` most variable features, in the order of `names`.

    The choice equals ``scanpy.pp.highly_variable_genes(flavor="seurat", batch_key=...)`` and is tested against it. It needs only the
    statistics of the normalized values before log1p. Each domain ranks the features by their dispersion relative to features of similar
    mean. Features chosen in more domains come first; mean relative dispersion breaks ties.

    Parameters
    ----------
    statistics
        Statistics of the values scaled to a common total per cell. Every domain votes.
    names
        (n_features,) unique.
    n_top
        Number of features to choose; all, if there are fewer.

    References
    ----------
    Satija et al., Nature Biotechnology 33:495 (2015).
    """
    mean, variance = statistics.mean_and_variance()
    votes = np.zeros(len(names), np.int64)
    dispersions = np.full(mean.shape, np.nan)
    for domain in range(len(mean)):
        detected = statistics.n_detected[domain] > 0
        dispersions[domain] = 0.0
        dispersions[domain, detected] = _relative_dispersion(mean[domain, detected], variance[domain, detected])
        own = dispersions[domain, detected]
        known = np.sort(own[~np.isnan(own)])[::-1]
        cutoff = known[min(n_top, len(known)) - 1] if len(known) else np.inf
        votes[detected] += np.nan_to_num(own, nan=-np.inf) >= cutoff
    n_known = np.sum(~np.isnan(dispersions), axis=0)
    average = np.where(n_known > 0, np.nansum(dispersions, axis=0) / np.maximum(n_known, 1), np.nan)
    # As in scanpy, equal features are in the order of their names.
    table = pd.DataFrame({"votes": votes, "average": average, "position": np.arange(len(names))}, index=names).sort_index()
    table = table.sort_values(["votes", "average"], ascending=False, na_position="last")
    return np.sort(np.asarray(table["position"], np.int64)[:n_top])


def _relative_dispersion(mean: NDArray[np.float64], variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each feature's log dispersion in standard deviations from the mean of its bin; NaN where the dispersion is 0."""
    mean = np.where(mean == 0, 1e-12, mean)
    dispersion = variance / mean
    dispersion[dispersion <= 0] = np.nan
    table = pd.DataFrame({"mean": np.log1p(mean), "dispersion": np.log(dispersion)})
    if len(table) == 0:
        return np.empty(0)
    bins = table.groupby(pd.cut(table["mean"], bins=N_BINS), observed=True)["dispersion"]
    average, deviation = bins.transform("mean"), bins.transform("std")
    # As in scanpy, a feature alone in its bin gets the value 1: (d - 0) / d.
    alone = deviation.isna()
    deviation = deviation.where(~alone, average)
    average = average.where(~alone, 0.0)
    return np.asarray((table["dispersion"] - average) / deviation)
