"""The recipe for processed values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalex.cells import Cells
from scalex.preprocess.fitting import fit_recipe
from scalex.preprocess.preprocessor import Scaling
from scalex.preprocess.recipe import FittedRecipe, identify
from scalex.system.settings import check_call

__all__ = ["AsIsRecipe"]


@check_call
@dataclass(frozen=True, kw_only=True)
class AsIsRecipe:
    """Processed values: only scaled to [0, 1].

    Parameters
    ----------
    scaling
        Divide each feature by its largest value over all cells ("global"), or over the cells of a domain ("domain").
    """

    scaling: Scaling = "global"

    def fit(self, cells: Cells) -> FittedRecipe:
        """See `Recipe.fit`."""
        candidates = np.ones(len(cells.var), bool)
        return fit_recipe(cells, candidates=candidates, choose=lambda _, names: np.arange(len(names)), scaling=self.scaling)

    def identity(self) -> str:
        """See `Recipe.identity`."""
        return identify(self)
