"""The recipe of peaks of accessible chromatin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scalex.cells import Cells
from scalex.preprocess.fitting import Named, check_options, fitted, named_features, read_names
from scalex.preprocess.normalization import check_normalization
from scalex.preprocess.preprocessor import Scaling
from scalex.preprocess.recipe import FittedRecipe, identify
from scalex.preprocess.statistics import FeatureStatistics

__all__ = ["AtacRecipe"]


@dataclass(frozen=True, kw_only=True)
class AtacRecipe:
    """Counts of peaks: filter, make binary, normalize, choose the most accessible peaks, scale to [0, 1].

    Parameters
    ----------
    min_features
        Cells with fewer accessible peaks are left out.
    min_cells
        Peaks accessible in fewer of the remaining cells are left out.
    binarize
        A peak is accessible or not; otherwise its counts are used, as the published package does.
    normalization
        "total": log(1 + count per `target_sum` of the cell). "tfidf": the same with the count multiplied by the number of cells for each
        cell in which the peak is accessible.
    target_sum
        Counts per cell after normalization.
    n_top_features
        How many peaks to use, those accessible in most cells; or their names; or a text file with one name a line.
    scaling
        Divide each peak by its largest value over all cells ("global"), or over the cells of a domain ("domain").
    """

    min_features: int = 100
    min_cells: int = 3
    binarize: bool = False
    normalization: Literal["total", "tfidf"] = "total"
    target_sum: float = 10_000.0
    n_top_features: Named = 30_000
    scaling: Scaling = "global"

    def __post_init__(self) -> None:
        check_options(self.scaling, target_sum=self.target_sum, n_top_features=self.n_top_features)
        check_normalization(self.normalization, ("total", "tfidf"))

    def fit(self, cells: Cells) -> FittedRecipe:
        """See `Recipe.fit`; with "tfidf" the cells are read twice."""
        return fitted(
            cells,
            named=np.ones(len(cells.var), bool),
            choose=self._choose,
            min_features=self.min_features,
            min_cells=max(self.min_cells, 1),
            normalization=self.normalization,
            target_sum=self.target_sum,
            binarize=self.binarize,
            scaling=self.scaling,
        )

    def identity(self) -> str:
        """See `Recipe.identity`."""
        return identify(self, n_top_features=read_names(self.n_top_features))

    def _choose(self, statistics: FeatureStatistics, names: pd.Index) -> NDArray[np.int64]:
        most_accessible = np.argsort(-statistics.n_detected.sum(0), kind="stable")
        return named_features(self.n_top_features, names, lambda n_top: np.sort(most_accessible[:n_top]))
