"""The recipe for peaks of accessible chromatin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scalex.cells import Cells
from scalex.preprocess.fitting import FeatureChoice, choose_features, fit_recipe, read_names
from scalex.preprocess.preprocessor import Scaling
from scalex.preprocess.recipe import FittedRecipe, identify
from scalex.preprocess.statistics import FeatureStatistics
from scalex.system.settings import Number, Positive, check_call

__all__ = ["AtacRecipe"]


@check_call
@dataclass(frozen=True, kw_only=True)
class AtacRecipe:
    """Counts of peaks: filter, binarize, normalize, choose the most accessible peaks, scale to [0, 1].

    Parameters
    ----------
    min_features
        Drop cells with fewer accessible peaks.
    min_cells
        Drop peaks accessible in fewer of the remaining cells.
    binarize
        Replace counts above 0 by 1. The published package uses the counts.
    normalization
        "total": log(1 + count per `target_sum` of the cell). "tfidf": the same, with each peak's counts multiplied by the ratio of all
        cells to the cells in which the peak is accessible.
    target_sum
        Counts per cell after normalization.
    n_top_features
        Number of peaks to use, chosen by the number of cells in which they are accessible; or names; or a text file with one name per line.
    scaling
        Divide each peak by its largest value over all cells ("global"), or over the cells of a domain ("domain").
    """

    min_features: Number = 100
    min_cells: Number = 3
    binarize: bool = False
    normalization: Literal["total", "tfidf"] = "total"
    target_sum: Positive = 10_000.0
    n_top_features: FeatureChoice = 30_000
    scaling: Scaling = "global"

    def fit(self, cells: Cells) -> FittedRecipe:
        """See `Recipe.fit`. With "tfidf" the cells are read twice."""
        return fit_recipe(
            cells,
            candidates=np.ones(len(cells.var), bool),
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
        return choose_features(self.n_top_features, names, lambda n_top: np.sort(most_accessible[:n_top]))
