"""The recipe for RNA counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scalex.cells import Cells
from scalex.preprocess.fitting import FeatureChoice, choose_features, fit_recipe, log_filter, read_names
from scalex.preprocess.preprocessor import Scaling
from scalex.preprocess.recipe import FittedRecipe, identify
from scalex.preprocess.statistics import FeatureStatistics
from scalex.preprocess.variable_features import choose_highly_variable
from scalex.system.settings import Number, Positive, check_call

__all__ = ["RnaRecipe"]

SPIKE_INS = ("ERCC",)
MITOCHONDRIAL = ("MT-", "mt-")


@check_call
@dataclass(frozen=True, kw_only=True)
class RnaRecipe:
    """Counts of RNA: filter, normalize cells to a common total, log1p, choose variable features, scale to [0, 1].

    Parameters
    ----------
    min_features
        Drop cells with fewer detected features.
    min_cells
        Drop features detected in fewer of the remaining cells.
    target_sum
        Counts per cell after normalization. A cell's total covers all features that pass `keep_mt`.
    n_top_features
        Number of highly variable features to use; or names; or a text file with one name per line.
    keep_mt
        Keep features whose name starts with ERCC, MT- or mt-.
    min_cell_per_batch
        Domains with fewer cells do not vote on the variable features.
    scaling
        Divide each feature by its largest value over all cells ("global"), or over the cells of a domain ("domain").
    """

    min_features: Number = 600
    min_cells: Number = 3
    target_sum: Positive = 10_000.0
    n_top_features: FeatureChoice = 2000
    keep_mt: bool = False
    min_cell_per_batch: Number = 10
    scaling: Scaling = "global"

    def fit(self, cells: Cells) -> FittedRecipe:
        """See `Recipe.fit`."""
        names = cells.var.index
        candidates = np.ones(len(names), bool) if self.keep_mt else ~names.str.startswith(SPIKE_INS + MITOCHONDRIAL)
        log_filter("features ERCC*, MT-*, mt-* (keep_mt=false)", len(names), int(candidates.sum()))
        if not candidates.any():
            raise ValueError("keep_mt=false drops all features: each name starts with ERCC, MT- or mt-. Use keep_mt=true.")
        return fit_recipe(
            cells,
            candidates=candidates,
            choose=self._choose,
            min_features=self.min_features,
            min_cells=max(self.min_cells, 1),
            normalization="total",
            target_sum=self.target_sum,
            scaling=self.scaling,
        )

    def identity(self) -> str:
        """See `Recipe.identity`."""
        return identify(self, n_top_features=read_names(self.n_top_features))

    def _choose(self, statistics: FeatureStatistics, names: pd.Index) -> NDArray[np.int64]:
        voting = statistics.n_cells >= max(self.min_cell_per_batch, 1)
        of_domains = statistics.select_domains(voting) if voting.any() else statistics.pool()
        return choose_features(self.n_top_features, names, lambda n_top: choose_highly_variable(of_domains, names, n_top))
