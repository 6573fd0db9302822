"""The recipe for antibody-derived tags."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalex.cells import Cells
from scalex.preprocess.fitting import fit_recipe
from scalex.preprocess.preprocessor import Scaling
from scalex.preprocess.recipe import FittedRecipe, identify
from scalex.system.settings import Number, check_call

__all__ = ["AdtRecipe"]


@check_call
@dataclass(frozen=True, kw_only=True)
class AdtRecipe:
    """Counts of surface proteins: filter cells, take centred log-ratios, scale to [0, 1]. All proteins are used.

    A cell's values are log(1 + x / g), where log g is the mean of log(1 + x) over its proteins, so that 0 stays 0.

    Parameters
    ----------
    min_features
        Drop cells with fewer detected proteins.
    min_cells
        Drop proteins detected in fewer of the remaining cells.
    scaling
        Divide each protein by its largest value over all cells ("global"), or over the cells of a domain ("domain").

    References
    ----------
    Stoeckius et al., Nature Methods 14:865 (2017).
    """

    min_features: Number = 1
    min_cells: Number = 3
    scaling: Scaling = "global"

    def fit(self, cells: Cells) -> FittedRecipe:
        """See `Recipe.fit`."""
        return fit_recipe(
            cells,
            candidates=np.ones(len(cells.var), bool),
            choose=lambda _, names: np.arange(len(names)),
            min_features=self.min_features,
            min_cells=max(self.min_cells, 1),
            normalization="clr",
            scaling=self.scaling,
        )

    def identity(self) -> str:
        """See `Recipe.identity`."""
        return identify(self)
